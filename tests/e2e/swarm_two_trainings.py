"""A script with two callbacks, one training each, and a loader whose workers fork: ``swarm_two_trainings.py SITE``."""

import json
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from coterie import SwarmCallback


def main(site):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x[site::2] / 16, dtype=torch.float32), torch.tensor(y[site::2])
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, num_workers=2)
    torch.manual_seed(site)
    models = [nn.Linear(64, 10), nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))]
    swarms = [
        SwarmCallback(syncFrequency=10, minPeers=2, model=model, trainingContract=f"model {number}")
        for number, model in enumerate(models)
    ]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    for swarm in swarms:
        swarm.on_train_begin()
    for _ in range(2):
        for images, labels in loader:
            for model, optimizer, swarm in zip(models, optimizers, swarms, strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                swarm.on_batch_end()
    for swarm in swarms:
        swarm.on_train_end()
    sums = [[float(parameter.detach().double().sum()) for parameter in model.parameters()] for model in models]
    sys.stdout.write(json.dumps({"final": str(sums)}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
