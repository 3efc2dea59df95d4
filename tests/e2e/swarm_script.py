"""A practitioner's script for tests: digits in PyTorch, with a callback. ``swarm_script.py SITE '{"epochs": 3, ...}'``.

It says on stdout, one JSON object a line, which merge it has adopted and when, and at the end the hash of its model.
With ``"until": FILE`` it trains until there is such a file.
"""

import hashlib
import itertools
import json
import sys
import threading
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from coterie import SwarmCallback

torch.set_num_threads(1)


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(site, how):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    x_test, y_test, x, y = x[:360], y[:360], x[360 + site :: 3], y[360 + site :: 3]
    torch.manual_seed(site)
    model = nn.Sequential(nn.Linear(64, how.get("hidden", 32)), nn.ReLU(), nn.Linear(how.get("hidden", 32), 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    swarm = SwarmCallback(model=model, **{"syncFrequency": 10, "minPeers": 2, **how.get("swarm", {})})
    accept = swarm.participation._accept

    def told(adapter, merged):
        accept(adapter, merged)
        say(merge=merged.round, peers=merged.peers, over=merged.over, at=time.monotonic())

    swarm.participation._accept = told
    end = Path(how["until"]) if "until" in how else None
    for epoch in swarm.epochs(how.get("epochs", 3) if end is None else itertools.count()):
        for i in torch.randperm(len(x)).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
            time.sleep(how.get("seconds", 0.0))  # a batch takes so long
            swarm.on_batch_end()
        if how.get("stop_after") == epoch:
            sys.exit(3)  # without a word to the swarm
        if end is not None and end.exists():
            swarm.on_train_end()
            break
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    accuracy = (model(x_test).argmax(1) == y_test).float().mean()
    threads = sorted(each.name for each in threading.enumerate() if not each.daemon)
    say(final=hashlib.sha256(vector.numpy().tobytes()).hexdigest(), accuracy=float(accuracy), threads=threads)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
