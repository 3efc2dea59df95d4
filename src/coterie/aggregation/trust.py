"""Clip-and-trust: robust averaging between peers, by geometry first and by trust learned from behaviour.

Symbols: x = the vector before the local steps (``context.base``); M_j = the vectors, j = 0 own, then the n received;
U_j = M_j - x the moves; n_j = |U_j| their Euclidean norms; tau = median of all n_j, own included (the ordinary median:
the mean of the two middle ones for an even count), but at most reach n_0 where the own move is not 0: where most of
those heard in a round are malicious, the median is theirs, and the own move alone is honest; c_j = min(1, tau / n_j)
clips, with c_j = 1 where n_j <= tau (also for tau = 0); ok_j = [n_j <= gate tau] is the gate.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from coterie import registry
from coterie.aggregation.interface import Context, Judge, State
from coterie.aggregation.means import Result
from coterie.aggregation.root import require_root, root_gradient
from coterie.aggregation.rows import Floats, combine, distances, near_rows, own_alone, recorded

Share = Annotated[float, Field(ge=0, lt=1)]
Gate = Annotated[float, Field(ge=1)]
Reach = Annotated[float, Field(ge=1)]
_STEEPEST = 1e30
"""More lengths of the gradient are not gone along it: beyond 3e38 float32 has no such factor."""


@registry.rules.register("clip_and_trust")
def clip_and_trust(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    memory: Share = 0.8,
    gate: Gate = 3.0,
    reach: Reach = 10.0,
    duplicate_tolerance: Share = 1e-3,
    newcomer_trust: Annotated[float, Field(ge=0, le=1)] = 0.05,
) -> Result:
    """Clip moves at their median norm, gate outliers, weigh by learned trust, count near-duplicates once.

    With the symbols of this module:

        T_j <- memory T_j + (1 - memory) ok_j c_j            (own: 1)
        s_j  = 1 / #{k: |M_j - M_k| <= duplicate_tolerance x median pairwise distance}
        w_j  ~ W_j ok_j T_j s_j,  the own one at least W_0,  sum w = 1
        vector = x + sum_j w_j c_j U_j

    so |vector - x| <= tau. W = ``context.graph_weights``. Trust starts at 1 for founders and at ``newcomer_trust`` for
    others, recovers by itself, and stays as it was for a peer not heard.

    ``memory``: raise it if honest peers lose trust over a bad round, lower it to forget attackers' good conduct faster.
    ``gate``: lower it if large moves still do harm; honest peers with unusual data are gated first.
    ``reach``: lower it, to 3 say, where a peer may hear more attackers than honest peers in a round (a small fanout);
    too low, it slows peers whose own data move them little.
    ``duplicate_tolerance``: 0 counts only identical vectors as one.

    ``own`` (d,), ``received`` (n, d), float32. State: {"trust": {peer id: T_j}}. Source: centred clipping around the
    own vector as in Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", 2021, and
    He, Karimireddy and Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", 2022; the radius,
    the trust and the counting of duplicates are Coterie's own.
    """
    norms = distances((own, *received), context.base)
    _, clip, passed = _clip(norms, gate, reach)
    known: dict[str, float] = (state or {}).get("trust", {})
    old = np.array([known.get(peer, 1.0 if peer in context.founders else newcomer_trust) for peer in context.peer_ids])
    trust = np.append(1.0, memory * old + (1.0 - memory) * (passed * clip)[1:])
    group = near_rows(own, received, context.base, norms, duplicate_tolerance).sum(axis=1)
    graph = context.graph_weights.double().numpy()
    weights = graph * passed * trust / group
    weights[0] = max(weights[0], graph[0])
    state = {"trust": {**known, **dict(zip(context.peer_ids, trust[1:].tolist(), strict=True))}}
    return _mix(own, received, context.base, weights, clip, state)


@registry.rules.register("clip_and_trust_root", root=True)
def clip_and_trust_root(
    own: torch.Tensor,
    received: torch.Tensor,
    context: Context,
    state: State,
    judge: Judge | None,
    *,
    memory: Share = 0.9,
    gate: Gate = 3.0,
    reach: Reach = 10.0,
    margin: Annotated[float, Field(gt=0, le=1)] = 0.1,
) -> Result:
    """Clip and gate moves, weigh each by how its running mean agrees with the root sample, which votes where few do.

    With the symbols of this module, and EMA(v) <- memory EMA(v) + (1 - memory) v, starting from 0:

        E_j  = EMA(ok_j c_j U_j),   E_root = EMA(-tau g / |g|),   g = gradient of the root sample's loss at x
        a_j  = ok_j clamp((1 + cos(E_j, E_root) / margin) / 2, 0, 1)
        a_root = max(0, (n + 1) / 2 - sum_j a_j), 0 where g is 0
        R    = -l g / |g|,  l = tau, or the secant step to the least root loss along -g where that is shorter
        vector = x + (sum_j a_j c_j U_j + a_root R) / (sum_j a_j + a_root);  own where all are 0

    so |vector - x| <= tau. The own move is judged like the others. The graph's weights are not used. Holds against
    colluders that stay within the norm, which geometry alone does not see.

    The root's vote is there because cosines may say nothing: where a network still gives the same output for every
    input, moves on unequal data mostly learn how frequent each peer's classes are, whose cosines with the root
    gradient are of either sign. Then colluders, who always move alike, may be all that is left with a weight. The
    secant step, from the slopes at its start and at a distance of tau, vanishes with the root loss: the
    direction of a gradient that is all but 0 is noise, and would drive peers apart.

    ``margin``: the cosine that earns full weight; its negative earns none, and 0 a half; the lower, the more
    a small cosine counts. ``gate`` and ``reach`` are those of clip_and_trust.

    ``own`` (d,), ``received`` (n, d), float32. Weights for the record: a / (sum a + a_root), which sum to less than 1
    where the root votes. State: {"trust": {peer id: a_j before the gate}, "moves": {peer id: E_j}, "root": E_root}, a
    vector for each peer ever heard. Raises SpecError without a root sample, TrainingDiverged when its gradient at x is
    not finite. Source: a root sample as in Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust federated learning via
    trust bootstrapping", 2021; running means, clipping, the margin and the root's vote are Coterie's own.
    """
    judge = require_root(judge, "clip_and_trust_root")
    tau, clip, passed = _clip(distances((own, *received), context.base), gate, reach)
    old = state or {"trust": {}, "moves": {}, "root": None}
    gradient, slope = root_gradient(judge, context)
    if tau > _STEEPEST * slope:  # beside moves of such a length it is 0
        slope = 0.0
    root = gradient * (-(1.0 - memory) * tau / slope if slope > 0 else 0.0)
    if old["root"] is not None:
        root.add_(old["root"], alpha=memory)
    moves = dict(old["moves"])
    agreement = np.zeros(len(clip))
    for j, (peer, row) in enumerate(zip((context.own_id, *context.peer_ids), (own, *received), strict=True)):
        share = float((1.0 - memory) * passed[j] * clip[j])
        move = _running(moves.get(peer), memory, row, context.base, share)
        if move is not None:
            moves[peer] = move
            agreement[j] = min(max((1.0 + _cosine(move, root) / margin) / 2.0, 0.0), 1.0)
    trust = old["trust"] | dict(zip(context.peer_ids, agreement[1:].tolist(), strict=True))
    state = {"trust": trust, "moves": moves, "root": root}
    weights = passed * agreement
    vote = max(0.0, len(weights) / 2 - weights.sum()) if slope > 0 else 0.0
    vector, shares, state = _mix(own, received, context.base, weights, clip, state, vote)
    if vote > 0:
        step = _downhill(judge, context.base, gradient, slope, tau)
        vector = vector.add_(gradient, alpha=-step / slope * vote / (vote + weights.sum()))
    return vector, shares, state


def _clip(norms: Floats, gate: float, reach: float) -> tuple[float, Floats, NDArray[np.bool_]]:
    """tau, c (n + 1,) and ok (n + 1,) from the norms of the moves."""
    tau = float(np.median(norms))
    if norms[0] > 0:
        tau = min(tau, reach * float(norms[0]))
    clip = np.ones_like(norms)
    np.divide(tau, norms, out=clip, where=norms > tau)
    return tau, clip, norms <= gate * tau


def _mix(
    own: torch.Tensor,
    received: torch.Tensor,
    base: torch.Tensor,
    weights: Floats,
    clip: Floats,
    state: State,
    vote: float = 0.0,
) -> Result:
    """x + sum w c U with the weights scaled so that they and ``vote`` have sum 1; own where all are 0."""
    total = weights.sum() + vote
    if not total > 0:
        return own, own_alone(len(weights)), state
    weights = weights / total
    return combine(own, received, weights * clip, base), recorded(weights), state


def _downhill(judge: Judge, base: torch.Tensor, gradient: torch.Tensor, slope: float, longest: float) -> float:
    """How far to go along -g: where the secant of the slopes at 0 and at ``longest`` is 0, but at most ``longest``.

    ``slope``: |g|, above 0. 0 where the slope at ``longest`` is not finite.
    """
    there = judge.root_gradient(torch.add(base, gradient, alpha=-longest / slope))
    ahead = float(torch.dot(there.double(), gradient.double())) / slope
    if not np.isfinite(ahead):
        return 0.0
    return longest if ahead >= 0 else longest * slope / (slope - ahead)


def _running(
    old: torch.Tensor | None, memory: float, row: torch.Tensor, base: torch.Tensor, share: float
) -> torch.Tensor | None:
    """memory old + share (row - base) as a new tensor; None while nothing was ever let through."""
    if share == 0.0:
        return None if old is None else old * memory
    move = (row - base).mul_(share)
    return move if old is None else move.add_(old, alpha=memory)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """cos(a, b); 0 where either is zero or too large for float32."""
    length = float(torch.dot(a, a)) ** 0.5 * float(torch.dot(b, b)) ** 0.5
    return float(torch.dot(a, b)) / length if 0.0 < length < np.inf else 0.0
