"""Blocks, evidence of two at one height, and proofs that a record is in one."""

import hashlib
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_worlds import ANN, BOB, GENESIS, OTHER_GENESIS, chain, following, signed_by_hand
from nacl.signing import SigningKey

from coterie.errors import LedgerError
from coterie.ledger import Block, Equivocation, FullBlock, Proof, Record
from coterie.ledger.blocks import MOST_RECORDS

RECORDS = [Record.make(ANN, "round", {"round": number}, time=2000) for number in range(5)]
FIRST = following(ANN, None, RECORDS)
SECOND = following(ANN, FIRST, RECORDS[:2])
FIELDS = (ANN.id, GENESIS, 0, GENESIS, bytes(32), 1, 5)


def with_field(position, value):
    return signed_by_hand(ANN, "block", (*FIELDS[:position], value, *FIELDS[position + 1 :]))


def test_bytes_id_and_signature_are_those_of_the_definition():
    record = RECORDS[0]
    block = Block.make(ANN, GENESIS, 300, bytes(32), [record], time=70000)
    root = hashlib.sha256(b"\x00" + record.encode()).digest()
    fields = b"\xd9\x40" + ANN.id.encode() + b"\xc4\x20" + GENESIS + b"\xcd" + struct.pack(">H", 300)
    fields += b"\xc4\x20" + bytes(32) + b"\xc4\x20" + root + b"\x01" + b"\xce" + struct.pack(">I", 70000)
    signature = SigningKey(bytes(ANN._key)).sign(b"coterie\0\5block\x97" + fields).signature
    assert block.encode() == b"\x98" + fields + b"\xc4\x40" + signature
    assert block.id == hashlib.sha256(b"\x97" + fields).digest()


def test_a_block_comes_back_as_it_was_and_every_bit_counts():
    data = SECOND.encode()
    assert Block.decode(data) == SECOND
    for position in range(len(data)):
        for bit in range(8):
            mutated = bytearray(data)
            mutated[position] ^= 1 << bit
            with pytest.raises(LedgerError):
                Block.decode(bytes(mutated))


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, BOB.id),
        (0, "00" * 32),
        (1, b"short"),
        (1, OTHER_GENESIS),  # and then the block before is not its genesis record
        (2, 1),
        (2, -1),
        (2, 1 << 53),
        (3, bytes(32)),
        (4, None),
        (5, 0),
        (5, MOST_RECORDS + 1),
        (6, 1 << 53),
        (6, 1.0),
    ],
)
def test_fields_out_of_bounds_are_refused_though_signed(position, value):
    assert Block.decode(signed_by_hand(ANN, "block", FIELDS)).height == 0
    with pytest.raises(LedgerError):
        Block.decode(with_field(position, value))


def test_a_records_signature_is_no_blocks():
    with pytest.raises(LedgerError, match="not signed"):
        Block.decode(signed_by_hand(ANN, "record", FIELDS))


@pytest.mark.parametrize(
    "bad",
    [{"records": []}, {"height": -1}, {"height": 1, "previous": GENESIS}, {"genesis": b"short"}, {"time": -1}],
    ids=range(5),
)
def test_nobody_makes_a_block_that_others_refuse(bad):
    good = {"identity": ANN, "genesis": GENESIS, "height": 0, "previous": GENESIS, "records": RECORDS, "time": 5}
    assert Block.make(**good).count == 5
    with pytest.raises(LedgerError):
        Block.make(**good | bad)


def test_a_full_block_comes_back_as_it_was():
    full = FullBlock.of(FIRST, RECORDS)
    assert FullBlock.decode(full.encode()) == full
    assert full.nbytes == len(FIRST.encode()) + sum(len(record.encode()) for record in RECORDS)
    for bad in (b"", b"\x92\xc4\x00", full.encode() + b"\0", msgspec.msgpack.encode([b"x" * 1000, []])):
        with pytest.raises(LedgerError):
            FullBlock.decode(bad)
    with pytest.raises(LedgerError, match="too long"):
        FullBlock.decode(bytes(1 << 20))


def other(time=9999):
    return following(ANN, FIRST, RECORDS[2:], time=time)


