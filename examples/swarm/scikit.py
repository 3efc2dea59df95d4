"""Digits in scikit-learn, on this site's part of them: ``python scikit.py SITE``, with SITE 0, 1 or 2."""

import sys

from sites import digits
from sklearn.neural_network import MLPClassifier


def main(site, epochs=20):
    x, y, x_test, y_test = digits(site)
    model = MLPClassifier(32, random_state=0)
    model.partial_fit(x[:10], y[:10], classes=range(10))
    for _epoch in range(epochs):
        for start in range(0, len(x), 32):
            model.partial_fit(x[start : start + 32], y[start : start + 32])
    right = model.score(x_test, y_test)
    print(f"site {site}: accuracy {right:.4f}")
    return model, right


if __name__ == "__main__":
    main(int(sys.argv[1]))
