"""Verification of the shared chain: what is good goes through, and each thing that is wrong is refused by name."""

import hashlib

import msgspec
import pytest
from ledger_worlds import ANN, OTHER_GENESIS
from shared_worlds import BEACON, BY_ID, PEERS, VRF, Writer, certified, charter, note, written

from coterie.errors import LedgerError
from coterie.identity import vrf_output
from coterie.ledger import Record
from coterie.ledger.shared import (
    Certificate,
    Finality,
    FullSharedBlock,
    SharedChain,
    Signatures,
    Voters,
    check_block,
)
from coterie.ledger.shared.blocks import LAST_OPEN

replace = msgspec.structs.replace


def test_a_chain_of_epochs():
    writer, batches = written(charter().checkpoint, epochs=4)
    chain = SharedChain.begin(charter().checkpoint)
    for blocks, finality in batches:
        sent = [FullSharedBlock.decode(full.encode()) for full in blocks]
        chain, found = chain.extend(sent, Finality.decode(finality.encode()), Signatures())
        assert [checked.block for checked in found] == [full.block for full in blocks]
        assert [[record.encode() for record in checked.records] for checked in found] == [
            list(full.records) for full in blocks
        ]
    assert chain == writer.chain
    assert (chain.state.epoch, chain.height, chain.head) == (4, 0, batches[-1][0][-1].block.id)
    assert chain.state.anchor == chain.head


def test_the_beacon_follows_from_the_closing_proofs():
    """SHA-256 over a tag, the beacon before and the output, by hand."""
    writer = Writer(charter().checkpoint)
    (full,), _ = writer.close()
    key = VRF[full.block.proposer]
    alpha = b"coterie closing" + BEACON + full.block.height.to_bytes(8, "big")
    output = vrf_output(key.public, alpha, full.block.proof)
    assert writer.state.beacon == hashlib.sha256(b"coterie beacon" + BEACON + output).digest()


def refused(chain, blocks, finality, match):
    with pytest.raises(LedgerError, match=match):
        chain.extend(blocks, finality, Signatures())


def test_what_does_not_follow_is_refused():
    writer, chain = Writer(charter().checkpoint), SharedChain.begin(charter().checkpoint)
    first = writer.block(note(1))
    finality = writer.finality(first)
    after, _ = chain.extend([first], finality, Signatures())
    refused(after, [first], finality, "does not follow")
    refused(chain, [], finality, "no block")
    second = writer.block()
    refused(chain, [second], writer.finality(second), "does not follow")
    refused(chain, [first], writer.finality(second), "does not make it final")
    refused(chain, [first, second], writer.finality(first), "does not make it final")
    for parent_height, parent in ((0, first.block.id), (1, second.block.id)):
        astray = writer.block(parent_height=parent_height, parent=parent)
        refused(after, [astray], writer.finality(astray), "does not follow")


def test_a_block_of_another_epoch_or_federation_is_refused():
    writer = Writer(charter().checkpoint)
    chain = writer.chain
    block = writer.block()
    finality = writer.finality(block)
    writer.finish(block)
    writer.close()
    refused(writer.chain, [block], finality, "not of epoch 1")
    other = charter().checkpoint
    refused(SharedChain.begin(replace(other, genesis=OTHER_GENESIS)), [block], finality, "another federation")
    late = Writer(replace(other, epoch=1))
    refused(chain, [late.block()], finality, "not of epoch 0")


def test_only_the_leader_proposes():
    writer = Writer(charter().checkpoint)
    leader = writer.state.leader(1)
    for peer in PEERS:
        if peer.id != leader:
            writer = Writer(charter().checkpoint)
            block = writer.block(proposer=peer)
            refused(writer.chain, [block], writer.finality(block), "not the leader")


