"""A script as a site: what it brings reaches the protocol, and what comes of it the script, in whatever order."""

import asyncio
import hashlib
from pathlib import Path

import pytest
import torch

from coterie.errors import NodeError
from coterie.layout import Layout, Slot
from coterie.network import MemorySnapshot
from coterie.network.spool import Spool, SpooledSnapshot
from coterie.protocols.swarm import Adopted, Mode, Part, Shared, Terms
from coterie.swarm.session import CheckIn
from coterie.swarm.site import ScriptSite, rule_of
from coterie.training.frameworks import Figures

SIZE = 3
LAYOUT = Layout((Slot("w", (SIZE,), (1,), "float32", 0),), SIZE, SIZE)


def site(merge="mean", said=None, spool=None):
    said = [] if said is None else said
    return ScriptSite(Terms("t", 2, 7, merge=merge, opening=True), LAYOUT, spool, said.append)


def vector(value):
    return torch.full((SIZE,), float(value))


def snapshot(value):
    return MemorySnapshot(LAYOUT.hash, vector(value))


def checkin(value, weight=1, **rest):
    return CheckIn(vector(value), weight, 7, 2, Figures(0.5, None), **rest)


def adopted(value, round=1, over=False):
    return Adopted(snapshot(value), round, 9, over, "p", {"p": Shared(1.0, None, None, 0, False)})


def test_a_check_in_and_what_comes_of_it():
    async def talk():
        own = site()
        script = asyncio.create_task(own.bring(checkin(3, weight=5)))
        taken = await own.check_in(0)
        assert torch.equal(taken.snapshot.tensor(), vector(3))
        assert taken.digest == hashlib.sha256(vector(3).numpy().tobytes()).digest()
        assert await own.digest(snapshot(3)) == taken.digest
        assert (taken.weight, taken.steps, taken.epochs, taken.loss, taken.ending) == (5, 7, 2, 0.5, False)
        await own.adopt(adopted(4))
        merged = await script
        assert torch.equal(merged.vector, vector(4))
        assert (merged.round, merged.peers, merged.next_interval, merged.over) == (1, 1, 9, False)

    asyncio.run(talk())


def test_what_is_brought_is_not_copied():
    async def talk():
        own, brought = site(), checkin(3)
        script = asyncio.create_task(own.bring(brought))
        assert (await own.check_in(0)).snapshot.tensor().data_ptr() == brought.vector.data_ptr()
        script.cancel()

    asyncio.run(talk())


def test_a_late_joiner_begins_with_what_was_merged():
    async def talk():
        own = site()
        script = asyncio.create_task(own.bring(checkin(3)))
        await asyncio.sleep(0)
        await own.adopt(adopted(4, round=8))
        assert (await script).round == 8
        waits = asyncio.create_task(own.check_in(8))
        await asyncio.sleep(0.01)
        assert not waits.done()  # what it brought is no check-in any more
        script = asyncio.create_task(own.bring(checkin(5)))
        assert torch.equal((await waits).snapshot.tensor(), vector(5))
        script.cancel()

    asyncio.run(talk())


def test_where_nothing_can_be_merged_it_trains_on_alone():
    async def talk():
        own = site()
        script = asyncio.create_task(own.bring(checkin(3)))
        await own.check_in(0)
        again = asyncio.create_task(own.check_in(0))
        merged = await script
        assert torch.equal(merged.vector, vector(3))
        assert (merged.peers, merged.next_interval) == (1, 7)
        script = asyncio.create_task(own.bring(checkin(6)))
        assert torch.equal((await again).snapshot.tensor(), vector(6))
        await own.adopt(adopted(7))
        assert torch.equal((await script).vector, vector(7))

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("weight", "mode", "found"),
    [(3, "snapshot", Mode.SNAPSHOT), (3, "active", Mode.ACTIVE), (0, "inactive", Mode.INACTIVE)],
)
def test_the_end_waits_for_the_final_model(weight, mode, found):
    async def talk():
        own = site()
        script = asyncio.create_task(own.bring(checkin(3, weight, mode=mode), ending=True))
        taken = await own.check_in(1)
        assert (taken.ending, taken.mode, taken.weight) == (True, found, max(1, weight))
        await own.adopt(adopted(4, round=2))
        await asyncio.sleep(0.01)
        assert not script.done()
        await own.adopt(adopted(5, round=3, over=True))
        assert (await script).over
        assert torch.equal((await own.bring(checkin(9), ending=True)).vector, vector(5))

    asyncio.run(talk())


