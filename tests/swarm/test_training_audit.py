"""``coterie audit HOME`` looks at the chains of all trainings in it, and names the first bad record."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest
from real_swarm import FIGURES, all_of, real_swarm
from typer.testing import CliRunner

from coterie.cli import app
from coterie.errors import LedgerError
from coterie.identity import Identity
from coterie.ledger.records import Record
from coterie.ledger.shared import Charter, SharedStore
from coterie.protocols.swarm.audit import MergeJudge
from coterie.protocols.swarm.records import CHECK_IN, MERGE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


def audit(where, genesis, *more):
    return CliRunner().invoke(app, ["audit", str(where), "--genesis", genesis, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home in which a training has come to its end, and the federation's id."""
    folder = tmp_path_factory.mktemp("audit")

    async def train():
        async with real_swarm(folder) as sites:
            await all_of(*(site.begin() for site in sites))
            await all_of(*(site.sync(n) for n, site in enumerate(sites)))
            await all_of(*(site.end(n) for n, site in enumerate(sites)))
            await all_of(*(site.session.close(FIGURES) for site in sites))
            return sites[0].home

    home = asyncio.run(train())
    return home.path, home.table.federation


@pytest.fixture
def copy(tmp_path, trained):
    """Of what may be audited in the home, to change; and the training's folder in it."""
    source, genesis = trained
    home = tmp_path / "home"
    shutil.copytree(source, home, ignore=shutil.ignore_patterns("*.sock", "*.state"))
    (folder,) = (home / "state" / "trainings").iterdir()
    return home, folder, genesis


def blocks(folder):
    with SharedStore(folder / "chain.sqlite", Charter.decode((folder / "charter").read_bytes())) as store:
        states = [store.checkpoint(epoch) for epoch in range(store.chain.state.epoch)]
        batches = [store.blocks(epoch, 0) for epoch in range(store.chain.state.epoch)]
        return [(state, full.read_records()) for state, b in zip(states, batches, strict=True) for full in b.blocks]


def flip(path: Path, inside: bytes, at: int) -> None:
    data = bytearray(path.read_bytes())
    assert data.count(inside) == 1
    data[data.index(inside) + at] ^= 1
    path.write_bytes(data)


def test_a_home_is_sound_with_all_its_trainings(trained):
    home, genesis = trained
    done = audit(home, genesis)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("is sound") == 2
    assert "The training 'a training'" in done.stdout
    assert "3 merges of 9 check-ins" in done.stdout


def test_a_flipped_byte_ends_with_status_1_and_the_place_of_the_record(copy):
    home, folder, genesis = copy
    merge = next(r for _, records in blocks(folder)[1:] for r in records if r.kind == MERGE)
    flip(folder / "chain.sqlite", merge.encode(), -10)
    done = audit(home, genesis)
    assert done.exit_code == 1
    assert "block 1.1: " in done.stdout
    assert done.stdout.count("is sound") == 1  # the other ledger has been looked at all the same
    assert audit(folder / "chain.sqlite", genesis).exit_code == 1


def test_what_lies_beside_the_chain_counts(copy):
    home, folder, genesis = copy
    charter, contract = (folder / "charter").read_bytes(), (folder / "contract").read_bytes()
    for name, content, why in (
        ("charter", charter[:-5] + bytes([charter[-5] ^ 1]) + charter[-4:], "not signed by its founder"),
        ("contract", b"another training", "not one of this training"),
        ("contract", b"\xff", "no text"),
        ("contract", None, "cannot be read"),
    ):
        (folder / "charter").write_bytes(charter)
        (folder / "contract").write_bytes(contract)
        assert audit(home, genesis).exit_code == 0
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        done = audit(home, genesis)
        assert done.exit_code == 1
        assert why in done.stdout


def test_a_start_is_asked_for_of_a_chain_alone(copy):
    _, folder, genesis = copy
    good = Charter.decode((folder / "charter").read_bytes()).id.hex()
    assert ", the one beside it." in audit(folder / "chain.sqlite", genesis).stdout
    done = audit(folder / "chain.sqlite", genesis, "--start", good)
    assert (done.exit_code, "the one asked for" in done.stdout) == (0, True)
    assert audit(folder / "chain.sqlite", genesis, "--start", "00" * 32).exit_code == 1
    assert "no shared chain" in audit(folder, genesis, "--start", "00" * 32).stderr
    assert audit(folder, "00" * 32).exit_code == 1


def test_merges_that_no_voter_would_vote_for(copy):
    _, folder, _ = copy
    found = blocks(folder)

    def judged(*records, state=found[0][0], before=()):
        judge = MergeJudge()
        assert not any(judge(state, record) for state, records in before for record in records)
        return [judge(state, record) for record in records][-1]

    assert judged(found[0][1][0], before=found) == ""
    (state, second), first = found[1], found[:1]
    check_ins, merges = ([r for r in second if r.kind == kind] for kind in (CHECK_IN, MERGE))
    assert judged(*check_ins, *merges, state=state, before=first) == ""
    assert "2 are needed" in judged(*check_ins[:1], *merges, state=state, before=first)
    assert "not of epoch 0" in judged(*check_ins, *merges, state=state)
    assert "merge of nothing" in judged(*merges, state=state, before=first)
    note = Record.make(Identity.from_seed(bytes(32)), "note", {}, time=0)
    assert "does not belong" in judged(note)


def test_no_charter_no_audit(tmp_path):
    (tmp_path / "chain.sqlite").write_bytes(b"")
    done = audit(tmp_path, "00" * 32)
    assert done.exit_code == 1
    assert "cannot be read" in done.stdout
    assert not isinstance(done.exception, LedgerError)
