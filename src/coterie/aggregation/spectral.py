"""Rules that drop the rows that stick out along the direction in which the rows differ most.

Both need no more of the vectors than their distances. Own is one of the N = n + 1 rows and may be dropped like another.
f = min(ceil(byzantine N), floor(n / 2)) rows are dropped.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from coterie import registry
from coterie.aggregation.byzantine import Byzantine, attackers
from coterie.aggregation.geometry import Geometry, geometry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.aggregation.rows import Floats, combine, distances, products_with, recorded

_FORGOTTEN = 0.01
"""What is left of a peer's products when it is forgotten."""


@registry.rules.register("spectral")
def spectral(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.3,
) -> Result:
    """Divide and conquer (DnC): drop the f rows that stick out most along the main direction, average the others.

    With the rows minus their mean as a matrix and v its first right singular vector, the f rows of the largest
    <M_j - mean, v>^2 are dropped; of equal ones the later. v is never formed: the squares are those of the entries of
    the first eigenvector of the centred Gram matrix, times its eigenvalue. ``byzantine``: share of the rows that may be
    malicious; f of this module are always dropped, so raise it no higher than needed.

    The paper projects on a random subset of the coordinates, several times, and keeps what was never dropped, to save
    work; here all coordinates count, once, and nothing is random.

    ``own`` (d,), ``received`` (n, d), float32; float64 from the distances on. The state passes through. Source:
    Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and defenses for
    federated learning", NDSS 2021, algorithm 2.
    """
    weights = _drop(-0.5 * geometry(own, received).squares, attackers(byzantine, len(received) + 1))
    return combine(own, received, weights), recorded(weights), state


@registry.rules.register("spectral_history")
def spectral_history(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    byzantine: Byzantine = 0.3,
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.95,
) -> Result:
    """Spectral filtering on what peers did over many rounds: noise averages out, a common purpose does not.

    x = ``context.base``, U_j = M_j - x the moves, own included, clipped at their median norm tau: c_j = min(1, tau /
    |U_j|). For each pair of peers, starting from 0,

        K_jk <- memory K_jk,  and + c_j c_k <U_j, U_k> / tau^2 if both were heard

    From the K of those heard, its diagonal set to 0 and its rows and columns centred, the f with the largest squared
    entries of the first eigenvector but that of ones are dropped, of equal ones the later, and  vector = x + mean of
    c_j U_j  over the others. The diagonal goes because it holds the noise of each peer's own samples, which tells
    nothing of the others. In units of tau no round adds more than 1: otherwise one round in which most of the few
    peers heard were malicious, and tau theirs, would outweigh all others.

    ``byzantine``: share of the rows that may be malicious. ``memory``: raise it if honest peers are dropped for one odd
    round; lower it to notice sooner that a peer has changed its conduct. A peer is forgotten after so many rounds
    without a word that less than a hundredth of its products is left.

    ``own`` (d,), ``received`` (n, d), float32; products in float64, kept in float32. State: {"ids": peer ids, "heard":
    round of each, "products": K, an array}. A new identity comes without history: identities must persist. Source: the
    filter of Shejwalkar and Houmansadr, NDSS 2021 (see ``spectral``); history, clipping and the zero diagonal are
    Coterie's own.
    """
    count = len(received) + 1
    shape = geometry(own, received)
    norms = distances((own, *received), context.base)
    tau = float(np.median(norms))
    clips = np.ones(count)
    np.divide(tau, norms, out=clips, where=norms > tau)
    lengths = clips / tau if tau > 0 else np.zeros(count)
    moves = np.clip(_inner_products(shape, own, received, context.base) * np.outer(lengths, lengths), -1.0, 1.0)
    ids = (context.own_id, *context.peer_ids)
    state = _remember(state, ids, moves, context.round, memory)
    place = [state["ids"].index(peer) for peer in ids]
    past = state["products"][np.ix_(place, place)].astype(np.float64)
    np.fill_diagonal(past, 0.0)
    weights = _drop(past, attackers(byzantine, count))
    vector = combine(own, received, weights * clips, context.base)
    return vector, recorded(weights), state


def _drop(products: Floats, lost: int) -> Floats:
    """1 / (N - f) for the rows that stay, 0 for the f = ``lost`` that stick out; centres ``products`` (N, N).

    The vector of ones, of eigenvalue 0 once centred, is moved to the end: it is no direction in which rows differ, and
    without a diagonal all other eigenvalues may be negative.
    """
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    size = np.abs(centred).max()
    outlying = np.linalg.eigh(centred / size - 2.0)[1][:, -1] ** 2 if size > 0 else np.zeros(len(products))
    weights = np.zeros(len(products))
    weights[np.argsort(outlying, kind="stable")[: len(products) - lost]] = 1.0 / (len(products) - lost)
    return weights


def _inner_products(shape: Geometry, own: torch.Tensor, received: torch.Tensor, base: torch.Tensor) -> Floats:
    """<M_j - base, M_k - base>, shape (N, N), by way of the medoid, about which the Gram matrix is known."""
    medoid = (own, *received)[shape.centre]
    back = base - medoid
    towards = products_with(back, own, received)
    towards -= towards[shape.centre]
    found: Floats = shape.products - towards - towards[:, None] + float(torch.dot(back.double(), back.double()))
    return found


def _remember(old: State, ids: tuple[str, ...], moves: Floats, round: int, memory: float) -> dict[str, Any]:
    """The state with the products ``moves`` (N, N) of the peers ``ids`` added."""
    old = old or {"ids": (), "heard": (), "products": np.zeros((0, 0), dtype=np.float32)}
    kept = [
        k
        for k, (peer, heard) in enumerate(zip(old["ids"], old["heard"], strict=True))
        if peer in ids or memory ** max(round - heard, 0) >= _FORGOTTEN
    ]
    known = tuple(old["ids"][k] for k in kept)
    everybody = known + tuple(peer for peer in ids if peer not in known)
    products = np.zeros((len(everybody), len(everybody)))
    products[: len(kept), : len(kept)] = memory * old["products"][np.ix_(kept, kept)]
    place = [everybody.index(peer) for peer in ids]
    products[np.ix_(place, place)] += moves
    heard = dict(zip(old["ids"], old["heard"], strict=True)) | dict.fromkeys(ids, round)
    return {
        "ids": everybody,
        "heard": tuple(heard[peer] for peer in everybody),
        "products": products.astype(np.float32),
    }
