"""What to ask for, and what to believe of the answer; two stores that bring each other up to date."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_worlds import ANN, BOB, EVE, GENESIS, MEMBERS, OTHER_GENESIS, chain

from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.ledger import Block, FullBlock, Head, LedgerStore, Request, requests, take
from coterie.ledger.catchup import MOST_BATCH_BLOCKS, MOST_BATCH_BYTES

ANNS, BOBS = chain(ANN, 12, per_block=2), chain(BOB, 6)
FORK = ANNS[:5] + chain(ANN, 4, head=Block.decode(ANNS[4].block), note="fork")


class Chains:
    """What is known, in memory."""

    def __init__(self, **lengths):
        self.held = {ANN.id: ANNS[: lengths.get("ann", 0)], BOB.id: BOBS[: lengths.get("bob", 0)]}

    def head(self, author):
        return self.block(author, len(self.held.get(author, ())) - 1)

    def block(self, author, height):
        held = self.held.get(author, ())
        return Block.decode(held[height].block) if 0 <= height < len(held) else None


def heads(**lengths):
    known = Chains(**lengths)
    found = {ANN.id: known.head(ANN.id), BOB.id: known.head(BOB.id)}
    return {author: Head(block.height, block.id) for author, block in found.items() if block is not None}


def test_what_is_asked_for():
    members = {ANN.id, BOB.id}
    assert requests(heads(), heads(ann=12), members) == (Request(ANN.id, 0, 12),)
    assert requests(heads(ann=5), heads(ann=12), members) == (Request(ANN.id, 4, 8),)
    assert requests(heads(ann=12, bob=3), heads(ann=12, bob=1), members) == ()
    assert requests(heads(ann=1), heads(ann=2, bob=2), {BOB.id}) == (Request(BOB.id, 0, 2),)
    assert [request.author for request in requests({}, heads(ann=1, bob=1), members)] == sorted(members)
    far = {ANN.id: Head((1 << 53) - 1, bytes(32))}
    assert requests({}, far, members) == (Request(ANN.id, 0, MOST_BATCH_BLOCKS),)


def test_another_block_at_the_same_height_is_asked_for():
    other = {ANN.id: Head(4, bytes(32))}
    assert requests(heads(ann=5), other, MEMBERS) == (Request(ANN.id, 4, 1),)


def test_an_answer_is_taken_and_known_blocks_are_passed_over():
    batch = take(Chains(ann=3, bob=6), ANNS[1:7] + BOBS, GENESIS, MEMBERS)
    assert [block.height for block, _, _ in batch.blocks] == [3, 4, 5, 6]
    assert [full for _, _, full in batch.blocks] == ANNS[3:7]
    assert all(tuple(record.encode() for record in records) == full.records for _, records, full in batch.blocks)
    assert batch.evidence == ()
    assert take(Chains(), [], GENESIS, MEMBERS) == ((), ())
    twice = take(Chains(), [*ANNS[:2], *ANNS[:2]], GENESIS, MEMBERS)
    assert len(twice.blocks) == 2


def test_a_fork_is_evidence_and_the_rest_of_the_answer_is_taken():
    batch = take(Chains(ann=7), [*FORK[6:], *BOBS], GENESIS, MEMBERS)
    assert [block.author for block, _, _ in batch.blocks] == [BOB.id] * 6
    (evidence,) = batch.evidence
    assert evidence.author == ANN.id
    assert {evidence.first.id, evidence.second.id} == {Block.decode(full.block).id for full in (ANNS[6], FORK[6])}
    within = take(Chains(), [*ANNS[:7], *FORK[5:]], GENESIS, MEMBERS)
    assert (len(within.blocks), within.evidence[0].first.height) == (7, 5)


def test_a_request_from_ones_head_always_shows_a_fork():
    """Wherever the author has forked, the first block of the answer contradicts the head."""
    theirs = {ANN.id: Head(8, Block.decode(FORK[8].block).id)}
    for known in range(6, 10):
        (request,) = requests(heads(ann=known), theirs, MEMBERS)
        answer = FORK[request.start : request.start + request.limit]
        assert take(Chains(ann=known), answer, GENESIS, MEMBERS).evidence[0].author == ANN.id


def flipped(full, place):
    data = bytearray(full.encode())
    data[place % len(data)] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "answer",
    [
        ANNS[4:6],  # block 3 is missing
        [ANNS[3], ANNS[5]],
        [FullBlock(ANNS[3].block, ANNS[4].records)],
        [FullBlock(ANNS[3].block, ANNS[3].records[:1])],
        [FullBlock(ANNS[3].block, ())],
        [FullBlock(b"", ANNS[3].records)],
        chain(ANN, 1, genesis=OTHER_GENESIS),
        chain(Identity.from_seed(bytes(32)), 1),
        FORK[5:6],  # its predecessor is not here, and another is
        [*ANNS[3:5], FullBlock(ANNS[5].block, (b"junk", b"junk"))],
    ],
    ids=range(10),
)
def test_a_bad_answer_is_refused_whole(answer, tmp_path):
    with pytest.raises(LedgerError):
        take(Chains(ann=3), answer, GENESIS, MEMBERS)
    with LedgerStore(tmp_path / "l", GENESIS) as store:
        store.receive(ANNS[:3], MEMBERS)
        with pytest.raises(LedgerError):
            store.receive([*BOBS, *answer], MEMBERS)
        assert store.heads() == heads(ann=3)
        assert store.receive(ANNS[3:5], MEMBERS).taken == 2  # and nothing is in the way


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 5), st.integers(0, 100000))
def test_a_mutated_answer_is_refused(position, place):
    answer = [full.encode() for full in ANNS[3:9]]
    answer[position] = flipped(ANNS[3 + position], place)
    with pytest.raises(LedgerError):
        take(Chains(ann=3), [FullBlock.decode(data) for data in answer], GENESIS, MEMBERS)


def test_a_block_of_another_federation_is_called_that_at_any_height():
    for height in (0, 2, 3):
        with pytest.raises(LedgerError, match="another federation"):
            take(Chains(ann=3), chain(ANN, 4, genesis=OTHER_GENESIS)[height:], GENESIS, MEMBERS)


def test_limits_of_an_answer():
    with pytest.raises(LedgerError, match="at most"):
        take(Chains(), ANNS[:1] * (MOST_BATCH_BLOCKS + 1), GENESIS, MEMBERS)
    big = FullBlock(ANNS[0].block, tuple(bytes(60000) for _ in range(8)))
    with pytest.raises(LedgerError, match="at most"):
        take(Chains(), [big] * 2, GENESIS, MEMBERS)


def test_heads_and_requests_travel():
    for value in (Head(3, bytes(32)), Request(ANN.id, 0, 5)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value
    for bad in ([-1, bytes(32)], [1, b""], [1 << 60, bytes(32)]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, Head)
    for bad in ([ANN.id, 0, 0], [ANN.id, 0, 1000], ["x", 0, 1], [ANN.id, -1, 1]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, Request)


def caught_up(asking, answering):
    """One peer asks another until it has nothing more to ask; returns the number of questions."""
    questions = 0
    while wanted := requests(asking.heads(), answering.heads(), MEMBERS):
        taken = 0
        for request in wanted:
            questions += 1
            blocks = answering.blocks(request.author, request.start, request.limit)
            assert sum(full.nbytes for full in blocks) <= MOST_BATCH_BYTES
            taken += asking.receive(blocks, MEMBERS).taken
        assert taken
    return questions


def test_two_stores_bring_each_other_up_to_date(tmp_path):
    long = chain(EVE, 300)
    heavy = chain(BOB, 6, per_block=4, filling=60000)
    with LedgerStore(tmp_path / "a", GENESIS) as one, LedgerStore(tmp_path / "b", GENESIS) as other:
        one.receive(long[:200], MEMBERS)
        one.receive(long[200:], MEMBERS)
        one.receive(ANNS[:2], MEMBERS)
        other.receive(ANNS, MEMBERS)
        for full in heavy:
            other.append(full)
        assert caught_up(other, one) == 2
        assert caught_up(one, other) > 2
        assert one.heads() == other.heads()
        assert one.head(EVE.id).height == 299
        assert one.blocks(BOB.id, 5) == heavy[5:]
