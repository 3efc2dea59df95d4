"""Training scripts as sites of a real swarm: homes, processes, and what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from real_nodes import Door, doors, wait_until

from coterie.errors import NodeError
from coterie.runtime.node.control import call
from coterie.runtime.node.founding import found_run, spec_to_found
from coterie.runtime.node.home import Home

SCRIPT = Path(__file__).with_name("swarm_script.py")


class Site:
    """One site's home, and the script that runs there now. ``how``: settings of ``swarm_script.py``."""

    def __init__(self, swarm: Swarm, number: int, home: Home) -> None:
        self.swarm, self.number, self.home, self.process = swarm, number, home, None
        self.starts = 0

    def start(self, script: Path = SCRIPT, arguments: list[str] | None = None, **how: Any) -> Site:
        self.starts += 1
        environment = os.environ | {
            **{"COTERIE_HOME": str(self.home.path), "KERAS_BACKEND": "torch"},
            "OMP_NUM_THREADS": "1",  # threads of several processes on few cores would wait for each other, spinning
        }
        words = [str(self.number), json.dumps(how)] if arguments is None else arguments
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *words], stdout=out, stderr=log, env=environment, cwd=self.swarm.folder
            )
        return self

    @property
    def out(self) -> Path:
        return self.swarm.folder / f"{self.number}-{self.starts}.out"

    @property
    def log(self) -> Path:
        return self.swarm.folder / f"{self.number}-{self.starts}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines() if line.startswith('{"')]

    @property
    def merges(self) -> int:
        """The last one that the script has adopted."""
        return max((each["merge"] for each in self.said if "merge" in each), default=0)

    def merges_after(self, moment: float) -> list[dict[str, Any]]:
        """Those that the script has gone on from since then, by ``time.monotonic()``, in which others had a part."""
        return [each for each in self.said if "merge" in each and each["at"] > moment and each["peers"] > 1]

    @property
    def words(self) -> str:
        """What its user has read."""
        return self.log.read_text(errors="replace")

    def answers(self) -> dict[str, Any] | None:
        assert self.running, f"site {self.number} ended: {self.words}"
        try:
            return call(self.home.socket, {"command": "status"}, seconds=5)
        except NodeError:
            return None

    def wait_for_merge(self, merge: int) -> None:
        def there() -> bool:
            assert self.running or self.merges >= merge, f"site {self.number} ended: {self.words}"
            return self.merges >= merge

        wait_until(f"merge {merge} at site {self.number}", there)

    def end(self, status: int = 0) -> dict[str, Any]:
        """Wait for its end; what it said last."""
        assert self.process is not None
        try:
            found = self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            raise AssertionError(f"site {self.number} does not end: {self.words}") from None
        assert found == status, f"site {self.number} ended with {found}: {self.words}"
        return self.said[-1] if self.said else {}

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Swarm:
    """A federation of scripts on this machine; all are members from the start. ``sets``: keys of its spec."""

    def __init__(self, folder: Path, sites: int, sets: Mapping[str, Any]) -> None:
        self.folder = folder
        names = [f"site-{number}" for number in range(sites)]
        spec = spec_to_found(None, "trial").with_values(dict(sets))
        homes = found_run([folder / name for name in names], spec, None, names, list(range(sites)))
        self.sites = [Site(self, number, home) for number, home in enumerate(homes)]

    def introduce(self, *sites: Site) -> None:
        """Wait until these answer, and tell each where the others are."""
        addresses = {peer: f"127.0.0.1:{port}" for peer, port in self._ports(sites).items()}
        for site in sites:
            call(site.home.socket, {"command": "addresses", "addresses": addresses})

    @contextmanager
    def doors_between(self, *parts: Sequence[Site]) -> Iterator[list[Door]]:
        """``introduce`` so that those of different parts meet through doors alone; the doors, open."""
        ports = self._ports([site for part in parts for site in part])
        with doors(ports, [[site.home.identity.id for site in part] for part in parts]) as (made, addresses):
            for site in self.sites:
                call(site.home.socket, {"command": "addresses", "addresses": addresses[site.home.identity.id]})
            yield made

    def _ports(self, sites: Sequence[Site]) -> dict[str, int]:
        return {
            site.home.identity.id: wait_until(f"site {site.number} answers", site.answers)["port"] for site in sites
        }

    def stop(self) -> None:
        for site in self.sites:
            if site.running:
                site.kill()


@contextmanager
def swarm(folder: Path, sites: int = 3, **sets: Any) -> Iterator[Swarm]:
    """A swarm whose scripts have not started; what still runs at the end is killed. ``sets``: of the spec's [swarm]."""
    made = Swarm(folder, sites, {f"swarm.{name}": value for name, value in sets.items()})
    try:
        yield made
    finally:
        made.stop()


def one_model(sites: list[Site], status: int = 0) -> dict[str, Any]:
    """Wait until all have ended well, with the same model; what one of them said last."""
    said = [site.end(status) for site in sites]
    finals = {each.get("final") for each in said}
    assert len(finals) == 1 and None not in finals, [(site.number, site.said[-3:]) for site in sites]
    return said[0]