def test_signatures_and_records_are_checked():
    writer = Writer(charter().checkpoint)
    full = writer.block(note(1), note(2))
    finality = writer.finality(full)
    block, records = full.block, full.records
    bad = replace(block, signature=bytes(64))
    refused(writer.chain, [FullSharedBlock(bad, records)], finality, "not signed by its proposer")
    refused(writer.chain, [FullSharedBlock(block, records[:1])], finality, "more or fewer")
    refused(writer.chain, [FullSharedBlock(block, records[::-1])], finality, "not those that were signed")
    forged = note(1).encode()[:-1] + b"!"
    writer = Writer(charter().checkpoint)
    full = writer.block(note(1), records=[note(2).encode(), forged])
    refused(
        writer.chain,
        [FullSharedBlock(full.block, (note(2).encode(), forged))],
        writer.finality(full),
        "record 1.*not sig",
    )
    writer = Writer(charter().checkpoint)
    full = writer.block(note(1), note(1))
    refused(writer.chain, [full], writer.finality(full), "twice")


def test_a_checked_block_with_other_records_is_not_taken_for_checked():
    writer = Writer(charter().checkpoint)
    full = writer.block(note(1))
    finality, known = writer.finality(full), Signatures()
    writer.chain.extend([full], finality, known)
    with pytest.raises(LedgerError, match="not those that were signed"):
        writer.chain.extend([FullSharedBlock.of(full.block, [note(2)])], finality, known)
    with pytest.raises(LedgerError, match="not signed by its proposer"):
        writer.chain.extend([FullSharedBlock(replace(full.block, signature=bytes(64)), full.records)], finality, known)


def test_a_checked_block_is_not_taken_for_checked_in_another_state():
    start, known = charter().checkpoint, Signatures()
    full = Writer(start).block(closes=True)
    check_block(start, full, known)
    keys = {full.block.proposer: VRF[PEERS[-1].id].public}
    voters = Voters(tuple(replace(voter, vrf=keys.get(voter.key, voter.vrf)) for voter in start.voters.members))
    with pytest.raises(LedgerError, match="proof"):
        check_block(replace(start, voters=voters), full, known)


def test_a_closing_block_needs_its_proposers_proof():
    start = charter().checkpoint
    leader = BY_ID[start.leader(1)]
    another = next(peer for peer in PEERS if peer != leader)
    for changed in ({"vrf": VRF[another.id]}, {"proof": bytes(80)}, {"proof": VRF[leader.id].prove(b"another")}):
        writer = Writer(start)
        block = writer.block(closes=True, **changed)
        refused(writer.chain, [block], writer.finality(block), "proof")


@pytest.mark.parametrize("length", [1, 2, 300])
def test_an_empty_tail_makes_the_closing_block_final_by_its_last_block(length):
    writer = Writer(charter().checkpoint)
    closing = writer.block(closes=True)
    tail = [writer.block(skip=number % 2) for number in range(length)]
    finality = writer.finality(closing, *tail)
    assert finality.headers == (tail[-1].block,)
    after, _ = writer.chain.extend([closing], finality, Signatures())
    assert (after.state.epoch, after.head) == (1, closing.block.id)
    refused(writer.chain, [closing, tail[0]], writer.finality(tail[0]), "follows the block that closed")
    if length == 2:
        both = replace(finality, headers=tuple(full.block for full in tail))
        refused(writer.chain, [closing], both, "not follow the block that closed")


@pytest.mark.parametrize("what", ["says nothing", "another block", "lower", "after another block", "more after it"])
def test_a_tail_follows_the_closing_block_that_it_names(what):
    writer = Writer(charter().checkpoint)
    first = writer.block()
    closing = writer.block(skip=5, closes=True)
    named = {"says nothing": b"", "another block": first.block.id}.get(what, closing.block.id)
    lower = {"height": 3, "parent_height": 1, "proposer": BY_ID[writer.state.leader(3)]} if what == "lower" else {}
    tail = writer.block(closed=named, **lower)
    if what == "after another block":
        refused(writer.chain, [first], writer.finality(first, tail), "not follow the block that closed")
        return
    more = [writer.block(closed=b"")] if what == "more after it" else []
    headers = (closing.block, tail.block, *(full.block for full in more))
    finality = replace(writer.finality(closing, *(more or [tail])), headers=headers)
    refused(writer.chain, [first], finality, "not follow the block that closed")