def test_two_blocks_for_one_height_are_evidence_that_anybody_can_check():
    evidence = Equivocation.of(SECOND, other())
    assert evidence == Equivocation.of(other(), SECOND)
    assert Equivocation.decode(evidence.encode()) == evidence
    assert evidence.author == ANN.id
    data = evidence.encode()
    for position in range(0, len(data), 3):
        mutated = bytearray(data)
        mutated[position] ^= 1
        with pytest.raises(LedgerError):
            Equivocation.decode(bytes(mutated))


def test_blocks_that_contradict_nothing_are_no_evidence():
    bobs = following(BOB, None, RECORDS)
    elsewhere = Block.make(ANN, OTHER_GENESIS, 0, OTHER_GENESIS, RECORDS, time=2000)
    for one, two in ((FIRST, FIRST), (FIRST, SECOND), (FIRST, bobs), (FIRST, elsewhere)):
        with pytest.raises(LedgerError):
            Equivocation.of(one, two)
    swapped = msgspec.msgpack.encode([*msgspec.msgpack.decode(Equivocation.of(SECOND, other()).encode())[::-1]])
    with pytest.raises(LedgerError, match="smaller id first"):
        Equivocation.decode(swapped)


def test_one_block_signed_twice_is_one_block():
    """A dishonest signer can make two signatures of one text; that is no contradiction."""
    unsigned = msgspec.msgpack.encode(tuple(msgspec.msgpack.decode(SECOND.encode())[:-1]))
    again = msgspec.structs.replace(SECOND, signature=signed_otherwise(b"coterie\0\5block" + unsigned))
    assert Block.decode(again.encode()).id == SECOND.id
    assert again != SECOND
    with pytest.raises(LedgerError):
        Equivocation.of(SECOND, again)


def signed_otherwise(text):
    """An Ed25519 signature of Ann's with another nonce than RFC 8032 prescribes, in big integers."""
    import nacl.bindings as sodium

    order = (1 << 252) + 27742317777372353535851937790883648493
    expanded = bytearray(hashlib.sha512(bytes(ANN._key)).digest()[:32])
    expanded[0] &= 248
    expanded[31] = expanded[31] & 127 | 64
    secret, public = int.from_bytes(expanded, "little"), bytes.fromhex(ANN.id)
    nonce = 123456789
    point = sodium.crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
    challenge = int.from_bytes(hashlib.sha512(point + public + text).digest(), "little")
    return point + ((nonce + challenge * secret) % order).to_bytes(32, "little")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.data())
def test_a_proof_shows_that_a_record_is_in_a_block(count, data):
    from coterie.ledger import merkle

    records = [Record.make(ANN, "round", {"round": number}, time=2000) for number in range(count)]
    block, index = following(ANN, None, records), data.draw(st.integers(0, count - 1))
    leaves = [record.encode() for record in records]
    proof = Proof.decode(Proof(block, index, tuple(merkle.proof(leaves, index))).encode())
    assert proof.proves(records[index], GENESIS)
    assert not proof.proves(records[index], OTHER_GENESIS)
    assert not proof.proves(RECORDS[0] if index else RECORDS[1], GENESIS)
    assert not msgspec.structs.replace(proof, index=index + 1).proves(records[index], GENESIS)
    forged = msgspec.structs.replace(block, count=block.count + 1)
    assert not msgspec.structs.replace(proof, block=forged).proves(records[index], GENESIS)


def test_a_proof_of_other_bytes_is_refused():
    for bad in (b"", b"\x93\xc0\x00\x90", Proof(FIRST, 0, (bytes(32),) * 11).encode(), Proof(FIRST, -1, ()).encode()):
        with pytest.raises(LedgerError):
            Proof.decode(bad)


def test_chains_of_the_test_worlds_are_chains():
    blocks = [Block.decode(full.block) for full in chain(ANN, 4)]
    assert [block.height for block in blocks] == [0, 1, 2, 3]
    assert blocks[0].previous == GENESIS
    assert [block.previous for block in blocks[1:]] == [block.id for block in blocks[:-1]]
