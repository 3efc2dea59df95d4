"""Our transport against a plain TLS 1.3 stream of the standard library, in the same run, between two processes.

    python benchmarks/network.py [--megabytes 50] [--turns 5] [--long 500] [--messages 2000] [--uvloop]

Both send the same number of bytes in the same 1 MiB chunks over 127.0.0.1, to a process that reads them into memory; in
turns, so that a drift of the machine's speed falls out. The plain stream checks nothing; ours hashes the elements on
both sides and hands them on as a snapshot. The clock stops when the receiver's answer is back. Then the round trip of a
small message; one long frame, and by how much the peak memory of both processes grows over what they held before
(Linux); and the bytes that a counting proxy between the two saw, against the elements alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.identity import Certificate, Identity, TransportKey
from coterie.layout import Snapshot
from coterie.network import Codec, Envelope, Frame, MemorySnapshot, Message, message
from coterie.network.grpc import GrpcTransport
from coterie.network.limits import Limits
from coterie.network.members import Members

CHUNK = 1 << 20
MIB = 1 << 20
LAYOUT = "ab" * 32
SEEDS = [bytes([n]) * 32 for n in (1, 2)]
LIMITS = Limits(snapshot_elements={LAYOUT: 1 << 30}, queued_bytes=1 << 32)


@message
class BenchVector(Message, frozen=True):
    vector: Snapshot


@message
class BenchNote(Message, frozen=True):
    text: str


def memory_mib(what: str) -> float:
    """Of this process: VmRSS, or VmHWM, the peak since ``forget_peak`` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def note(text: str) -> Frame:
    return Codec().encode(Envelope("send", 0, BenchNote(text)))


# The other process: receives, and answers with a short message.


async def receiver(folder: Path) -> None:
    identity = Identity.from_seed(SEEDS[1])
    key = TransportKey.new(identity)
    exchange = {"der": key.certificate.der.hex(), "signature": key.certificate.signature.hex()}
    (folder / "theirs.tmp").write_text(json.dumps(exchange))
    (folder / "theirs.tmp").rename(folder / "theirs")
    ours = await appears(folder / "ours")
    certificate = Certificate(
        Identity.from_seed(SEEDS[0]).id, bytes.fromhex(ours["der"]), bytes.fromhex(ours["signature"])
    )
    codec, notes = Codec(), [note("")]

    def receive(sender: str, frame: Frame) -> None:
        got = codec.decode(frame.header, frame.snapshots).message
        if isinstance(got, BenchNote) and got.text == "forget":
            forget_peak()
            transport.post(sender, note(str(memory_mib("VmRSS"))), print)
        elif isinstance(got, BenchNote) and got.text == "peak":
            transport.post(sender, note(str(memory_mib("VmHWM"))), print)
        else:
            transport.post(sender, notes[0], print)

    transport = GrpcTransport(
        identity, key, Members.of(bytes(32), [certificate, key.certificate]), receive, LIMITS, listen="127.0.0.1:0"
    )
    await transport.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    (folder / "pem").write_bytes(key.key_pem + key.certificate.pem)
    context.load_cert_chain(folder / "pem")

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(8), "big")
                held, at = memoryview(bytearray(length)), 0
                while at < length:
                    chunk = await reader.readexactly(min(CHUNK, length - at))
                    held[at : at + len(chunk)] = chunk
                    at += len(chunk)
                writer.write(b"answered")
                await writer.drain()
        except (EOFError, OSError):
            writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0, ssl=context, limit=2 * CHUNK)
    ports = {"grpc": transport.port, "plain": server.sockets[0].getsockname()[1]}
    (folder / "ports.tmp").write_text(json.dumps(ports))
    (folder / "ports.tmp").rename(folder / "ports")
    await asyncio.Event().wait()


async def appears(path: Path) -> Any:
    while not path.exists():
        await asyncio.sleep(0.01)
    return json.loads(path.read_text())


# This process: sends, and measures.


