"""Who will default, learned in PyTorch at one of four very unequal sites: ``python credit_pytorch.py SITE``, 0 to 3."""

import sys

import torch
from sites import credit
from sklearn.metrics import roc_auc_score
from torch import nn


def main(site, steps=1500, seed=0):
    torch.manual_seed(seed)
    x, y, x_test, y_test = map(torch.from_numpy, credit(site, seed))
    model = nn.Sequential(nn.Linear(23, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _step in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch].float())
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        auc = roc_auc_score(y_test, model(x_test)[:, 0])
    print(f"site {site}: {len(x)} clients, {int(y.sum())} defaults, AUC {auc:.4f}")
    return model, float(auc)


if __name__ == "__main__":
    main(int(sys.argv[1]))
