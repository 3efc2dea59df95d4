"""What a swarm's model is worth: credit at four very unequal sites, MNIST at three, beside each site and all data.

Each swarm is a real one: a process a site runs ``examples/swarm/*_swarm.py`` as it is written, over TLS on loopback.
The sites alone and central training run the plain script, on one site's data and on the union of all.

credit: AUC on the test set of 6,000 clients. Sites of 3,500 / 4,000 / 2,500 / 1,000 clients of whom 0.1 / 0.2 / 1.5 /
50 % default, drawn anew with each seed, as is the initial model; node weights 3, 3, 4, 10. Every site, alone and in the
swarm, and central training do the same number of steps; "central, all steps" does as many as the four sites together.
Bounds: the mean over the seeds above that of every single site, and at most 0.01 below both central ones.

mnist: accuracy on the 10,000 test images. Three sites of 20,000 images each, and central training on the 60,000, all
for the same number of epochs. Towards the end central training is the noisier one, as nothing averages its last steps:
"central, lr 0.02" has less than half the script's learning rate. Bound: at most 0.3 points below both.

The examples' settings were chosen with other seeds (100 to 105), on training rows that no site holds (credit) or on the
last 6,000 training images (mnist), with the swarm imitated by averaging in one process; never on the test set.

    COTERIE_DATA=DIR python benchmarks/swarm_accuracy.py [--tasks credit mnist] [--seeds 5] [--steps 1500] [--epochs 3]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples/swarm"
SITES = {"credit": 4, "mnist": 3}
GAPS = {"credit": 0.01, "mnist": 0.003}
"""How far below central training the swarm may be."""
_DEADLINE = 900.0


def script(name: str, site: int | None, seed: int, settings: dict[str, Any]) -> tuple[Any, float]:
    """One example, run in this process: its model and figure. ``site`` None: on the data of all sites."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        model, figure = importlib.import_module(name).main(site, **settings)
    return model, figure


class Merges(logging.Handler):
    """Of each merge that this process' callback logs, how many models went into it."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[int] = []
        log = logging.getLogger("coterie.swarm")
        log.addHandler(self)
        log.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("merge ") and isinstance(record.args, tuple):
            self.models.append(int(str(record.args[1])))


def worker(name: str, site: int, seed: int, settings: dict[str, Any]) -> None:
    """A site of a swarm, in this process; says on stdout what came of it."""
    import torch

    merges = Merges()
    model, figure = script(name, site, seed, settings)
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    found = {"figure": figure, "hash": hashlib.sha256(vector.numpy().tobytes()).hexdigest(), "merges": merges.models}
    sys.stdout.write(json.dumps(found) + "\n")


def swarm(name: str, sites: int, seed: int, settings: dict[str, Any]) -> tuple[float, str]:
    """The figure of the model that all sites ended with, and how it went. Raises RuntimeError where they differ."""
    from coterie.runtime.node.founding import found_run, spec_to_found

    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as closing:
        folder, names = Path(made), [f"site-{number}" for number in range(sites)]
        folders = [folder / each for each in names]
        homes = found_run(folders, spec_to_found(None, "benchmark"), None, names, list(range(sites)))
        command = [sys.executable, __file__, "--worker", name, "--seeds", str(seed), "--settings", json.dumps(settings)]
        began, processes = time.monotonic(), []
        for site, home in enumerate(homes):
            log = closing.enter_context((folder / f"{site}.log").open("wb"))
            processes.append(
                subprocess.Popen(  # noqa: S603 - our own interpreter
                    [*command, "--site", str(site)],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=os.environ | {"COTERIE_HOME": str(home.path), "OMP_NUM_THREADS": "1"},
                )
            )
            closing.callback(processes[-1].kill)
        introduce(homes, processes)
        said = [process.communicate(timeout=_DEADLINE)[0] for process in processes]
        if any(process.returncode for process in processes):
            raise RuntimeError("\n".join((folder / f"{site}.log").read_text() for site in range(sites)))
    found = [json.loads(each.splitlines()[-1]) for each in said]
    if len({each["hash"] for each in found}) > 1:
        raise RuntimeError(f"the sites ended with different models: {found}")
    merges = found[0]["merges"]
    whole = sum(count == sites for count in merges)
    told = f"{len(merges)} merges, {whole} of them of all sites, {time.monotonic() - began:.0f} s"
    return found[0]["figure"], told


def introduce(homes: list[Any], processes: list[subprocess.Popen[str]]) -> None:
    """Tell each site where the others listen, once all answer."""
    from coterie.errors import NodeError
    from coterie.runtime.node.control import call

    ports: dict[str, str] = {}
    end = time.monotonic() + 120
    while len(ports) < len(homes):
        if time.monotonic() > end or any(process.poll() is not None for process in processes):
            raise RuntimeError("the sites do not start")
        for home in homes:
            with contextlib.suppress(NodeError):
                ports[home.identity.id] = f"127.0.0.1:{call(home.socket, {'command': 'status'}, seconds=5)['port']}"
        time.sleep(0.1)
    for home in homes:
        call(home.socket, {"command": "addresses", "addresses": ports})


def compare(task: str, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """All figures of one seed, by name."""
    name, sites = f"{task}_pytorch", SITES[task]
    found = {f"site {site} alone": script(name, site, seed, settings)[1] for site in range(sites)}
    found["central"] = script(name, None, seed, settings)[1]
    if task == "credit":
        found["central, all steps"] = script(name, None, seed, settings | {"steps": sites * settings["steps"]})[1]
    else:
        found["central, lr 0.02"] = script(name, None, seed, settings | {"lr": 0.02})[1]
    found["swarm"], told = swarm(f"{name}_swarm", sites, seed, settings)
    print(f"{task}, seed {seed}: " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()) + f"  ({told})", flush=True)
    return found


def judge(task: str, runs: list[dict[str, float]]) -> bool:
    """Print means and deviations over the seeds, and whether the bounds are kept."""
    means = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    print(f"{task}: mean ± standard deviation over {len(runs)} seeds; the swarm's lead on each, mean and least")
    for name, mean in means.items():
        leads = [run["swarm"] - run[name] for run in runs]
        deviation = statistics.pstdev(run[name] for run in runs)
        lead = "" if name == "swarm" else f"{statistics.fmean(leads):+10.4f}{min(leads):+10.4f}"
        print(f"  {name:20s}{mean:8.4f} ± {deviation:.4f}{lead}")
    swarm = means["swarm"]
    above = all(swarm > mean for name, mean in means.items() if "alone" in name)
    near = all(swarm >= mean - GAPS[task] for name, mean in means.items() if "central" in name)
    print(f"  above every single site: {above}; at most {GAPS[task]} below central: {near}", flush=True)
    return above and near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(SITES), default=list(SITES))
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ... so many")
    parser.add_argument("--steps", type=int, default=1500, help="of credit")
    parser.add_argument("--epochs", type=int, default=3, help="of mnist")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--site", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(EXAMPLES))
    if options.worker:
        worker(options.worker, options.site, options.seeds, options.settings)
        return
    kept = True
    for task in options.tasks:
        of_credit = task == "credit"
        settings = {"steps": options.steps} if of_credit else {"epochs": options.epochs}
        runs = [compare(task, seed, settings | ({"seed": seed} if of_credit else {})) for seed in range(options.seeds)]
        kept &= judge(task, runs)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
