"""Records of known kinds: their contents, and what is counted of them."""

import pytest
from ledger_worlds import ANN, BOB, EVE, GENESIS, GENESIS_RECORD

from coterie.errors import LedgerError
from coterie.ledger import LedgerStore, PeerLedger, Record, audit, describe
from coterie.ledger.kinds import (
    MOST_BUDGETS,
    ROUNDS,
    Committee,
    Contribution,
    Privacy,
    RoundChallenge,
    RoundCommit,
    RoundList,
    Tally,
)

HASH = b"h" * 32
SAYINGS = {
    "contribution": Contribution(round=3, model=HASH, commitment=HASH),
    "committee": Committee(round=3, role="aggregator", seats=(ANN.id, ANN.id, BOB.id), most=2),
    "round commit": RoundCommit(round=3, model=HASH, contributions=20),
    "round challenge": RoundChallenge(round=3, commit=HASH, proof=b"p" * 80),
    "round list": RoundList(round=3, accepted=(ANN.id,), blamed=(EVE.id,)),
    "privacy": Privacy(budget="labels", uses=7, epsilon=1.25, delta=1e-5),
}


def spent(peer, uses, epsilon, budget="labels", delta=1e-5, time=1):
    return ROUNDS.record(peer, Privacy(budget=budget, uses=uses, epsilon=epsilon, delta=delta), time=time)


@pytest.mark.parametrize("kind", SAYINGS)
def test_each_kind_goes_into_a_record_and_back(kind):
    record = ROUNDS.record(ANN, SAYINGS[kind], time=5)
    assert (record.kind, record.author) == (kind, ANN.id)
    assert ROUNDS.read(Record.decode(record.encode())) == SAYINGS[kind]


def test_every_kind_is_tried():
    assert set(SAYINGS) == set(ROUNDS.types)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("contribution", {}),
        ("contribution", {"round": 1, "model": HASH, "commitment": b"short"}),
        ("contribution", {"round": -1, "model": HASH, "commitment": HASH}),
        ("committee", {"round": 1, "role": "king", "seats": [ANN.id]}),
        ("committee", {"round": 1, "role": "verifier", "seats": []}),
        ("round challenge", {"round": 1, "commit": HASH, "proof": b""}),
        ("round list", {"round": 1, "accepted": ["me"]}),
        ("privacy", {"budget": "labels", "uses": 1, "epsilon": -0.1, "delta": 0.0}),
        ("privacy", {"budget": "labels", "uses": 1, "epsilon": 0.1, "delta": 1.0}),
        ("privacy", {"budget": "\x1b[2J", "uses": 1, "epsilon": 0.1, "delta": 0.0}),
        ("privacy", {"budget": "labels", "uses": 1, "epsilon": 0.1, "delta": 0.0, "more": 1}),
    ],
)
def test_contents_that_say_something_else(kind, content):
    record = Record.make(ANN, kind, content, time=1)
    with pytest.raises(LedgerError, match="does not say"):
        ROUNDS.read(record)
    tally = Tally()
    tally.add(record)
    assert (tally.unread, tally.counts) == (1, {})


def test_other_kinds_are_nothing_to_count():
    record = Record.make(ANN, "model", {}, time=1)
    assert ROUNDS.read(record) is None
    tally = Tally()
    tally.add(record)
    assert tally == Tally()
    assert tally.lines() == []


def test_the_last_total_of_each_budget_counts():
    tally = Tally()
    for record in (spent(ANN, 1, 0.5), spent(ANN, 2, 0.75), spent(BOB, 9, 2.0), spent(ANN, 1, 9.0, "updates")):
        tally.add(record)
    assert tally.counts == {"privacy": 4}
    found = {(author, name): s.last.epsilon for author, by in tally.spent.items() for name, s in by.items()}
    assert found == {(ANN.id, "labels"): 0.75, (ANN.id, "updates"): 9.0, (BOB.id, "labels"): 2.0}
    assert not any(spending.fell for by in tally.spent.values() for spending in by.values())
    assert any(f"{ANN.id}, budget labels: epsilon 0.75 at delta 1e-05 in 2 uses" in line for line in tally.lines())


@pytest.mark.parametrize("later", [spent(ANN, 3, 0.4), spent(ANN, 1, 0.6)])
def test_a_total_that_falls_is_told(later):
    tally = Tally()
    for record in (spent(ANN, 2, 0.5), later, spent(ANN, 5, 0.9)):
        tally.add(record)
    assert tally.spent[ANN.id]["labels"].fell
    assert "an earlier total was higher" in "\n".join(tally.lines())


def test_a_record_that_somebody_repeats_accuses_nobody():
    first, second = spent(ANN, 2, 0.5, time=10), spent(ANN, 5, 0.9, time=20)
    for order in ([first, second, first], [second, first], [first, first, second, second]):
        tally = Tally()
        for record in order:
            tally.add(record)
        found = tally.spent[ANN.id]["labels"]
        assert (found.last.uses, found.fell) == (5, False)
    tally.add(spent(ANN, 6, 1.0, time=15))  # more than the later one says
    assert tally.spent[ANN.id]["labels"].fell


def test_another_delta_is_another_reckoning():
    tally = Tally()
    tally.add(spent(ANN, 2, 0.5))
    tally.add(spent(ANN, 3, 0.4, delta=1e-3))
    assert not tally.spent[ANN.id]["labels"].fell


def test_one_author_cannot_fill_the_memory():
    tally = Tally()
    for number in range(100):
        tally.add(spent(ANN, 1, 0.5, budget=f"b{number}"))
    assert (len(tally.spent[ANN.id]), tally.unread) == (MOST_BUDGETS, 100 - MOST_BUDGETS)


def test_a_peers_own_chain_is_counted_too(tmp_path):
    with LedgerStore(tmp_path / "ledger.sqlite", GENESIS) as store:
        store.put_record(GENESIS_RECORD)
        PeerLedger(ANN, store).append("privacy", {"budget": "labels", "uses": 4, "epsilon": 0.5, "delta": 1e-5})
    found = audit(tmp_path / "ledger.sqlite", GENESIS)
    assert found.tally.spent[ANN.id]["labels"].last.uses == 4
    assert "epsilon 0.5" in describe(found)
