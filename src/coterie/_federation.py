"""The commands ``coterie federation ...``: founding, inviting, joining, and what members decide together."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from coterie._commands import Commands, grid, success
from coterie._node_options import (
    AsJson,
    Home,
    Key,
    Name,
    Recovery,
    ask,
    end_of_day,
    own_key,
    with_settings,
)
from coterie.errors import SpecError

federation = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Found a federation, invite to it, join it, see how it stands."
)


@federation.command(
    epilog="Example: coterie federation init study.toml --home a --listen 0.0.0.0:7400 --join 0.0.0.0:7401 "
    "--announce a.example:7400"
)
@with_settings
def init(
    home: Home,
    spec: Annotated[
        Path | None, typer.Argument(help="The federation's spec, where it trains by itself.", show_default=False)
    ] = None,
    swarm: Annotated[
        str | None,
        typer.Option("--swarm", metavar="NAME", help="Instead of a spec: training scripts bring model and data."),
    ] = None,
    name: Name = "founder",
    admit: Annotated[str, typer.Option("--admit", help="Who may admit: founder, any, or quorum.")] = "founder",
    expel: Annotated[str, typer.Option("--expel", help="Who may expel: founder or quorum.")] = "founder",
    quorum: Annotated[int, typer.Option("--quorum", min=2, help="How many must sign, where a quorum decides.")] = 2,
    seats: Annotated[int, typer.Option("--seats", min=1, help="Most members at a time.")] = 1000,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="No admissions after this day (YYYY-MM-DD, UTC).")
    ] = None,
    key: Key = None,
    recovery: Annotated[
        list[Path] | None,
        typer.Option(
            "--recovery",
            metavar="FILE",
            help="Make a recovery key in this new file, to be kept offline: more than half of them can replace a "
            "founder whose key is lost. Repeatable; to add one later is not possible.",
        ),
    ] = None,
    *,
    table: Any,
) -> None:
    """Found a federation: make its genesis record, and the home of its first member."""
    from coterie.protocols.membership import Policy
    from coterie.runtime.node.founding import found_with_data, recovery_keys, spec_to_found

    if admit not in ("founder", "any", "quorum") or expel not in ("founder", "quorum"):
        raise SpecError(
            f"--admit {admit} --expel {expel} is no policy",
            where="command line",
            remedy="--admit founder, any or quorum; --expel founder or quorum.",
        )
    found = spec_to_found(spec, swarm)
    end = end_of_day(until)
    with recovery_keys(recovery or []) as ids:
        policy = Policy(
            admit=cast(Literal["founder", "quorum", "any"], admit),  # seen above
            expel=cast(Literal["founder", "quorum"], expel),
            quorum=quorum,
            seats=seats,
            until=end,
            recovery=ids,
        )
        made = found_with_data(home, found, table, name=name, policy=policy, identity=own_key(key))
    _founded(made, found, recovery or [])


@federation.command(epilog="Example: coterie federation invite --home a --days 3")
def invite(
    home: Home,
    days: Annotated[float, typer.Option("--days", min=0.01, max=365, help="How long it is good for.")] = 7.0,
    contact: Annotated[
        list[str] | None,
        typer.Option("--contact", metavar="HOST:PORT", help="Where newcomers reach the join port. Repeatable."),
    ] = None,
    replaces: Annotated[
        str, typer.Option("--replaces", metavar="PEER", help="The member whose key is lost, which this one succeeds.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make an invitation for one newcomer: a text to send over a channel that both trust. The node must be running."""
    answer = ask(home, "invite", days=days, contacts=contact or [], replaces=replaces)
    if as_json:
        success(json.dumps(answer))
        return
    success(answer["invitation"])
    whom, how = "newcomer", "Whoever has this text can join: send"
    if answer["recovers"]:
        whom, how = "founder's successor", "It is used with 'coterie federation recover' and the recovery keys. Send"
    elif answer["replaces"]:
        whom = f"successor of {answer['replaces'][:16]}, whose key is worth nothing once it is used"
    typer.echo(
        f"Good for one {whom}, for {days:g} days, at {', '.join(answer['contacts'])}. "
        f"{how} it over a channel you trust.",
        err=True,
    )


@federation.command(epilog="Example: coterie federation join coterie1abc... --home b --data csv:/data/ward-7.csv")
@with_settings
def join(
    invitation: Annotated[str, typer.Argument(help="The invitation, or a file that holds it.", show_default=False)],
    home: Home,
    name: Name = "member",
    key: Key = None,
    *,
    table: Any,
) -> None:
    """Join a federation by an invitation, and make this node's home."""
    from coterie.runtime.node.founding import join_federation, read_invitation

    read = read_invitation(invitation)
    _entered(*asyncio.run(join_federation(home, read, table, name=name, identity=own_key(key))))


