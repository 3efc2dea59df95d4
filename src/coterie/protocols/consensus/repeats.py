"""What is said again, because it may have been lost on the way, or kept from some."""

from __future__ import annotations

from coterie.protocols.consensus import steps
from coterie.protocols.consensus.standing import Standing

_FIRST_RELAYS = 8


def unanswered(standing: Standing) -> list[steps.Action]:
    """Rule 7: this peer's votes at its height, its proposal, and its final votes for what is not final."""
    told: list[steps.Action] = []
    for height in sorted(standing.tallies):
        tally = standing.tallies[height]
        if height == standing.height:
            told += [steps.Tell(vote) for vote in tally.mine.values()]
            if tally.own is not None and tally.proposal is not None:
                unheard = tuple(place for place in standing.silent() if place not in tally.votes["block"])
                told.append(steps.Tell(tally.proposal, unheard))
        elif "final" in tally.mine and "final" not in tally.certificates:
            told.append(steps.Tell(tally.mine["final"]))
    return told


def relayed(standing: Standing, stage: int) -> list[steps.Action]:
    """Rule 8: the certificate of the height before, to those who have not shown that they know.

    Each of them hears of it from eight voters first (``stage`` 0), who are others at every height; then from all.
    """
    before = standing.tallies.get(standing.height - 1)
    held = list(before.certificates.values()) if before else []
    if not held and standing.certified is not None and standing.final == standing.height - 1:
        held = [standing.certified]
    if not held or standing.place is None:
        return []
    count, unknowing = len(standing.state.voters), standing.silent()
    first = [place for place in unknowing if (standing.place - place - standing.height) % count < _FIRST_RELAYS]
    whom = [place for place in unknowing if place not in first] if stage else first
    return [steps.Tell(held[0], tuple(whom))] if whom else []
