"""Whether a block continues a chain; what does not is refused with the block's and the first bad record's name."""

import msgspec
import pytest
from ledger_worlds import ANN, BOB, GENESIS, OTHER_GENESIS, chain, following, signed_by_hand

from coterie.errors import LedgerError
from coterie.ledger import BadRecord, Block, Record, extend
from coterie.ledger.blocks import MOST_RECORDS, MOST_RECORDS_BYTES
from coterie.ledger.records import canonical

HEAD = Block.decode(chain(ANN, 3)[-1].block)  # of height 2 and time 2002
RECORDS = [Record.make(ANN, "round", {"n": number}, time=2003 + number) for number in range(4)]


def encoded(records):
    return [record.encode() for record in records]


def over(leaves, head=HEAD, time=3000, count=None, identity=ANN):
    """A signed block over any bytes."""
    from coterie.ledger import merkle

    height, previous = (0, GENESIS) if head is None else (head.height + 1, head.id)
    number = len(leaves) if count is None else count
    fields = (identity.id, GENESIS, height, previous, merkle.tree_hash(leaves), number, time)
    return Block.decode(signed_by_hand(identity, "block", fields))


def refused(block, leaves, head=HEAD, genesis=GENESIS):
    with pytest.raises(LedgerError) as caught:
        extend(head, block, leaves, genesis)
    assert f"block {block.height} of {block.author[:12]}" in caught.value.where
    return caught.value


def test_a_chain_is_taken_block_by_block():
    head = None
    for full in chain(ANN, 5, per_block=3):
        block = Block.decode(full.block)
        records = extend(head, block, full.records, GENESIS)
        assert encoded(records) == list(full.records)
        head = block


def test_records_of_others_may_be_in_a_block_whatever_their_time():
    records = [Record.make(BOB, "receipt", {}, time=1), RECORDS[0], Record.make(BOB, "receipt", {}, time=9999999)]
    assert extend(HEAD, following(ANN, HEAD, records, time=2500), encoded(records), GENESIS) == tuple(records)


def test_the_place_in_the_chain():
    block = following(ANN, HEAD, RECORDS)
    leaves = encoded(RECORDS)
    assert extend(HEAD, block, leaves, GENESIS)
    before = Block.decode(chain(ANN, 2)[-1].block)
    assert "block 2 must come first" in refused(block, leaves, before).what
    assert "block 0 must come first" in refused(block, leaves, None).what
    assert "block 4 must come first" in refused(block, leaves, block).what
    fork = Block.decode(chain(ANN, 3, note="fork")[-1].block)
    assert "does not follow" in refused(block, leaves, fork).what
    assert "does not continue" in refused(block, leaves, Block.decode(chain(BOB, 3)[-1].block)).what
    assert "federation" in refused(block, leaves, genesis=OTHER_GENESIS).what
    assert "federation" in refused(following(ANN, None, RECORDS, genesis=OTHER_GENESIS), leaves, None).what


def test_time_does_not_go_back():
    still = [Record.make(ANN, "round", {}, time=HEAD.time).encode()]
    assert extend(HEAD, over(still, time=HEAD.time), still, GENESIS)
    assert "1 ms older" in refused(over(encoded(RECORDS), time=2001), encoded(RECORDS)).what
    for times, index in (((2001, 2003), 0), ((2003, 2002), 1), ((2003, 2010, 3001), 2)):
        records = [Record.make(ANN, "round", {"n": number}, time=time) for number, time in enumerate(times)]
        fault = refused(over(encoded(records)), encoded(records))
        assert isinstance(fault, BadRecord)
        assert fault.index == index
        assert "time" in fault.what


def test_the_records_are_those_that_were_signed():
    block, leaves = following(ANN, HEAD, RECORDS), encoded(RECORDS)
    assert "4 records, 3 are here" in refused(block, leaves[:3]).what
    other = Record.make(ANN, "round", {"n": 77}, time=2003).encode()
    assert "not those that were signed" in refused(block, [other, *leaves[1:]]).what
    bobs = [Record.make(BOB, "round", {"n": number}, time=1).encode() for number in range(4)]
    swapped = following(ANN, HEAD, [Record.decode(data) for data in bobs])
    assert "not those that were signed" in refused(swapped, bobs[::-1]).what


@pytest.mark.parametrize("index", range(4))
def test_the_first_bad_record_is_named(index):
    leaves = encoded(RECORDS)
    for bad in (leaves[index][:-1], b"", leaves[index][:-1] + bytes([leaves[index][-1] ^ 1])):
        broken = [*leaves[:index], bad, *([b"junk"] * (3 - index))]
        for block in (following(ANN, HEAD, RECORDS), over(broken)):  # the author's fault or the sender's
            fault = refused(block, broken)
            assert isinstance(fault, BadRecord)
            assert fault.index == index
            assert f"record {index}" in fault.where


def test_a_record_is_in_a_block_once():
    """Also where its author has signed it twice: one id, one record."""
    leaves = encoded([RECORDS[0], RECORDS[1], RECORDS[0]])
    fault = refused(over(leaves), leaves)
    assert isinstance(fault, BadRecord)
    assert (fault.index, "twice" in fault.what) == (2, True)


def test_limits():
    small = [Record.make(BOB, "r", {"n": n}, time=1) for n in range(2)]
    with pytest.raises(LedgerError):
        Block.make(ANN, GENESIS, 0, GENESIS, small * (MOST_RECORDS // 2 + 1), time=5)
    big = signed_by_hand(BOB, "record", ("r", BOB.id, (), 1, canonical({"a": b"x" * 65000})))
    leaves = [big] * (MOST_RECORDS_BYTES // len(big) + 1)
    assert "longer than" in refused(over(leaves), leaves).what


def test_an_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(BadRecord("a", where="b", remedy="c", index=3)))  # noqa: S301
    assert (str(error), type(error)) == ("b: a. c", BadRecord)


def test_nothing_is_changed_by_looking():
    block = following(ANN, HEAD, RECORDS)
    before = msgspec.msgpack.encode(HEAD)
    extend(HEAD, block, encoded(RECORDS), GENESIS)
    assert msgspec.msgpack.encode(HEAD) == before