@federation.command(
    epilog="Example: coterie federation recover coterie1abc... --home a2 --recovery safe-1.pem --recovery safe-2.pem"
)
@with_settings
def recover(
    invitation: Annotated[
        str, typer.Argument(help="A member's invitation that replaces the founder, or a file.", show_default=False)
    ],
    home: Home,
    recovery: Recovery,
    name: Name = "founder",
    key: Key = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the members shown are all.")] = False,
    *,
    table: Any,
) -> None:
    """Replace a founder whose key is lost or stolen: hand its seat and powers to a new key, in a new home.

    Any member makes the invitation: coterie federation invite --replaces FOUNDER.

    Where fewer recovery keys are here than must sign, their holders sign at a member's node: coterie federation
    countersign RECORD --recovery FILE.
    """
    from coterie.identity import Identity
    from coterie.runtime.node.founding import read_invitation, recover_federation

    read, keys = read_invitation(invitation), [Identity.load(path) for path in recovery]

    def agree(membership: Any) -> bool:
        names = ", ".join(member.name for member in membership.members.values())
        typer.echo(f"The members, as the inviter shows them: {names}. One that is missing here would be out.", err=True)
        return yes or typer.confirm("Replace the founder? It cannot be taken back.", err=True)

    entering = recover_federation(home, read, table, keys, agree, name=name, identity=own_key(key))
    _entered(*asyncio.run(entering), "--recovery FILE")


@federation.command(epilog="Example: coterie federation status --home a")
def status(home: Home, as_json: AsJson = False) -> None:
    """Show how a running node sees its federation."""
    from coterie.identity import short_name

    found = ask(home, "status")
    if as_json:
        success(json.dumps(found))
        return
    progress = f", round {found['round'] + 1} of {found['rounds']}" if found["rounds"] else ""
    success(f"{found['federation_name']}: {found['state']}{progress}")
    success(f"federation   {found['federation']}")
    if found["why"]:
        success(f"why          {found['why']}")
    if chain := found["chain"]:
        success(f"chain        {_chain(chain)}")
    success(f"sent         {found['bytes_sent'] / 1e6:.1f} MB, received {found['bytes_received'] / 1e6:.1f} MB")
    rows = [
        (
            member["name"] + (" (founder)" if member["peer"] == found["founder"] else ""),
            short_name(member["peer"]),
            member["peer"][:16],
            "this node" if member["this"] else "connected" if member["connected"] else "not connected",
            member["address"] or "-",
            str(found["refused"].get(member["peer"], 0)),
        )
        for member in found["members"]
    ]
    grid(("member", "in logs", "peer", "stands", "address", "refused"), rows)
    for peer, reason in found["expelled"].items():
        success(f"expelled     {peer[:16]} ({short_name(peer)}){': ' + reason if reason else ''}")
    for peer in found["left"]:
        success(f"left         {peer[:16]} ({short_name(peer)})")
    if len(found["members"]) > 1 and not any(member["connected"] for member in found["members"]):
        success(f"No member is connected: coterie doctor --home {shlex.quote(str(home))} looks for the reason.")
    for record, (signed, needed) in found["pending"].items():
        success(f"waits for signatures: {record} has {signed} of {needed} (sign: coterie federation countersign)")


def _chain(chain: dict[str, Any]) -> str:
    """Where the shared chain stands, in words."""
    from coterie.identity import short_name

    told = f"epoch {chain['epoch']}, {chain['final']} blocks final in it; {len(chain['voters'])} voters"
    if chain["leader"]:
        told += f"; {short_name(chain['leader'])} leads height {chain['height']}"
    if chain["silent"]:
        told += f"; waits for {', '.join(map(short_name, chain['silent']))}"
    return told


@federation.command(epilog="Example: coterie federation expel calm-otter-3fa9 --home a --reason 'key stolen'")
def expel(
    peer: Annotated[str, typer.Argument(help="Its name, short name or peer id.", show_default=False)],
    home: Home,
    reason: Annotated[str, typer.Option("--reason", help="Why; all members see it.")] = "",
) -> None:
    """Expel a member. Its connections are cut at every member that hears of it."""
    answer = ask(home, "expel", peer=peer, reason=reason)
    done = "is expelled" if answer["expelled"] else "is expelled once enough members have signed"
    success(f"{answer['peer'][:16]} {done}")


