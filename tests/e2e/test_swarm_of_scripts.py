"""Training scripts in processes of their own: one model in the end, whoever is killed, late, or leaves."""

import signal
import sys

import pytest
from real_nodes import wait_until
from real_scripts import one_model, swarm

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets and signals")


def test_three_scripts_end_with_one_model(tmp_path):
    with swarm(tmp_path) as made:
        for site in made.sites:
            site.start(epochs=6)
        made.introduce(*made.sites)
        said = one_model(made.sites)
        assert said["accuracy"] > 0.85
        assert said["threads"] == ["MainThread"]


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_one_that_is_killed_and_starts_again_ends_with_the_same_model(tmp_path, victim):
    with swarm(tmp_path) as made:
        for site in made.sites:
            site.start(epochs=10, seconds=0.03)
        made.introduce(*made.sites)
        killed, other = made.sites[victim], made.sites[2]
        other.wait_for_merge(3)
        killed.kill()
        other.wait_for_merge(other.merges + 2)
        killed.start(epochs=4, seconds=0.03)
        made.introduce(*made.sites)
        one_model(made.sites)
        first = next(each["merge"] for each in killed.said)
        assert first >= 3, "it goes on from what was merged"


@pytest.mark.soak
def test_the_others_end_without_one_that_is_gone(tmp_path):
    with swarm(tmp_path) as made:
        made.sites[0].start(epochs=8, stop_after=1, seconds=0.02)
        for site in made.sites[1:]:
            site.start(epochs=8, seconds=0.02)
        made.introduce(*made.sites)
        made.sites[0].end(status=3)
        one_model(made.sites[1:])


@pytest.mark.soak
def test_a_late_one_begins_with_the_last_model(tmp_path):
    with swarm(tmp_path) as made:
        early, late = made.sites[:2], made.sites[2]
        for site in early:
            site.start(epochs=10, seconds=0.03)
        made.introduce(*early)
        early[0].wait_for_merge(5)
        late.start(epochs=3, seconds=0.03)
        made.introduce(*made.sites)
        one_model(made.sites)
        assert next(each["merge"] for each in late.said) >= 5


@pytest.mark.soak
def test_one_alone_says_what_it_waits_for_and_begins_when_the_others_come(tmp_path):
    with swarm(tmp_path, 2) as made:
        first, second = made.sites
        first.start(epochs=2)
        wait_until("it says so", lambda: "waits for sites: 1 of at least 2" in first.words)
        assert "not started: site-1" in first.words
        second.start(epochs=2)
        made.introduce(first, second)
        one_model(made.sites)


def test_below_min_peers_it_says_so_and_goes_on_when_the_other_is_back(tmp_path):
    with swarm(tmp_path, 2) as made:
        first, second = made.sites
        for site in made.sites:
            site.start(epochs=8, seconds=0.03)
        made.introduce(first, second)
        first.wait_for_merge(3)
        second.kill()
        wait_until("it says so", lambda: "can be reached" in first.words)
        assert "site-1" in first.words
        second.start(epochs=4, seconds=0.03)
        made.introduce(first, second)
        one_model(made.sites)


@pytest.mark.soak
def test_an_interrupted_script_ends_and_the_others_go_on(tmp_path):
    with swarm(tmp_path) as made:
        for site in made.sites:
            site.start(epochs=10, seconds=0.03)
        made.introduce(*made.sites)
        made.sites[1].wait_for_merge(3)
        made.sites[1].process.send_signal(signal.SIGINT)
        made.sites[1].end(status=-signal.SIGINT)
        assert "KeyboardInterrupt" in made.sites[1].words
        one_model([made.sites[0], made.sites[2]])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"hidden": 16}, "the model is another one (1,210 numbers here and 2,410 there)"),
        ({"swarm": {"syncFrequency": 20}}, "sync_frequency 20 here and 10 there"),
    ],
)
def test_other_settings_are_named_with_who_has_them(tmp_path, other, told):
    with swarm(tmp_path) as made:
        one, two, three = made.sites
        one.start(epochs=4)
        wait_until("it waits", lambda: "waits for sites" in one.words)
        three.start(epochs=4, **other)
        made.introduce(one, three)
        three.end(status=1)
        assert "the others train on other terms: at site-0" in three.words
        assert told in three.words
        two.start(epochs=4)
        made.introduce(one, two)
        one_model([one, two])
