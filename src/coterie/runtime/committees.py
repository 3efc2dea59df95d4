"""What ``coterie committee`` answers: the calculators of ``protocols.committees``, for people and as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from coterie.errors import SpecError
from coterie.protocols.committees import (
    LIAR_RISK,
    PRIVACY_RISK,
    SeatPlan,
    committee_size,
    majority_risk,
    plan_seats,
    unmasking_risk,
)

_SHARE = re.compile(r"[0-9]{0,9}\.?[0-9]{1,15}|[0-9]{1,9}/[1-9][0-9]{0,8}", re.ASCII)
_STAKES = re.compile(r"[0-9]{1,18}([\s,]+[0-9]{1,18})*", re.ASCII)
_MOST_BYTES = 1 << 24
_TABLE = ([f"0.{percent:02}" for percent in range(5, 40, 5)], ["0.001", "0.01", "0.05"])
_NOISERS = (2, 3, 5, 10)


@dataclass(frozen=True)
class Answer:
    """One answer: a line, a table below it, and all of it as ``record`` for JSON."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    record: dict[str, Any]


def refuse_mixed(other: Mapping[str, object], biscotti: bool) -> None:
    """Raise SpecError where an option of the ``other`` calculator is given."""
    wrong = [name for name, value in other.items() if value is not None]
    if wrong:
        raise SpecError(
            f"{wrong[0]} {'does not go with' if biscotti else 'needs'} --biscotti",
            where="command line",
            remedy="With --biscotti: --colluding and --p. Without: --peers or --stakes, --corrupt, --seats, --offline.",
        )


def seats(peers: int | None, stakes: str | None, corrupt: str | None, count: int | None, offline: str | None) -> Answer:
    """The seats of secure aggregation. Raises SpecError where the options are no question, or nothing will do."""
    if (peers is None) == (stakes is None):
        raise SpecError(
            "give either --peers or --stakes",
            where="command line",
            remedy="Such as --peers 100, for equal stakes, or --stakes 10,10,15.",
        )
    if corrupt is None:
        raise SpecError("--corrupt is missing", where="command line", remedy="Such as --corrupt 0.2.")
    if count is not None and offline is not None:
        raise SpecError(
            "--seats and --offline exclude each other",
            where="command line",
            remedy="With --seats, the answer says how many may be offline.",
        )
    amounts = [1] * peers if peers is not None else _stakes(stakes or "")
    share = _share("--corrupt", corrupt)
    plan = plan_seats(amounts, share, seats=count, offline=_share("--offline", offline or "0.05"))
    number, equal = sum(amount > 0 for amount in amounts), plan.exact
    return Answer(
        f"{number} peers with {'equal' if equal else 'unequal'} stakes, {float(share):.3g} of the stake corrupt",
        ("", "", "what it means"),
        _meanings(plan),
        {
            "peers": number,
            "equal_stakes": equal,
            "corrupt": float(share),
            "seats": plan.seats,
            "pack": plan.pack,
            "privacy": plan.privacy,
            "recover": plan.recover,
            "liars": plan.liars,
            "offline": plan.offline,
            "privacy_risk": float(plan.privacy_risk),
            "liar_risk": float(plan.liar_risk),
            "upload_factor": plan.seats / plan.pack,
        },
    )


def _meanings(plan: SeatPlan) -> Sequence[tuple[str, ...]]:
    chance = "P" if plan.exact else "P at most"
    upload = plan.seats / plan.pack
    return [
        ("m", str(plan.seats), f"seats: each gets a share; an upload is m / k = {upload:.3g} times the update"),
        ("k", str(plan.pack), "pack: numbers in one polynomial"),
        (
            "t",
            str(plan.privacy),
            f"privacy: so many seats together learn nothing; {chance} more are corrupt: "
            f"{float(plan.privacy_risk):.2g} a round (limit {float(PRIVACY_RISK):g})",
        ),
        ("K", str(plan.recover), "recover: t + k true shares give the sum"),
        (
            "e",
            str(plan.liars),
            f"liars: so many false shares are named; {chance} more: {float(plan.liar_risk):.2g} a round "
            f"(limit {float(LIAR_RISK):g}), and then the round is empty",
        ),
        ("offline", str(plan.offline), "so many honest seats may be missing besides: m - t - k - 2 e"),
    ]


def biscotti(colluding: str | None, risk: str | None) -> Answer:
    """Biscotti's committee size; its whole table where nothing is asked. Raises SpecError as ``seats``."""
    if colluding is None and risk is None:
        return _biscotti_table()
    if colluding is None or risk is None:
        raise SpecError(
            "--colluding and --p go together", where="command line", remedy="Such as --colluding 0.3 --p 0.001."
        )
    share = _share("--colluding", colluding)
    size = committee_size(share, _share("--p", risk))
    found = float(majority_risk(share, size))
    unmasked = {noisers: float(unmasking_risk(share, noisers)) for noisers in _NOISERS}
    rows = [("k", str(size), f"seats of a committee, at least 3; P(more than half collude): {found:.2g}")]
    rows += [
        (f"{noisers} noisers", f"{chance:.2g}", "P(colluders unmask an update) = s^k (1 - s^3)")
        for noisers, chance in unmasked.items()
    ]
    record = {"colluding": float(share), "p": float(_share("--p", risk)), "committee": size, "majority_risk": found}
    return Answer(
        f"Biscotti, a share s = {float(share):.3g} of the stake colluding",
        ("", "", "what it means"),
        rows,
        record | {"unmasking_risk": {str(noisers): chance for noisers, chance in unmasked.items()}},
    )


def _biscotti_table() -> Answer:
    shares, risks = _TABLE
    sizes = {risk: [committee_size(Fraction(share), Fraction(risk)) for share in shares] for risk in risks}
    return Answer(
        "Biscotti: seats of a committee, for a colluding share of the stake and the chance that more than half collude",
        ("P below", *(f"{100 * float(share):.0f} %" for share in shares)),
        [(risk, *map(str, row)) for risk, row in sizes.items()],
        {"table": {risk: dict(zip(shares, row, strict=True)) for risk, row in sizes.items()}},
    )


def _share(option: str, text: str) -> Fraction:
    if not _SHARE.fullmatch(text.strip()):
        raise SpecError(f"{text!r} is no number from 0 to 1", where=option, remedy="Write it as 0.2 or 1/5.")
    return Fraction(text.strip())


def _stakes(text: str) -> list[int]:
    """Stakes as written, or from a file: whole numbers between commas, blanks or line ends."""
    where = "--stakes"
    if not _STAKES.fullmatch(text.strip()):
        where = text
        try:
            with Path(text).open("rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            raise SpecError(
                f"neither a list of stakes nor a file that can be read: {getattr(error, 'strerror', None) or error}",
                where=f"--stakes {where}",
                remedy="Write --stakes 10,10,15, or name a file of whole numbers.",
            ) from None
        if not _STAKES.fullmatch(text.strip().rstrip(",")):
            raise SpecError(
                "not a list of whole numbers from 0",
                where=where,
                remedy="Write one stake a line, or commas between them.",
            )
    return [int(stake) for stake in re.findall(r"[0-9]+", text)]