@federation.command(epilog="Example: coterie federation leave --home b")
def leave(home: Home, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Leave the federation. The members are told, the node is stopped, and the seat is free.

    Nobody need agree. Where no node runs, one is started until a member has heard.
    """
    from coterie.runtime.node import logs
    from coterie.runtime.node.leaving import SECONDS, outlook

    found = outlook(home)
    if found.is_founder:
        typer.echo(
            "This peer is the founder. What only the founder may do, needs the signatures of "
            f"{found.quorum} members from then on, and nobody is founder again. To hand it over instead, use the "
            "recovery keys: coterie federation recover.",
            err=True,
        )
    if not yes:
        typer.confirm(
            "Leave the federation? It cannot be taken back; an invitation lets you in again.", abort=True, err=True
        )
    if found.runs:
        answer = ask(home, "leave", seconds=3 * SECONDS)
    else:
        logs.begin(as_json=False)
        from coterie.runtime.node.departing import leave_without_node

        answer = asyncio.run(leave_without_node(home))
    know = f"{len(answer['told'])} of {answer['others']} members know it and tell the others"
    success(f"this peer has left: {know} ({', '.join(answer['told'])})")


@federation.command(epilog="Example: coterie federation countersign 5d0f... --home a")
def countersign(
    record: Annotated[str, typer.Argument(help="The record's id, as 'status' shows it.", show_default=False)],
    home: Home,
    recovery: Annotated[
        Path | None,
        typer.Option("--recovery", metavar="FILE", help="Sign with this recovery key, not with the node's own."),
    ] = None,
) -> None:
    """Sign another member's admission or expulsion, where the policy wants a quorum."""
    if recovery is None:
        ask(home, "countersign", record=record)
    else:
        from coterie.identity import Identity
        from coterie.protocols.membership import sign_beside
        from coterie.runtime.node.commands import record_id

        heads = ask(home, "heads")
        parents = [bytes.fromhex(parent) for parent in heads["parents"]]
        signed = sign_beside(Identity.load(recovery), record_id(record), parents, heads["time"])
        ask(home, "take", record=signed.encode().hex())
    success("signed")


@federation.command(epilog="Example: coterie federation renew --home a")
def renew(home: Home) -> None:
    """Take a new transport certificate now. Nodes do so by themselves in time; after a leak, do it at once."""
    answer = ask(home, "renew")
    success(f"the new certificate has the SHA-256 fingerprint {answer['fingerprint']}")


def _founded(made: Any, spec: Any, recovery: list[Path]) -> None:
    """What a founder is told."""
    home = made.path
    _introduced(made)
    success(f"home         {home}")
    if not spec.is_for_scripts:
        peers = spec.federation.peers
        success(f"begins       when {peers} members are there, this one among them (federation.peers in the spec)")
    if recovery:
        success(f"recovery     {', '.join(map(str, recovery))}: take them off this machine, and keep them apart")
    _warn_of_address(made)
    typed = shlex.quote(str(home))
    begin = f"COTERIE_HOME={typed} python YOUR_SCRIPT.py" if spec.is_for_scripts else f"coterie node --home {typed}"
    success(f"Next: {begin}   and, while it runs: coterie federation invite --home {typed}")


def _warn_of_address(made: Any) -> None:
    """Say on standard error where others will not dial this node, although it listens."""
    from coterie.network.addresses import Address

    table = made.table
    told = table.announce or table.listen
    if told is None:
        return
    address = Address.parse(told, to_listen=True)
    if address.unspecified:
        what, also = 'others are not told where to reach this node. Set  announce = "host:port"', "invitations need it"
    elif not (address.public or table.private_networks):
        what, also = f"others do not take the private address {told}. Set  private_networks = true", "they need it"
    else:
        return
    typer.echo(f"Warning: {what}  in {made.path / 'node.toml'}; {also} too.", err=True)


def _introduced(made: Any) -> None:
    from coterie.identity import short_name

    success(f"federation   {made.table.federation}")
    success(f"this peer    {made.identity.id} ({short_name(made.identity.id)})")


def _entered(made: Any, joined: Any, how: str = "") -> None:
    """What a newcomer is told."""
    home, typed = made.path, shlex.quote(str(made.path))
    _introduced(made)
    success(f"members      {', '.join(member.name for member in joined.membership.members.values())}")
    success(f"home         {home}")
    if joined.missing:
        more = "1 more must sign" if joined.missing == 1 else f"{joined.missing} more must sign"
        command = f"coterie federation countersign {joined.admission.hex()} --home THEIRS {how}"
        success(f"{more} before this peer is a member: {command.strip()}")
    _warn_of_address(made)
    if made.table.listen is None and not made.table.contacts and made.table.dht_listen is None:
        typer.echo(
            "Warning: this node only dials out, and knows no member's address. Add one to contacts in "
            f"{home / 'node.toml'}, or it will meet nobody.",
            err=True,
        )
    if made.spec_text is not None and made.spec.is_for_scripts:
        success(f"Next: COTERIE_HOME={typed} python YOUR_SCRIPT.py")
        return
    success(f"Next: coterie node --home {typed} --dry-run   and then: coterie node --home {typed}")
