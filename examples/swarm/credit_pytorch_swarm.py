"""Who will default, learned in PyTorch at four very unequal sites together: ``python credit_pytorch_swarm.py SITE``."""

import sys

import torch
from sites import credit
from sklearn.metrics import roc_auc_score
from torch import nn

from coterie import SwarmCallback


def main(site, steps=1500, seed=0):
    torch.manual_seed(seed)
    x, y, x_test, y_test = map(torch.from_numpy, credit(site, seed))
    model = nn.Sequential(nn.Linear(23, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    swarm = SwarmCallback(syncFrequency=5, minPeers=3, nodeWeightage=(3, 3, 4, 10)[site], model=model)
    swarm.on_train_begin()
    for _step in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch].float())
        loss.backward()
        optimizer.step()
        if swarm.on_batch_end():
            break
    swarm.on_train_end()
    with torch.no_grad():
        auc = roc_auc_score(y_test, model(x_test)[:, 0])
    print(f"site {site}: {len(x)} clients, {int(y.sum())} defaults, AUC {auc:.4f}")
    return model, float(auc)


if __name__ == "__main__":
    main(int(sys.argv[1]))
