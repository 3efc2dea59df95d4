"""``coterie audit`` over shared chains: either kind of file, folders, JSON, committees, refusals."""

import json
import shutil

import pytest
from ledger_worlds import ANN, GENESIS, GENESIS_RECORD, filled
from shared_worlds import PEERS, Writer, charter, note
from typer.testing import CliRunner

from coterie.cli import app
from coterie.ledger import Record
from coterie.ledger.kinds import ROUNDS, Committee
from coterie.ledger.shared import SharedStore, audit_shared
from coterie.protocols.committees import draw
from coterie.protocols.committees.recorded import committee_fault

START = charter((3, 1, 1, 1))


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def committee(state, number=6, **changed):
    drawn = draw(state.beacon, "aggregator", {v.key: v.weight for v in state.voters.members}, number)
    return ROUNDS.record(ANN, Committee(**{"round": 0, "role": "aggregator", "seats": drawn, **changed}), time=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A node's home with both ledgers."""
    path = tmp_path_factory.mktemp("home")
    filled(path / "ledger.sqlite", {ANN: 2})
    writer = Writer(START.checkpoint)
    with SharedStore(path / "shared.sqlite", START, GENESIS_RECORD) as store:
        store.add(*writer.write(note(1), committee(writer.state)))
        store.add(*writer.close())
        store.add(*writer.write(committee(writer.state, 4)))
    return path


def test_a_folder_with_both_kinds(folder):
    done = call("audit", folder, "--genesis", GENESIS.hex())
    assert done.exit_code == 0, done.output
    assert done.stdout.count("is sound") == 2
    assert "committee: 2" in done.stdout
    done = call("audit", folder, "--genesis", GENESIS.hex(), "--json")
    found = json.loads(done.stdout)["ledgers"]
    assert [(row["path"].rpartition("/")[2], row["ok"]) for row in found] == [
        ("ledger.sqlite", True),
        ("shared.sqlite", True),
    ]


def test_a_damaged_chain_ends_with_status_1_and_names_the_block(folder, tmp_path):
    path = shutil.copyfile(folder / "shared.sqlite", tmp_path / "shared.sqlite")
    data = bytearray(path.read_bytes())
    data[data.index(note(1).encode()) + 90] ^= 1
    path.write_bytes(data)
    done = call("audit", path, "--genesis", GENESIS.hex())
    assert done.exit_code == 1
    assert "block 0.1" in done.stdout
    assert "NOT sound" in done.stdout


def test_a_start_is_pinned(folder):
    path = folder / "shared.sqlite"
    done = call("audit", path, "--genesis", GENESIS.hex(), "--start", START.id.hex())
    assert done.exit_code == 0
    assert "the one asked for" in done.stdout
    done = call("audit", path, "--genesis", GENESIS.hex(), "--start", "00" * 32)
    assert done.exit_code == 1
    assert "starts from" in done.stderr
    done = call("audit", path, "--genesis", GENESIS.hex(), "--start", "zz")
    assert (done.exit_code, "not the id of a start" in done.stderr) == (1, True)


def test_a_start_is_not_passed_over_where_there_is_no_shared_chain(folder, tmp_path):
    """A ledger of another kind in its place is no chain that begins with it, sound as it may be."""
    path = shutil.copyfile(folder / "ledger.sqlite", tmp_path / "shared.sqlite")
    for where in (path, tmp_path, folder / "ledger.sqlite"):
        assert call("audit", where, "--genesis", GENESIS.hex()).exit_code == 0
        done = call("audit", where, "--genesis", GENESIS.hex(), "--start", START.id.hex())
        assert (done.exit_code, done.stdout) == (1, "")
        assert "no shared chain" in done.stderr
    assert call("audit", folder, "--genesis", GENESIS.hex(), "--start", START.id.hex()).exit_code == 0


@pytest.mark.parametrize(
    "changed",
    [{"seats": tuple(sorted(peer.id for peer in PEERS[:4]))}, {"role": "verifier"}, {"most": 1}],
    ids=["others", "another role", "another limit"],
)
def test_a_committee_that_the_beacon_does_not_draw(tmp_path, changed):
    writer = Writer(START.checkpoint)
    with SharedStore(tmp_path / "shared.sqlite", START, GENESIS_RECORD) as store:
        store.add(*writer.write(note(1)))
        store.add(*writer.write(committee(writer.state, **changed)))
    found = audit_shared(tmp_path / "shared.sqlite", GENESIS, judge=committee_fault)
    assert (found.fault.epoch, found.fault.height) == (0, 2)
    assert audit_shared(tmp_path / "shared.sqlite", GENESIS).fault is None
    assert call("audit", tmp_path / "shared.sqlite", "--genesis", GENESIS.hex()).exit_code == 1


def test_other_records_are_no_committees():
    state = START.checkpoint
    assert committee_fault(state, committee(state)) == ""
    assert committee_fault(state, note(1)) == ""
    assert committee_fault(state, Record.make(ANN, "privacy", {"nonsense": 1}, time=1)) == ""
    assert "does not say" in committee_fault(state, Record.make(ANN, "committee", {"nonsense": 1}, time=1))
