"""The stake ring: exactly m seats, drawn by stake from a beacon, and anybody can draw them again.

Peers stand in an order that the beacon shuffles, each with a stretch as long as its stake s of W in all. Going along,
each gets the whole seats that its stake pays for, floor(m s / W); what is left over, a fraction of a seat, meets the
fraction that is still open, and the two are settled against each other (below). So a peer has floor or ceil of m s / W
seats, and m s / W in the mean: splitting a stake among many identities gives no more seats. All numbers are integers.

Two fractions a and b meet. If a + b <= 1, one of them takes it all and goes on with a + b: the first with chance
a / (a + b). Otherwise one gets a seat and the other goes on with a + b - 1: the first goes on with chance
(1 - a) / (2 - a - b). This is ordered pivotal sampling (Deville and Tillé, Biometrika 85, 1998).

Why not equal steps. A systematic ring, with seat i at (i + o) W / m, has the same means and looks simpler. But its
steps can fall in with the stakes: of 32 seats, with 32 honest peers of 9/320 of the stake each and an attacker's 10 %
in 32 identities, the attacker has more than 9 in about 1.7 % of the draws and more than 13 in about .07 %; seats drawn
one by one would give .1 % and .0001 %. An attacker who sees the others' stakes may cut its own to fit.

Here no cut helps by more than this: the number X of seats of any set of peers is distributed as a sum of independent
yes/no variables. For let G = A + B w be the generating polynomial of what follows a meeting, w the variable of whoever
goes on. Then that before it is A + B (p v + q w), or A (p v + q w) + B v w, with p + q = 1; both have no root in the
upper half-plane if G has none (the second by turning G and all variables upside down). So the polynomial of X has real
roots only (strongly Rayleigh: Borcea, Brändén, Liggett, J. AMS 22, 2009), and by Hoeffding (Ann. Math. Stat. 27, 1956,
theorem 4)

    P(X > t) <= P(Bin(m, c) > t)  for t >= m c,  where the set has the share c of the stake, however cut.

With equal stakes every choice of so many peers is as likely as every other: X is hypergeometric. ``tails`` uses both.

Threat model: all of this holds for a beacon that nobody could foretell when the stakes were set. Whoever corrupts peers
after the draw, or can try several beacons, gets what it likes; a seat whose holder is gone is not filled again, since
then a leader could steer who is.
"""

from __future__ import annotations

from coterie.errors import SpecError
from coterie.identity import PeerId
from coterie.protocols.committees.stakes import Stakes, capped, checked
from coterie.protocols.committees.stream import Numbers, Stream, shuffled


def draw(beacon: bytes, role: str, stakes: Stakes, seats: int, *, most: int | None = None) -> tuple[PeerId, ...]:
    """Who has each of ``seats`` seats: seat i is item i, and a peer may have several, which lie side by side.

    ``role``, such as "aggregator", separates the draws that one beacon serves. With ``most`` no peer gets more than so
    many seats: greater stakes are lowered (``capped``). The order of ``stakes`` does not matter.

    Raises SpecError where nobody has stake, ``seats`` is below 1, or ``most`` leaves seats empty.
    """
    peers = sorted(stakes)
    amounts = checked((stakes[peer] for peer in peers), f"draw of {role}")
    if seats < 1:
        raise SpecError(f"{seats} seats", where=f"draw of {role}", remedy="Draw at least one.")
    if most is not None:
        amounts = capped(amounts, seats, most)
    numbers = Stream(beacon, role)
    order = shuffled([(peer, amount) for peer, amount in zip(peers, amounts, strict=True) if amount], numbers)
    held = settle([amount for _, amount in order], seats, numbers)
    return tuple(peer for (peer, _), count in zip(order, held, strict=True) for _ in range(count))


def settle(amounts: list[int], seats: int, numbers: Numbers) -> list[int]:
    """How many seats each has, in this order: ordered pivotal sampling. Fractions of a seat are counted in 1/W."""
    total = sum(amounts)
    held = [seats * amount // total for amount in amounts]
    first, a = 0, 0
    for second, amount in enumerate(amounts):
        b = seats * amount % total
        if a == 0:
            first, a = second, b
        elif b == 0:
            continue
        elif a + b <= total:
            if numbers.below(a + b) >= a:
                first = second
            a += b
            if a == total:
                held[first] += 1
                a = 0
        else:
            if numbers.below(2 * total - a - b) < total - a:
                held[second] += 1
            else:
                held[first] += 1
                first = second
            a += b - total
    return held
