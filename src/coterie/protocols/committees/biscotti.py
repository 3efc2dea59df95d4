"""Biscotti's committee calculator: how many verifiers, noisers or aggregators against colluding stake.

Source: "Biscotti: A Ledger for Private and Secure Peer-to-Peer Machine Learning" (arXiv 1811.09904). Its committees
are drawn by stake, each seat by itself, so a share s of the stake has Bin(k, s) of k seats.
"""

from __future__ import annotations

from fractions import Fraction

from coterie.errors import SpecError

LEAST_COMMITTEE = 3
MOST_COMMITTEE = 1000
_WHERE = "Biscotti's committee"


def majority_risk(colluding: Fraction, size: int) -> Fraction:
    """P(more than half of k seats collude) = sum over i > k/2 of C(k, i) s^i (1 - s)^(k - i), exactly."""
    return Fraction(_majority(colluding, size), colluding.denominator**size)


def committee_size(colluding: Fraction, risk: Fraction) -> int:
    """The smallest k >= 3 whose ``majority_risk`` is below ``risk``: the table of the paper.

    It counts more than half, so an even k comes off better than the odd one after it: k + 1 seats may not be enough.
    Raises SpecError where ``colluding`` is not from 0 to less than 1/2, ``risk`` not above 0 and up to 1, or more than
    1000 seats would be needed.
    """
    if not 0 <= colluding < Fraction(1, 2):
        raise SpecError(
            f"a colluding share of {float(colluding):.3g}",
            where=_WHERE,
            remedy="Give one from 0 to less than 1/2: at half the stake every committee is lost.",
        )
    if not 0 < risk <= 1:
        raise SpecError(f"a chance of {float(risk):.3g}", where=_WHERE, remedy="Give one above 0, up to 1, as 0.001.")
    for size in range(LEAST_COMMITTEE, MOST_COMMITTEE + 1):
        if _majority(colluding, size) * risk.denominator < risk.numerator * colluding.denominator**size:
            return size
    raise SpecError(
        f"more than {MOST_COMMITTEE} seats would be needed",
        where=_WHERE,
        remedy="Assume less, or allow a greater risk.",
    )


def unmasking_risk(colluding: Fraction, noisers: int) -> Fraction:
    """The chance that colluders unmask an update: s^k (1 - s^3) for k noisers, of Biscotti with its 3 verifiers.

    What it takes is that all noisers and at least one of the verifiers, who see the masked update, collude: that is
    s^k (1 - (1 - s)^3), the same at s = 1/2 and less below it.
    """
    return colluding**noisers * (1 - colluding**3)


def _majority(colluding: Fraction, size: int) -> int:
    """``majority_risk`` times the denominator of s, to the power of k: a whole number."""
    share, rest = colluding.numerator, colluding.denominator - colluding.numerator
    term: int = share**size
    total = term
    if term:
        for honest in range(1, size - size // 2):
            term = term * (size + 1 - honest) * rest // (honest * share)
            total += term
    return total
