"""A node's home: the folder that holds its key, its settings, its ledger and its state.

key.pem  transport.pem   the peer's identity, and its transport certificate with its key: mode 0600
transport.new            the next one, while the others hear of it
node.toml                where it listens, whom it asks first, which data it holds
spec.toml                the federation's spec
ledger.sqlite            membership records, and the peer's own chain
state/                   what its protocol keeps
addresses.json dht.state   where others were last seen
metrics.jsonl result.json models/   what it measured
control.sock node.log
joining                  the federation that a join which is not finished is for; there is no node.toml then
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from cryptography.hazmat.primitives import serialization
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from coterie import spec as specs
from coterie.errors import IdentityError, NetworkError, NodeError, SpecError
from coterie.files import locked, sync_folder, write_file, writing
from coterie.identity import Certificate, Identity, TransportKey
from coterie.network.addresses import Address
from coterie.registry import explain
from coterie.runtime.node.control import SOCKET
from coterie.spec import Spec

_JOINING = "joining"
_PREPARED = "transport.new"
_SOCKET_PATH = 100
"""Bytes that the path of a Unix socket may have: 107 on Linux, 103 elsewhere."""


def _here(text: str) -> str:
    return _checked(text, to_listen=True)


def _checked(text: str, *, to_listen: bool = False) -> str:
    try:
        return str(Address.parse(text, to_listen=to_listen))
    except NetworkError as error:
        raise ValueError(f"{error.what}: {error.remedy}") from None


Listening = Annotated[str, AfterValidator(_here)]
"""``host:port`` of this machine; 0.0.0.0 and [::] stand for all its addresses, port 0 for any."""
Metrics = Annotated[str, AfterValidator(lambda text: _here(text if ":" in text else f"127.0.0.1:{text}"))]
"""As ``Listening``; a port alone is one of 127.0.0.1."""
Endpoint = Annotated[str, AfterValidator(_checked)]
"""``host:port`` to be dialled."""


class NodeTable(BaseModel):
    """``node.toml``: what is this site's own business, and no other member's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    federation: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Id of the genesis record: the federation."""
    listen: Listening | None = None
    """``host:port`` to accept members at; none for a site that can only dial out."""
    announce: Endpoint | None = None
    """``host:port`` at which others reach it, where that is not ``listen``."""
    join: Listening | None = None
    """``host:port`` to accept newcomers at."""
    contacts: list[Endpoint] = []
    """Members' addresses to try first."""
    dht_listen: Listening | None = None
    """``host:port`` (UDP) of this node in the Kademlia table; none: it takes no part in one."""
    dht: list[Endpoint] = []
    """Contacts of that table to begin with; any node of the federation that takes part will do."""
    private_networks: bool = False
    """Whether members are on loopback, private or link-local addresses."""
    metrics: Metrics | None = None
    """``host:port``, or a port on loopback, to give Prometheus this node's figures at; none: nobody is told."""
    compression: Literal["none", "fp16", "int8", "zstd"] = "none"
    """How models are sent to those who can read it: zstd loses nothing; fp16 and int8 round, which swarm refuses."""
    dataset: str | None = None
    """This site's own data, such as ``csv:/data/ward-7.csv``; by default its part of the spec's data set."""
    base: str | None = None
    """The folder that relative paths of the spec start from; by default this home."""
    part: int | None = Field(default=None, ge=0)
    """Which part of the spec's data set, from 0; by default the peer's number among the members."""