def test_a_tail_follows_a_block_that_closes_and_is_of_its_heights_leader():
    writer = Writer(charter().checkpoint)
    open_block = writer.block()
    tail = writer.block(closed=open_block.block.id)
    refused(writer.chain, [open_block], writer.finality(open_block, tail), "not follow the block that closed")
    writer = Writer(charter().checkpoint)
    closing = writer.block(closes=True)
    tail = writer.block(proposer=next(peer for peer in PEERS[:4] if peer.id != writer.state.leader(2)))
    refused(writer.chain, [closing], writer.finality(closing, tail), "not the leader")


def test_a_block_that_says_it_follows_a_closing_one_is_in_no_chain():
    writer = Writer(charter().checkpoint)
    block = writer.block(closed=bytes(32))
    refused(writer.chain, [block], writer.finality(block), "follows the block that closed")


def test_a_block_that_follows_the_closing_one_is_empty():
    for changed in ({"records": [note(1).encode()]}, {"closes": True}, {"closed": bytes(31)}):
        writer = Writer(charter().checkpoint)
        writer.block(closes=True)
        with pytest.raises(LedgerError, match="something follows the block that closed"):
            writer.block(**changed)


def test_no_block_leaves_an_epoch_open_for_ever():
    writer = Writer(charter().checkpoint)
    writer.block(skip=LAST_OPEN - 1)
    with pytest.raises(LedgerError, match="leaves its epoch open"):
        writer.block()
    closing = writer.block(closes=True)
    assert closing.block.height == LAST_OPEN + 1
    assert writer.block().block.closed == closing.block.id


def test_headers_to_the_certified_block_are_checked():
    writer = Writer(charter().checkpoint)
    blocks = [writer.block(note(number)) for number in range(3)]
    finality = writer.finality(blocks[0], *blocks[1:])
    after, _ = writer.chain.extend(blocks[:1], finality, Signatures())
    assert after.head == blocks[0].block.id
    unsigned = replace(finality, headers=(replace(blocks[1].block, signature=bytes(64)), blocks[2].block))
    refused(writer.chain, blocks[:1], unsigned, "not signed by its proposer")
    refused(writer.chain, blocks[:1], replace(finality, headers=finality.headers[1:]), "does not follow")
    refused(writer.chain, blocks[:1], replace(finality, headers=finality.headers[::-1]), "does not follow")


def test_less_than_a_quorum_makes_nothing_final():
    """3 of 4 equal weights are a quorum, 2 are not; a weight of exactly two thirds is not."""
    writer = Writer(charter((1, 1, 1)).checkpoint)
    block = writer.block()
    keys = [member.key for member in writer.state.voters.members]
    exactly = certified(writer.state, 1, "final", block.block.id, keys[:2])
    assert len(exactly.votes) == 2
    refused(writer.chain, [block], Finality((), exactly), "less than a quorum")
    writer.finish(block)


def test_a_notarised_block_is_not_final():
    writer = Writer(charter().checkpoint)
    block = writer.block()
    notarised = certified(writer.state, 1, "block", block.block.id)
    refused(writer.chain, [block], Finality((), notarised), "does not make it final")


def test_a_certificate_of_an_earlier_epoch_is_worth_nothing():
    """Also where its epoch is written over: the signatures are for the other one."""
    writer = Writer(charter().checkpoint)
    writer.close()
    block = writer.block()
    old = certified(replace(writer.state, epoch=0), 1, "final", block.block.id)
    refused(writer.chain, [block], Finality((), old), "does not make it final")
    refused(writer.chain, [block], Finality((), replace(old, epoch=1)), "not signed by")
    assert isinstance(old, Certificate)
    writer.finish(block)


def test_a_malformed_change_makes_the_block_bad():
    writer = Writer(charter().checkpoint)
    block = writer.block(Record.make(ANN, "voter leave", {"genesis": bytes(32)}, time=1))
    refused(writer.chain, [block], writer.finality(block), "does not say")
