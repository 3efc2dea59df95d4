"""Rounds of FedAvg in Flower's simulation engine, for ``simulation.py``; runs in Flower's own environment.

    python flower_rounds.py MODEL PEERS ROUNDS IMAGES.npz

Prints one line ``seconds S`` a round: from the choice of clients to the aggregated model, without evaluation. The work
is that of the others: STEPS steps of BATCH samples of the client's own, plain SGD, one torch thread a client.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from typing import Any

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import numpy as np
import torch
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

STEPS, BATCH, CORES = 5, 32, 2
MODEL, PEERS, ROUNDS, FILE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


def module() -> nn.Module:
    """The models of ``coterie.training.models``, layer by layer."""
    if MODEL == "softmax":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if MODEL == "mlp":
        hidden = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))
    first = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*first, *second, *dense).to(memory_format=torch.channels_last)


class Client(NumPyClient):
    """One peer: its images are a slice of the shared file."""

    data: tuple[torch.Tensor, torch.Tensor] | None = None

    def __init__(self, number: int) -> None:
        self.number = number

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        torch.set_num_threads(1)
        if Client.data is None:  # once a worker process
            file = np.load(FILE)
            Client.data = torch.from_numpy(file["x_train"]), torch.from_numpy(file["y_train"])
        x, y = Client.data
        own, each = module(), len(y) // PEERS
        pairs = zip(own.state_dict(), parameters, strict=True)
        own.load_state_dict(OrderedDict((name, torch.from_numpy(value)) for name, value in pairs))
        optimizer, loss = torch.optim.SGD(own.parameters(), lr=0.05), nn.CrossEntropyLoss()
        for _ in range(STEPS):
            chosen = self.number * each + torch.randint(0, each, (BATCH,))
            optimizer.zero_grad()
            loss(own(x[chosen]), y[chosen]).backward()
            optimizer.step()
        return [value.numpy() for value in own.state_dict().values()], STEPS * BATCH, {}


class Timed(FedAvg):
    """FedAvg that says how long each round took."""

    def configure_fit(self, *arguments: Any, **options: Any) -> Any:
        self.started = time.perf_counter()
        return super().configure_fit(*arguments, **options)

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        outcome = super().aggregate_fit(server_round, results, failures)
        if failures or len(results) != PEERS:
            raise RuntimeError(f"{len(results)} results and {len(failures)} failures for {PEERS} clients")
        print(f"seconds {time.perf_counter() - self.started:.4f}", flush=True)
        return outcome


def server(context: Context) -> ServerAppComponents:
    """All clients in every round, no evaluation."""
    initial = ndarrays_to_parameters([value.numpy() for value in module().state_dict().values()])
    strategy = Timed(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=PEERS,
        min_available_clients=PEERS,
        initial_parameters=initial,
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))


def client(context: Context) -> Any:
    """The client of one node."""
    return Client(int(context.node_config["partition-id"])).to_client()


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=client),
        num_supernodes=PEERS,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": CORES, "include_dashboard": False},
        },
    )
