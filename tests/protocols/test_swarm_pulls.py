"""Models on their way: nobody who is slow, silent or gone holds up another, and each is kept once."""

from __future__ import annotations

import math

import msgspec
import torch
from swarm_world import SIZE, Disk, snapshot

from coterie.protocols.swarm import Settings, lead_order, models
from coterie.protocols.swarm.shelf import Shelf
from coterie.runtime.simulation.transport import Endpoint

QUICK = Settings(full_wait=1.0, deadline=60.0)


def test_a_site_that_does_not_give_its_model_holds_up_no_other_pull(worlds, monkeypatch):
    monkeypatch.setattr(models, "_SLOWEST", 4 * SIZE / 60)  # large models: each may take a minute
    world = worlds(count=6, rounds=4, settings=QUICK).begin()
    world.until(lambda: world.nodes["s0"].state.epoch == 1)
    mute = [world.nodes[name] for name in ("s1", "s2", "s3")]
    for node in mute:
        node.peer._on_pull = lambda *_: None
    seconds = world.until(lambda: world.nodes["s0"].site.adopted[-1].round > 1, 200)
    assert 60 < seconds < 60 + 3 + 10, "they are waited for once, together"
    assert {"s0", "s4", "s5"} <= set(world.nodes["s0"].site.adopted[-1].shared)


def test_one_that_dies_while_its_model_is_pulled_is_not_waited_for(worlds, monkeypatch):
    monkeypatch.setattr(models, "_SLOWEST", 4 * SIZE / 600)
    world = worlds(count=4, rounds=4, settings=QUICK).begin()
    training = world.nodes["s0"].swarm.training
    last = lead_order([voter.key for voter in training.voters.members], {}, training.state.beacon)[-1]
    mute = world.nodes[world.peer_of[last]]  # it does not lead itself
    mute.peer._on_pull = lambda *_: None
    others = [node for node in world.nodes.values() if node is not mute]
    world.until(lambda: any(node.swarm.training.models._got for node in others))
    world.wait(5.0)
    assert training.state.epoch == 0
    mute.die()
    assert world.until(lambda: all(node.state.epoch == 1 for node in others)) < 3 * QUICK.silence + 2.0


def test_one_whose_model_is_on_its_way_is_there_though_it_is_not_heard(worlds, monkeypatch):
    world = worlds(count=3, rounds=3).begin()
    training = world.nodes["s0"].swarm.training
    key, since = world.keys["s1"], [0.1]
    monkeypatch.setattr(Endpoint, "since_bytes", lambda self, peer: since[0] if peer == "s1" else math.inf)
    world.until(lambda: training.check_in is not None)
    world.nodes["s1"].die()
    world.wait(2 * training.settings.silence)
    assert training.there(key)
    since[0] = training.settings.silence
    assert not training.there(key)
    since[0] = 0.1
    heard = training.roll.heard[key]
    heard.beat = msgspec.structs.replace(heard.beat, leaving=True)
    assert not training.there(key), "what is on its way does not bring back one that has left"


def test_a_model_is_written_to_the_store_once(worlds):
    world = worlds(count=3, rounds=6)
    written, node = [], world.nodes["s0"]
    put = node.disk.put

    def noted(key, value):
        if key.startswith("swarm-model-") and value is not None:
            written.append(value[0])
        put(key, value)

    node.disk.put, node.site.remembers = noted, False
    world.begin()
    world.finish()
    assert len(written) == len(set(written)) == 6 + 1, "what was merged, and this site's last model"
    assert node.state.merged in written
    kept = [value for key, value in node.disk.values.items() if key.startswith("swarm-model-") and value is not None]
    assert len(kept) <= 2


def test_a_shelf_has_what_was_written_and_nothing_else():
    disk = Disk()
    one, two, three = (snapshot(torch.full((SIZE,), float(n))) for n in range(3))
    shelf = Shelf(disk, {})
    shelf.put({b"1": one, b"2": two})
    early = dict(shelf.places)
    shelf.keep({b"2": two})
    assert (shelf.get(b"1"), shelf.get(b"2")) == (None, two)
    shelf.put({b"3": three})
    again = Shelf(disk, shelf.places)
    assert (again.get(b"2"), again.get(b"3")) == (two, three)
    stale = Shelf(disk, early)  # a crash came before what refers to the new one was written
    assert (stale.get(b"1"), stale.get(b"2")) == (None, two)


def test_who_wants_the_same_model_waits_for_the_first_and_it_comes_once(worlds):
    world = worlds(count=3, rounds=4).begin()
    world.until(lambda: world.nodes["s0"].state.epoch == 1)
    node, other = world.nodes["s0"], world.nodes["s1"]
    made = snapshot(torch.arange(float(SIZE)))
    digest, asked, answer = made.digest(), [], other.peer._on_pull
    other.swarm.training.models.publish(digest, made, 1)

    def noted(sender, envelope, pull):
        asked.append(pull.channel)
        answer(sender, envelope, pull)

    other.peer._on_pull = noted
    gets = [world.loop.create_task(node.swarm.training.models.get(digest, ["s1"])) for _ in range(3)]
    world.until(lambda: gets[0].done())
    world.until(lambda: all(get.done() for get in gets))
    assert all(get.result().digest() == digest for get in gets)
    assert asked.count(models.channel_of(digest)) == 1


def test_one_that_is_too_slow_is_waited_for_as_long_as_one_model_may_take(worlds, monkeypatch):
    monkeypatch.setattr(models, "_SLOWEST", 4 * SIZE / 60)
    monkeypatch.setattr(Endpoint, "since_bytes", lambda self, peer: 0.1 if peer == "s1" else math.inf)
    world = worlds(count=6, rounds=4, settings=QUICK).begin()
    world.until(lambda: world.nodes["s0"].state.epoch == 1)
    world.nodes["s1"].peer._on_pull = lambda *_: None
    seconds = world.until(lambda: world.nodes["s0"].site.adopted[-1].round > 1, 500)
    assert 60 < seconds < 60 + 3 + 10, "not for as long as all six may take together"
