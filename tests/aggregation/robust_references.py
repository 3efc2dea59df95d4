"""The robust rules once more, in numpy float64, straight from their formulas: ``rows`` (N, d), own first."""

import math

import numpy as np
from scipy import optimize, stats


def lost(share, count):
    return min(math.ceil(round(share * count, 9)), (count - 1) // 2)


def squares(rows):
    return ((rows[:, None] - rows[None]) ** 2).sum(axis=2)


def krum_scores(rows, f):
    table, near = squares(rows), max(1, len(rows) - f - 2)
    return [sum(sorted(table[j, k] for k in range(len(rows)) if k != j)[:near]) for j in range(len(rows))]


def krum(rows, f):
    return rows[int(np.argmin(krum_scores(rows, f)))]


def multi_krum(rows, f):
    return rows[np.argsort(krum_scores(rows, f), kind="stable")[: len(rows) - f]].mean(axis=0)


def median(rows, f=None):
    return np.median(rows, axis=0)


def trimmed_mean(rows, f):
    return stats.trim_mean(rows, f / len(rows) + 1e-9, axis=0)


def bulyan(rows, f):
    left, chosen = list(range(len(rows))), []
    for _ in range(len(rows) - 2 * f):
        best = left[int(np.argmin(krum_scores(rows[left], f)))]
        chosen.append(best)
        left.remove(best)
    keep = len(rows) - 4 * f
    if keep < 1:
        return np.median(rows[chosen], axis=0)
    found = []
    for column in rows[chosen].T:
        middle = np.median(column)
        found.append(np.mean(sorted(column, key=lambda value: (abs(value - middle), value))[:keep]))
    return np.array(found)


def geometric_median(rows, f=None):
    def cost(z):
        return np.linalg.norm(rows - z, axis=1).sum()

    options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 100_000, "maxfev": 100_000}
    return optimize.minimize(cost, np.median(rows, axis=0), method="Nelder-Mead", options=options).x


def nnm(rows, f):
    table = squares(rows)
    nearest = [np.argsort(table[j], kind="stable")[: len(rows) - f] for j in range(len(rows))]
    return np.array([rows[chosen].mean(axis=0) for chosen in nearest])


def spectral(rows, f):
    centred = rows - rows.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    return rows[np.argsort((centred @ direction) ** 2, kind="stable")[: len(rows) - f]].mean(axis=0)


def clipped(rows, centre, radius):
    moves = rows - centre
    norms = np.linalg.norm(moves, axis=1)
    return moves * np.minimum(1, radius / np.maximum(norms, 1e-300))[:, None]
