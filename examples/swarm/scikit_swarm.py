"""Digits in scikit-learn, on this site's part of them and together with others: ``python scikit_swarm.py SITE``."""

import sys

from sites import digits
from sklearn.neural_network import MLPClassifier

from coterie import SwarmCallback


def main(site, epochs=20):
    x, y, x_test, y_test = digits(site)
    model = MLPClassifier(32, random_state=0)
    model.partial_fit(x[:10], y[:10], classes=range(10))
    swarm = SwarmCallback(syncFrequency=15, minPeers=2, model=model)
    for _epoch in swarm.epochs(epochs):
        for start in range(0, len(x), 32):
            model.partial_fit(x[start : start + 32], y[start : start + 32])
            swarm.on_batch_end()
    right = model.score(x_test, y_test)
    print(f"site {site}: accuracy {right:.4f}")
    return model, right


if __name__ == "__main__":
    main(int(sys.argv[1]))
