"""MNIST in PyTorch, on this site's part of it and together with others: ``python mnist_pytorch_swarm.py SITE``."""

import sys

import torch
from sites import mnist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from coterie import SwarmCallback


def main(site, epochs=3, samples=None, lr=0.05):
    x, y, x_test, y_test = map(torch.from_numpy, mnist(site, samples=samples))
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    swarm = SwarmCallback(syncFrequency=20, minPeers=2, model=model)
    for _epoch in swarm.epochs(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            swarm.on_batch_end()
    model.eval()
    with torch.no_grad():
        right = (model(x_test).argmax(1) == y_test).float().mean()
    print(f"site {site}: accuracy {right:.4f}")
    return model, float(right)


if __name__ == "__main__":
    main(int(sys.argv[1]))