def test_after_an_interrupt_the_next_call_has_the_answer():
    async def talk():
        own = site()
        script = asyncio.create_task(own.bring(checkin(3)))
        await own.check_in(0)
        script.cancel()
        await asyncio.wait([script])
        await own.adopt(adopted(4))
        assert torch.equal((await own.bring(checkin(8))).vector, vector(4))
        script = asyncio.create_task(own.bring(checkin(9)))
        assert torch.equal((await own.check_in(1)).snapshot.tensor(), vector(9))
        script.cancel()

    asyncio.run(talk())


def test_a_training_that_fails_tells_who_waits_and_who_calls_later():
    async def talk():
        own = site()
        script = asyncio.create_task(own.bring(checkin(3)))
        await own.check_in(0)
        own.fail(NodeError("gone"))
        for work in (script, own.bring(checkin(4))):
            with pytest.raises(NodeError, match="gone"):
                await work
        assert own.failed

    asyncio.run(talk())


def last_one(own, received, context, state, judge):
    """The last of the models, whatever they weigh."""
    return received[-1], torch.tensor([0.0] * len(received) + [1.0]), None


@pytest.mark.parametrize(
    ("merge", "values", "weights", "found"),
    [
        ("mean", [1, 2, 6], [1, 1, 2], 3.75),
        ("coordmedian", [1, 2, 6], [1, 1, 1], 2),
        ("geomedian", [1, 2, 60], [1, 1, 1], 2),
        ("median", [1, 2, 6], [1, 1, 1], 2),
        (f"{Path(__file__)}:last_one", [1, 2, 6], [1, 1, 1], 6),
        (last_one, [1, 2, 6], [1, 1, 1], 6),
    ],
)
def test_merges(merge, values, weights, found):
    own = site(merge)
    parts = [Part(f"p{n}", snapshot(v), w, 1) for n, (v, w) in enumerate(zip(values, weights, strict=True))]
    made = asyncio.run(own.merge(parts, None, 0))
    assert torch.allclose(made.tensor(), vector(found), atol=1e-4)
    assert made.layout_hash == LAYOUT.hash


@pytest.mark.parametrize("merge", ["mean", "coordmedian", "geomedian", "median", last_one])
def test_a_merge_of_models_on_disk_to_disk_has_the_same_bits(tmp_path, merge):
    spool, held = Spool(tmp_path), [vector(value) for value in (1, 2, 6, 7)]
    kept = []
    for elements in held:
        kept.append(spool.room(LAYOUT.hash, SIZE))
        kept[-1].write(0, elements.numpy())

    def merged(own, models):
        return asyncio.run(own.merge([Part(f"p{n}", each, 1 + n % 2, 1) for n, each in enumerate(models)], None, 0))

    made = merged(site(merge, spool=spool), [MemorySnapshot(LAYOUT.hash, held[0]), *kept[1:]])
    assert isinstance(made, SpooledSnapshot)
    same = merged(site(merge), [MemorySnapshot(LAYOUT.hash, elements) for elements in held])
    assert isinstance(same, MemorySnapshot)
    assert torch.equal(made.tensor(), same.tensor())
    assert made.digest() == same.digest() == asyncio.run(site().digest(made))


def test_without_room_on_disk_a_merge_is_in_memory(tmp_path):
    (tmp_path / "models").write_bytes(b"in the way")
    made = asyncio.run(site(spool=Spool(tmp_path / "models")).merge([Part("p", snapshot(4), 1, 1)], None, 0))
    assert torch.equal(made.tensor(), vector(4))


def test_a_rule_that_is_a_function_is_itself():
    assert rule_of(last_one) is last_one


def test_what_the_user_is_told():
    said = []
    own = site(said=said)
    own.blocked("two are missing")
    own.blocked(None)
    assert said == ["two are missing", None]
