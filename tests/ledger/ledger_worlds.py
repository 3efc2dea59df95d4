"""Peers with fixed keys, a genesis record, and chains of any length; bytes signed by hand, as a liar would."""

import hashlib
import sqlite3
import struct

import msgspec
from nacl.signing import SigningKey

from coterie.identity import Identity
from coterie.ledger import Block, FullBlock, LedgerStore, Record

ANN, BOB, EVE = (Identity.from_seed(hashlib.sha256(name).digest()) for name in (b"ann", b"bob", b"eve"))
GENESIS_RECORD = Record.make(ANN, "genesis", {"name": "digits", "spec": bytes(32)}, time=1000)
GENESIS = GENESIS_RECORD.id
OTHER_GENESIS = hashlib.sha256(b"another federation").digest()
MEMBERS = {ANN.id, BOB.id, EVE.id}


def following(identity, head, records, genesis=GENESIS, time=None):
    """A block of ``records`` after ``head``."""
    height, previous = (0, genesis) if head is None else (head.height + 1, head.id)
    latest = max([record.time for record in records] + [0 if head is None else head.time])
    return Block.make(identity, genesis, height, previous, records, time=latest if time is None else time)


def chain(identity, length, *, per_block=1, filling=0, head=None, note="", genesis=GENESIS):
    """``length`` full blocks after ``head``; each record bears ``filling`` bytes of its own, and a ``note``."""
    found = []
    for _ in range(length):
        height = 0 if head is None else head.height + 1
        time = max(2000 + height, 0 if head is None else head.time)
        records = []
        for index in range(per_block):
            fill = hashlib.shake_256(f"{identity.id}{height}.{index}".encode()).digest(filling)
            content = {"round": height, "fill": fill, "note": note, "index": index}
            records.append(Record.make(identity, "round", content, time=time))
        head = following(identity, head, records, genesis)
        found.append(FullBlock.of(head, records))
    return found


def filled(path, lengths, **options):
    """A closed store of chains, by identity and length, with the genesis record; returns the full blocks by author."""
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        blocks = {identity.id: chain(identity, length, **options) for identity, length in lengths.items()}
        for author in blocks:
            for start in range(0, len(blocks[author]), 100):
                store.receive(blocks[author][start : start + 100], MEMBERS)
    return blocks


def signed_by_hand(identity, purpose, fields, encode=msgspec.msgpack.encode):
    """A record's or a block's bytes over any ``fields`` at all, with the author's good signature, in ``encode``."""
    unsigned = encode(tuple(fields))
    key = SigningKey(bytes(identity._key))
    name = purpose.encode()
    signature = key.sign(b"coterie" + struct.pack(">H", len(name)) + name + unsigned).signature
    return encode((*fields, signature))


def put_aside(path, *blocks):
    """Put blocks into the file as those that opening a damaged one has found, without the ones before them."""
    with sqlite3.connect(path) as db:
        for full in blocks:
            block = Block.decode(full.block)
            row = (block.author, block.height, full.encode())
            db.execute("INSERT INTO aside (author, height, data) VALUES (?, ?, ?)", row)
    db.close()