@dataclass
class Counter:
    """A proxy that counts what goes through."""

    port: int = 0
    counted: int = 0

    async def start(self, to: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", to)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

        self.server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            self.counted += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


class Ours:
    def __init__(self, transport: GrpcTransport, to: str) -> None:
        self._transport, self._to, self.codec = transport, to, Codec()
        self.answer: asyncio.Future[Frame] | None = None

    def receive(self, _: str, frame: Frame) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(frame)

    async def ask(self, frame: Frame) -> Frame:
        self.answer = asyncio.get_running_loop().create_future()
        self._transport.post(self._to, frame, self._failed)
        return await self.answer

    def _failed(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(RuntimeError("a frame failed"))

    async def send(self, elements: torch.Tensor) -> None:
        """A fresh snapshot each time: hashing it is part of the work."""
        await self.ask(self.codec.encode(Envelope("send", 0, BenchVector(MemorySnapshot(LAYOUT, elements)))))

    async def small(self) -> None:
        await self.ask(note("x" * 64))

    async def close(self) -> None:
        await self._transport.close()

    async def memory(self, what: str) -> float:
        answer = self.codec.decode((await self.ask(note(what))).header, ()).message
        return float(answer.text) if isinstance(answer, BenchNote) else 0.0


class Plain:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, elements: torch.Tensor) -> None:
        data = elements.numpy().view("u1").data
        self._writer.write(len(data).to_bytes(8, "big"))
        for start in range(0, len(data), CHUNK):
            self._writer.write(data[start : start + CHUNK])
            await self._writer.drain()
        await self._reader.readexactly(8)

    async def small(self) -> None:
        self._writer.write((64).to_bytes(8, "big") + b"x" * 64)
        await self._reader.readexactly(8)


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def measure(folder: Path, arguments: argparse.Namespace) -> None:
    identity = Identity.from_seed(SEEDS[0])
    key = TransportKey.new(identity)
    exchange = {"der": key.certificate.der.hex(), "signature": key.certificate.signature.hex()}
    (folder / "ours.tmp").write_text(json.dumps(exchange))
    (folder / "ours.tmp").rename(folder / "ours")
    theirs = await appears(folder / "theirs")
    ports = await appears(folder / "ports")
    other = Identity.from_seed(SEEDS[1]).id
    certificate = Certificate(other, bytes.fromhex(theirs["der"]), bytes.fromhex(theirs["signature"]))
    members = Members.of(bytes(32), [certificate, key.certificate])

    async def connect(port: int) -> Ours:
        holder: list[Ours] = []
        transport = GrpcTransport(
            identity,
            key,
            members,
            lambda sender, frame: holder[0].receive(sender, frame),
            LIMITS,
            addresses={other: f"127.0.0.1:{port}"},
        )
        holder.append(Ours(transport, other))
        await transport.start()
        await holder[0].small()
        return holder[0]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ours = await connect(ports["grpc"])
    plain = Plain(*await asyncio.open_connection("127.0.0.1", ports["plain"], ssl=context, limit=2 * CHUNK))
    elements = torch.randn(arguments.megabytes * 250_000)
    nbytes = 4 * elements.numel()

    for work in (ours.send, plain.send):
        await work(elements)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(arguments.turns):
        times["plain"].append(await timed(lambda: plain.send(elements)))
        times["ours"].append(await timed(lambda: ours.send(elements)))
    ratios = [p / o for p, o in zip(times["plain"], times["ours"], strict=True)]
    row("", "ours", "plain TLS", "ratio")
    median = {name: statistics.median(taken) for name, taken in times.items()}
    row(
        f"{arguments.megabytes} MB, MB/s",
        f"{nbytes / 1e6 / median['ours']:.0f}",
        f"{nbytes / 1e6 / median['plain']:.0f}",
        f"{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})",
    )

    trips: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(arguments.messages):
        trips["plain"].append(await timed(plain.small))
        trips["ours"].append(await timed(ours.small))
    for name, pick in (("median", statistics.median), ("p99", lambda all_: sorted(all_)[int(0.99 * len(all_))])):
        one, two = (1e6 * pick(trips[which]) for which in ("ours", "plain"))
        row(f"round trip, {name}, us", f"{one:.0f}", f"{two:.0f}", f"{one / two:.1f}")

    if arguments.long:
        long = torch.ones(arguments.long * 250_000)
        size = 4 * long.numel() / MIB
        forget_peak()
        mine, its = memory_mib("VmRSS"), await ours.memory("forget")
        seconds = await timed(lambda: ours.send(long))
        row(f"{arguments.long} MB, MB/s", f"{4 * long.numel() / 1e6 / seconds:.0f}", "", "")
        row("  peak growth, sender, MiB", f"{memory_mib('VmHWM') - mine:.0f}", "", "")
        row("  peak growth, receiver, MiB", f"{await ours.memory('peak') - its:.0f}", f"elements {size:.0f}", "")

    await ours.close()
    proxy = Counter()
    await proxy.start(ports["grpc"])
    counted = await connect(proxy.port)
    before = proxy.counted
    await counted.send(elements)
    await counted.small()
    row("bytes on the wire / elements", f"{(proxy.counted - before) / nbytes:.5f}", "", "")
    await counted.close()


def row(*cells: str) -> None:
    print(f"{cells[0]:32}{cells[1]:>12}{cells[2]:>16}    {cells[3]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--long", type=int, default=500, help="megabytes of the long frame; 0 leaves it out")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--uvloop", action="store_true", help="both processes on uvloop")
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    factory = None
    if arguments.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if arguments.receive is not None:
            runner.run(receiver(arguments.receive))
            return
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, __file__, "--receive", name, *(["--uvloop"] if arguments.uvloop else [])]
            process = subprocess.Popen(command)  # noqa: S603 - this script
            try:
                runner.run(measure(Path(name), arguments))
            finally:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
