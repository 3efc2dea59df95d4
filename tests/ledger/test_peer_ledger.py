"""One peer's own chain: it goes on after a restart, and never signs two blocks for one height."""

import pytest
from ledger_worlds import ANN, BOB, GENESIS, GENESIS_RECORD, MEMBERS, chain, put_aside

from coterie.errors import LedgerError
from coterie.ledger import Block, Equivocation, Ledger, LedgerStore, PeerLedger, Record, audit


class Clock:
    """Seconds, as the test sets them."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def appended(path, *notes, clock=None):
    """Open, append, close; returns Ann's whole chain."""
    with LedgerStore(path, GENESIS) as store:
        ledger: Ledger = PeerLedger(ANN, store, clock or Clock())
        for note in notes:
            ledger.append("note", {"note": note})
        return store.blocks(ANN.id)


def notes(blocks):
    return [Record.decode(data).content["note"] for full in blocks for data in full.records]


def test_what_is_appended_is_there_after_a_restart(path):
    assert notes(appended(path, "a", "b")) == ["a", "b"]
    blocks = appended(path, "c")
    assert notes(blocks) == ["a", "b", "c"]
    assert [Block.decode(full.block).height for full in blocks] == [0, 1, 2]
    with LedgerStore(path, GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        ledger = PeerLedger(ANN, store)
        assert ledger.head == Block.decode(blocks[-1].block)
        record = Record.decode(blocks[0].records[0])
        assert (record.kind, record.author, record.parents, record.time) == ("note", ANN.id, (), 1000000)
        assert PeerLedger(BOB, store).head is None
    assert audit(path, GENESIS).fault is None


def test_time_stands_still_where_the_clock_goes_back(path):
    clock = Clock()
    appended(path, "a", clock=clock)
    clock.now = 400.0
    appended(path, "b", clock=clock)
    clock.now = 1000.5
    blocks = [Block.decode(full.block) for full in appended(path, "c", clock=clock)]
    assert [block.time for block in blocks] == [1000000, 1000000, 1000500]


def test_content_that_has_no_canonical_form_adds_nothing(path):
    with LedgerStore(path, GENESIS) as store:
        ledger = PeerLedger(ANN, store)
        for kind, content in (("round", {"loss": float("nan")}), ("Round", {}), ("round", {"x": "x" * 70000})):
            with pytest.raises(LedgerError):
                ledger.append(kind, content)
        assert ledger.head is None
        ledger.append("round", {"loss": 0.5, "round": 3, "who": "ann"})


def test_a_chain_goes_on_from_what_is_left_where_nobody_saw_more(path):
    """The store lost its last block, which nobody else has: no contradiction comes of it."""
    blocks = chain(ANN, 3)
    with LedgerStore(path, GENESIS) as store:
        store.receive(blocks[:2], MEMBERS)
        ledger = PeerLedger(ANN, store)
        ledger.append("note", {"note": "on"})
        assert ledger.head.height == 2


def test_the_next_block_from_others_is_taken_and_the_chain_goes_on_after_it(path):
    blocks = chain(ANN, 5)
    with LedgerStore(path, GENESIS) as store:
        store.receive(blocks[:2], MEMBERS)
        ledger = PeerLedger(ANN, store)
        store.receive(blocks[2:], MEMBERS)
        assert ledger.head == Block.decode(blocks[4].block)
        ledger.append("note", {"note": "on"})
        assert store.blocks(ANN.id, 0, 5) == blocks
        assert ledger.head.previous == Block.decode(blocks[4].block).id


@pytest.mark.parametrize("held", [0, 2])
def test_nothing_is_appended_while_others_have_later_blocks(path, held):
    blocks = chain(ANN, 5)
    with LedgerStore(path, GENESIS) as store:
        store.receive(blocks[:held], MEMBERS)
    put_aside(path, blocks[4])
    with LedgerStore(path, GENESIS) as store:
        ledger = PeerLedger(ANN, store)
        for full in blocks[held:4]:
            with pytest.raises(LedgerError, match="block 4 of this peer's chain is with others") as caught:
                ledger.append("note", {"note": "too early"})
            assert "Catch up" in caught.value.remedy
            store.receive([full], MEMBERS)
        ledger.append("note", {"note": "on"})
        assert ledger.head.height == 5
        assert store.blocks(ANN.id, 0, 5) == blocks


def test_another_block_of_ours_is_evidence(path):
    blocks, others = chain(ANN, 3), chain(ANN, 5, note="from a second node")
    with LedgerStore(path, GENESIS) as store:
        store.receive(blocks, MEMBERS)
        (evidence,) = store.receive(others[2:], MEMBERS).evidence
        assert Equivocation.decode(evidence.encode()).author == ANN.id
        assert store.blocks(ANN.id) == blocks