class Home:
    """The files of one node."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, identity: Identity, transport: TransportKey, table: NodeTable) -> Home:
        """Make a home without a spec. Raises NodeError where one is already there."""
        home = cls._made(path, identity, transport)
        home.save(table)
        return home

    @classmethod
    def begin(cls, path: Path, identity: Identity | None, federation: bytes) -> Home:
        """The home of one who is to join ``federation``: a key and a certificate, and no settings before ``finish``.

        Where a join of this federation was broken off here, it is taken up again: the peer may have been admitted, and
        nobody but it knows the key. Raises NodeError where the folder holds something else, or another key.
        """
        home, sign = cls(path), path / _JOINING
        if not sign.exists() or (path / "node.toml").exists():
            identity = identity or Identity.generate()
            home = cls._made(path, identity, TransportKey.new(identity))
            home._write(_JOINING, federation.hex().encode())
        elif sign.read_text() != federation.hex() or (identity is not None and identity.id != home.identity.id):
            raise NodeError(
                "a join of another federation, or with another key, was begun here and not finished",
                where=str(path),
                remedy="Name a new folder with --home.",
            )
        return home

    def finish(self, table: NodeTable) -> None:
        """The peer has joined: from now on this is a node's home."""
        self.save(table)
        (self.path / _JOINING).unlink()

    @classmethod
    def _made(cls, path: Path, identity: Identity, transport: TransportKey) -> Home:
        home = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.chmod(0o700)
            taken = any(path.iterdir())
        except OSError as error:
            raise NodeError(
                f"the folder cannot be made: {error.strerror or error}", where=str(path), remedy="Name another --home."
            ) from None
        if taken:
            remedy = "Name a new folder with --home."
            if (path / "node.toml").exists():
                remedy = (
                    f"It is a node's home already: start that with 'coterie node', or {remedy[0].lower()}{remedy[1:]}"
                )
            raise NodeError("the folder is not empty", where=str(path), remedy=remedy)
        identity.save(home.path / "key.pem")
        home.save_transport(transport)
        return home

    @property
    def spec_text(self) -> tuple[str, bytes] | None:
        """The spec as TOML, and the founder's signature; None for a newcomer that has not got it yet."""
        try:
            return (self.path / "spec.toml").read_text("utf-8"), (self.path / "spec.sig").read_bytes()
        except FileNotFoundError:
            return None

    def save_spec(self, text: str, signature: bytes) -> None:
        """Raises OutputError."""
        self._write("spec.sig", signature)
        self._write("spec.toml", text.encode())

    @property
    def spec(self) -> Spec:
        """Raises NodeError where there is none yet, SpecError and PluginError where it cannot be used here."""
        path = self.path / "spec.toml"
        try:
            tables = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise NodeError(
                "the spec has not come yet", where=str(self.path), remedy="Start the node: it asks the others for it."
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"not TOML: {error}", where=str(path), remedy="Bring back the file as it was.") from None
        base = self.table.base
        return specs.check(tables, self.path if base is None else Path(base))

    @property
    def identity(self) -> Identity:
        return Identity.load(self.path / "key.pem")

    @property
    def table(self) -> NodeTable:
        """Raises NodeError where there is no home, SpecError for a wrong setting."""
        path = self.path / "node.toml"
        try:
            return NodeTable(**tomllib.loads(path.read_text()))
        except OSError:
            raise NodeError(
                "this is no node's home", where=str(self.path), remedy="Make one: coterie federation init, or join."
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"not TOML: {error}", where=str(path), remedy="Mend the file.") from None
        except ValidationError as error:
            raise explain(error, str(path), NodeTable.model_fields) from None

    def save(self, table: NodeTable) -> None:
        """Raises OutputError."""
        values: dict[str, Any] = {k: v for k, v in table.model_dump().items() if v is not None}
        self._write("node.toml", tomli_w.dumps(values).encode())

    @property
    def socket(self) -> Path:
        """The control socket: here, or where this path is too long for one, in a folder of this user's for such."""
        path = self.path.resolve() / SOCKET
        if len(os.fsencode(path)) <= _SOCKET_PATH:
            return path
        folder = Path(tempfile.gettempdir()) / f"coterie-{os.getuid()}"
        return folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"

    @property
    def transport(self) -> TransportKey:
        """The certificate that others know, with its key. Raises IdentityError where it is not this peer's."""
        path = self.path / "transport.pem"
        try:
            lines = path.read_bytes()
            key, _, rest = lines.partition(b"-----END PRIVATE KEY-----\n")
            key += b"-----END PRIVATE KEY-----\n"
            serialization.load_pem_private_key(key, None)
            der, signature = (base64.b64decode(part) for part in rest.split())
        except (OSError, ValueError, TypeError):
            raise IdentityError(
                "the transport key cannot be read",
                where=str(path),
                remedy="Bring it back from a copy: others let no other one in. Without one, another member invites a "
                "successor of this peer: coterie federation invite --replaces PEER.",
            ) from None
        certificate = Certificate(self.identity.id, der, signature)
        certificate.check()
        return TransportKey(certificate, key)

    def save_transport(self, transport: TransportKey) -> None:
        """Keep it for the next start: others pin this very certificate. Raises OutputError."""
        self.prepare_transport(transport)
        self.take_prepared_transport()

    def prepare_transport(self, transport: TransportKey) -> None:
        """Write it down without using it yet. Raises OutputError."""
        certificate = transport.certificate
        parts = base64.b64encode(certificate.der), base64.b64encode(certificate.signature)
        content = transport.key_pem + b"\n".join(parts) + b"\n"
        self._write(_PREPARED, content, mode=0o600)

    def take_prepared_transport(self) -> None:
        """Use what was prepared from the next start on. Raises OutputError."""
        with writing(self.path / "transport.pem", "a file of the node's home"):
            (self.path / _PREPARED).replace(self.path / "transport.pem")
            sync_folder(self.path)

    def _write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        with writing(self.path / name, "a file of the node's home"):
            write_file(self.path / name, content, mode)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raise NodeError where another process works in this home; the lock ends with the process."""
        busy = NodeError(
            "a node is at work here already", where=str(self.path), remedy="Stop it first, or name another home."
        )
        with locked(self.path, busy):
            yield
