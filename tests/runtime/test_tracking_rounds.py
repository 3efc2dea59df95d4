"""Records become rounds, in order and once each; a tracker that fails is given the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from coterie.runtime.results import PeerMetrics, RunDirectory
from coterie.runtime.tracking.figures import Rounds, of_round, parameters
from coterie.runtime.tracking.follow import Reader, feed


def record(round: int, peer: int, **changes: Any) -> PeerMetrics:
    values = {"attacker": False, "time": 0.0, "accuracy": 0.5, "loss": 1.0, "train_loss": None, "bytes_sent": 1}
    return PeerMetrics(round=round, peer=f"peer-{peer}", index=peer, **{**values, **changes})


@given(st.permutations([(round, peer) for round in range(4) for peer in range(3)]), st.sets(st.integers(0, 11)))
def test_rounds_come_once_and_in_order(order: list[tuple[int, int]], lost: set[int]) -> None:
    rounds = Rounds(3)
    kept = [pair for index, pair in enumerate(order) if index not in lost]
    found = [over for round, peer in kept for over in rounds.add(record(round, peer))]
    found += rounds.rest()
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= {round for round, _ in kept}
    rounds = Rounds(3)
    tidy = [over for round, peer in sorted(kept) for over in rounds.add(record(round, peer))] + [*rounds.rest()]
    assert {number: figures["bytes_sent"] for number, figures in tidy} == {
        round: float(sum(one == round for one, _ in kept)) for round, _ in kept
    }


def test_what_is_not_finite_is_left_out_and_attackers_do_not_count() -> None:
    found = of_round(
        [
            record(0, 0, loss=float("nan"), trust={"peer-0": 9.0, "peer-1": 0.5, "peer-2": 0.1}),
            record(0, 1, loss=2.0, attack_rate=0.25, trust={"peer-2": 0.3}),
            record(0, 2, attacker=True, accuracy=0.0, trust={"peer-0": 7.0}),
        ]
    )
    assert found == {
        "accuracy/mean": 0.5,
        "accuracy/min": 0.5,
        "accuracy/max": 0.5,
        "attack_rate/mean": 0.25,
        "trust/honest": 0.5,
        "trust/attackers": 0.2,
        "bytes_sent": 3.0,
    }


def test_parameters_are_the_keys_of_the_spec() -> None:
    tables = {"training": {"lr": 0.1, "schedule": "cosine"}, "attack": {"map": {"1": 7}}, "model": {"hidden": [1, 2]}}
    assert parameters(tables) == {
        "training.lr": "0.1",
        "training.schedule": "cosine",
        "attack.map.1": "7",
        "model.hidden": "[1, 2]",
    }


class Flaky:
    """Fails as often as it is told to, and then takes everything."""

    def __init__(self, failures: int) -> None:
        self.failures, self.taken, self.finished = failures, list[int](), False

    def rounds(self, rounds: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("down")
        self.taken += [number for number, _ in rounds]

    def finish(self) -> None:
        self.finished = True


def test_what_failed_is_given_again_and_half_lines_wait(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [msgspec.json.encode(record(round, 0)) + b"\n" for round in range(4)]
    written = iter([lines[0], lines[1] + lines[2][:20], lines[2][20:], lines[3]])
    told: list[str] = []

    def wait(seconds: float) -> bool:
        piece = next(written, None)
        if piece is not None:
            with path.open("ab") as stream:
                stream.write(piece)
        return piece is None

    tracker = Flaky(2)
    assert feed(tracker, Reader(RunDirectory(tmp_path), 1), wait, lambda error: told.append(str(error)))
    assert (tracker.taken, tracker.finished, told) == ([0, 1, 2, 3], True, ["down", "down"])


def test_a_tracker_that_is_down_to_the_end_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(msgspec.json.encode(record(0, 0)) + b"\n")
    tracker, looks = Flaky(10), iter([False, True])
    assert not feed(tracker, Reader(RunDirectory(tmp_path), 1), lambda _: next(looks), lambda _: None)
    assert not tracker.finished
