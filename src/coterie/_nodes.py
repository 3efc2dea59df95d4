"""The commands of real federations: ``coterie federation ...``, ``node``, ``doctor`` and ``audit``."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from coterie._commands import JSON, Commands, grid, success
from coterie.errors import LedgerError, MembershipError, NodeError, SpecError

Home = Annotated[Path, typer.Option("--home", help="The node's folder: its key, settings, ledger and state.")]
AsJson = Annotated[bool, typer.Option(JSON, help="Print one JSON object.")]
Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Accept members here; without it the node only dials out."),
]
Announce = Annotated[
    str | None, typer.Option("--announce", metavar="HOST:PORT", help="Where others reach it, if not at --listen.")
]
JoinPort = Annotated[str | None, typer.Option("--join", metavar="HOST:PORT", help="Accept newcomers here.")]
Contact = Annotated[
    list[str] | None, typer.Option("--contact", metavar="HOST:PORT", help="A member to try first. Repeatable.")
]
DhtListen = Annotated[
    str | None, typer.Option("--dht-listen", metavar="HOST:PORT", help="Take part in the Kademlia table, on UDP.")
]
Dht = Annotated[
    list[str] | None, typer.Option("--dht", metavar="HOST:PORT", help="A node of that table to begin with. Repeatable.")
]
Private = Annotated[bool, typer.Option("--private", help="Members are on loopback or private addresses.")]
Dataset = Annotated[
    str | None, typer.Option("--data", metavar="DATASET", help="This site's own data, such as csv:/data/ward.csv.")
]
Part = Annotated[
    int | None, typer.Option("--part", min=0, help="For trials: this part of the spec's data set, from 0.")
]
Name = Annotated[str, typer.Option("--name", help="How this site is shown to the others.")]
Key = Annotated[Path | None, typer.Option("--key", help="An Ed25519 key to use, in PEM; by default a new one is made.")]

Recovery = Annotated[
    list[Path],
    typer.Option(
        "--recovery", metavar="FILE", help="A file that holds a recovery key. Repeatable.", show_default=False
    ),
]

federation = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Found a federation, invite to it, join it, see how it stands."
)


def add_to(app: typer.Typer) -> None:
    """Add all commands of this module."""
    app.add_typer(federation, name="federation")
    for command, epilog in (
        (node, "Example: coterie node --home hospital-a"),
        (doctor, "Example: coterie doctor --home hospital-a"),
        (audit, "Example: coterie audit hospital-a/ledger.sqlite --genesis 3f0c..."),
    ):
        app.command(epilog=epilog)(command)


@federation.command(
    epilog="Example: coterie federation init study.toml --home a --listen 0.0.0.0:7400 --join 0.0.0.0:7401 "
    "--announce a.example:7400"
)
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
    listen: Listen = None,
    announce: Announce = None,
    join: JoinPort = None,
    admit: Annotated[str, typer.Option("--admit", help="Who may admit: founder, any, or quorum.")] = "founder",
    expel: Annotated[str, typer.Option("--expel", help="Who may expel: founder or quorum.")] = "founder",
    quorum: Annotated[int, typer.Option("--quorum", min=2, help="How many must sign, where a quorum decides.")] = 2,
    seats: Annotated[int, typer.Option("--seats", min=1, help="Most members at a time.")] = 1000,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="No admissions after this day (YYYY-MM-DD, UTC).")
    ] = None,
    contact: Contact = None,
    dht_listen: DhtListen = None,
    dht: Dht = None,
    private: Private = False,
    data: Dataset = None,
    part: Part = None,
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
) -> None:
    """Found a federation: make its genesis record, and the home of its first member."""
    from coterie.identity import short_name
    from coterie.network.addresses import Address
    from coterie.protocols.membership import Policy
    from coterie.runtime.node.founding import found_with_data, recovery_keys, spec_to_found

    found = spec_to_found(spec, swarm)
    if admit not in ("founder", "any", "quorum") or expel not in ("founder", "quorum"):
        raise SpecError(
            f"--admit {admit} --expel {expel} is no policy",
            where="command line",
            remedy="--admit founder, any or quorum; --expel founder or quorum.",
        )
    table = _table(listen, announce, join, contact, dht_listen, dht, private, data, part)
    rules = {"admit": admit, "expel": expel, "quorum": quorum, "seats": seats, "until": _moment(until)}
    with recovery_keys(recovery or []) as ids:
        policy = Policy(**rules, recovery=ids)  # type: ignore[arg-type]
        made = found_with_data(home, found, table, name=name, policy=policy, identity=_identity(key))
    success(f"federation   {made.table.federation}")
    success(f"this peer    {made.identity.id} ({short_name(made.identity.id)})")
    success(f"home         {home}")
    if not found.is_for_scripts:
        peers = found.federation.peers
        success(f"begins       when {peers} members are there, this one among them (federation.peers in the spec)")
    if recovery:
        success(f"recovery     {', '.join(map(str, recovery))}: take them off this machine, and keep them apart")
    if listen and Address.parse(listen, to_listen=True).host in ("0.0.0.0", "::") and announce is None:  # noqa: S104
        typer.echo(
            'Warning: others are not told where to reach this node. Set  announce = "host:port"  in '
            f"{home / 'node.toml'}; invitations need it too.",
            err=True,
        )
    begin = f"COTERIE_HOME={home} python YOUR_SCRIPT.py" if found.is_for_scripts else f"coterie node --home {home}"
    success(f"Next: {begin}   and, while it runs: coterie federation invite --home {home}")


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
    answer = _ask(home, "invite", days=days, contacts=contact or [], replaces=replaces)
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
def join(
    invitation: Annotated[str, typer.Argument(help="The invitation, or a file that holds it.", show_default=False)],
    home: Home,
    name: Name = "member",
    listen: Listen = None,
    announce: Announce = None,
    join_port: JoinPort = None,
    contact: Contact = None,
    dht_listen: DhtListen = None,
    dht: Dht = None,
    private: Private = False,
    data: Dataset = None,
    part: Part = None,
    key: Key = None,
) -> None:
    """Join a federation by an invitation, and make this node's home."""
    from coterie.runtime.node.founding import join_federation, read_invitation

    read = read_invitation(invitation)
    table = _table(listen, announce, join_port, contact, dht_listen, dht, private, data, part)
    _entered(*asyncio.run(join_federation(home, read, table, name=name, identity=_identity(key))))


@federation.command(
    epilog="Example: coterie federation recover coterie1abc... --home a2 --recovery safe-1.pem --recovery safe-2.pem"
)
def recover(
    invitation: Annotated[
        str, typer.Argument(help="A member's invitation that replaces the founder, or a file.", show_default=False)
    ],
    home: Home,
    recovery: Recovery,
    name: Name = "founder",
    listen: Listen = None,
    announce: Announce = None,
    join_port: JoinPort = None,
    contact: Contact = None,
    dht_listen: DhtListen = None,
    dht: Dht = None,
    private: Private = False,
    data: Dataset = None,
    part: Part = None,
    key: Key = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the members shown are all.")] = False,
) -> None:
    """Replace a founder whose key is lost or stolen: hand its seat and powers to a new key, in a new home.

    Any member makes the invitation: coterie federation invite --replaces FOUNDER. Where fewer recovery keys are here
    than must sign, their holders sign at a member's node: coterie federation countersign RECORD --recovery FILE.
    """
    from coterie.identity import Identity
    from coterie.runtime.node.founding import read_invitation, recover_federation

    read, keys = read_invitation(invitation), [Identity.load(path) for path in recovery]
    table = _table(listen, announce, join_port, contact, dht_listen, dht, private, data, part)

    def agree(membership: Any) -> bool:
        names = ", ".join(member.name for member in membership.members.values())
        typer.echo(f"The members, as the inviter shows them: {names}. One that is missing here would be out.", err=True)
        return yes or typer.confirm("Replace the founder? It cannot be taken back.", err=True)

    entering = recover_federation(home, read, table, keys, agree, name=name, identity=_identity(key))
    _entered(*asyncio.run(entering), "--recovery FILE")


@federation.command(epilog="Example: coterie federation status --home a")
def status(home: Home, as_json: AsJson = False) -> None:
    """Show how a running node sees its federation."""
    from coterie.identity import short_name

    found = _ask(home, "status")
    if as_json:
        success(json.dumps(found))
        return
    progress = f", round {found['round'] + 1} of {found['rounds']}" if found["rounds"] else ""
    success(f"{found['federation_name']}: {found['state']}{progress}")
    success(f"federation   {found['federation']}")
    if found["why"]:
        success(f"why          {found['why']}")
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
    if len(found["members"]) > 1 and not any(member["connected"] for member in found["members"]):
        success(f"No member is connected: coterie doctor --home {home} looks for the reason.")
    for record, (signed, needed) in found["pending"].items():
        success(f"waits for signatures: {record} has {signed} of {needed} (sign: coterie federation countersign)")


@federation.command(epilog="Example: coterie federation expel calm-otter-3fa9 --home a --reason 'key stolen'")
def expel(
    peer: Annotated[str, typer.Argument(help="Its name, short name or peer id.", show_default=False)],
    home: Home,
    reason: Annotated[str, typer.Option("--reason", help="Why; all members see it.")] = "",
) -> None:
    """Expel a member. Its connections are cut at every member that hears of it."""
    answer = _ask(home, "expel", peer=peer, reason=reason)
    done = "is expelled" if answer["expelled"] else "is expelled once enough members have signed"
    success(f"{answer['peer'][:16]} {done}")


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
        _ask(home, "countersign", record=record)
    else:
        from coterie.identity import Identity
        from coterie.protocols.membership import sign_beside
        from coterie.runtime.node.commands import record_id

        heads = _ask(home, "heads")
        parents = [bytes.fromhex(parent) for parent in heads["parents"]]
        signed = sign_beside(Identity.load(recovery), record_id(record), parents, heads["time"])
        _ask(home, "take", record=signed.encode().hex())
    success("signed")


@federation.command(epilog="Example: coterie federation renew --home a")
def renew(home: Home) -> None:
    """Take a new transport certificate now. Nodes do so by themselves in time; after a leak, do it at once."""
    answer = _ask(home, "renew")
    success(f"the new certificate has the SHA-256 fingerprint {answer['fingerprint']}")


def node(
    home: Home,
    as_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do nothing; say what would leave this site, and to whom.")
    ] = False,
) -> None:
    """Run a node until it is stopped with Ctrl-C or SIGTERM. It goes on from where it was, after a crash too."""
    import torch

    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie.runtime.node import logs
    from coterie.runtime.node.daemon import run_node
    from coterie.runtime.node.disclosure import disclosure

    torch.set_num_threads(1)
    if dry_run:
        for line in disclosure(home):
            success(line)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logs.begin(as_json=as_json)
    run_node(home)


def doctor(home: Home, as_json: AsJson = False) -> None:
    """Check what a node needs - key, certificate, clock, ports, reachability, disk - and say what to mend.

    Ends with status 1 where something must be mended.
    """
    from coterie.runtime.node.doctor import examine

    found = examine(home)
    if as_json:
        success(json.dumps({"checks": [check.record() for check in found]}))
    else:
        grid(("check", "", "found", "what to do"), [(c.name, c.verdict, c.found, c.mend) for c in found])
    if any(check.verdict == "bad" for check in found):
        raise typer.Exit(1)


def audit(
    ledger: Annotated[Path, typer.Argument(help="A ledger file, or a folder that holds some.", show_default=False)],
    genesis: Annotated[str, typer.Option("--genesis", help="The federation's id: 64 hexadecimal digits.")],
    start: Annotated[
        str | None,
        typer.Option("--start", help="What a shared chain must begin with: the id of its charter or a checkpoint."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a ledger offline: every signature, hash, certificate and proof, with nothing but the genesis hash.

    Ends with status 1 where something is wrong, and names the first bad record or block.
    """
    wanted = _hash(genesis, "--genesis", "a genesis hash", "as 'federation status' shows")
    pinned = None if start is None else _hash(start, "--start", "the id of a start", "as the invitation names them")
    files = [ledger]
    if ledger.is_dir():
        files = sorted(path for name in ("ledger.sqlite", "shared.sqlite") for path in ledger.rglob(name))
    if not files:
        raise LedgerError("there is no ledger.sqlite in it", where=str(ledger), remedy="Name a ledger file.")
    found = [(path, *_audited(path, wanted, pinned)) for path in files]
    if as_json:
        rows = [{"path": str(path), "ok": ok, "report": report} for path, ok, report in found]
        success(json.dumps({"ledgers": rows}))
    else:
        for path, _, report in found:
            success(f"{path}\n{report}")
    if not all(ok for _, ok, _ in found):
        raise typer.Exit(1)


def _entered(made: Any, joined: Any, how: str = "") -> None:
    """What a newcomer is told."""
    from coterie.identity import short_name

    home = made.path
    success(f"federation   {made.table.federation}")
    success(f"this peer    {made.identity.id} ({short_name(made.identity.id)})")
    success(f"members      {', '.join(member.name for member in joined.membership.members.values())}")
    success(f"home         {home}")
    if joined.missing:
        more = "1 more must sign" if joined.missing == 1 else f"{joined.missing} more must sign"
        command = f"coterie federation countersign {joined.admission.hex()} --home THEIRS {how}"
        success(f"{more} before this peer is a member: {command.strip()}")
    if made.table.listen is None and not made.table.contacts and made.table.dht_listen is None:
        typer.echo(
            "Warning: this node only dials out, and knows no member's address. Add one to contacts in "
            f"{home / 'node.toml'}, or it will meet nobody.",
            err=True,
        )
    if made.spec_text is not None and made.spec.is_for_scripts:
        success(f"Next: COTERIE_HOME={home} python YOUR_SCRIPT.py")
        return
    success(f"Next: coterie node --home {home} --dry-run   and then: coterie node --home {home}")


def _audited(path: Path, genesis: bytes, start: bytes | None) -> tuple[bool, str]:
    """Whether a ledger of either kind is sound, and a report."""
    from coterie.ledger import audit as verify
    from coterie.ledger import describe
    from coterie.ledger.shared import audit_shared, describe_shared, is_shared
    from coterie.protocols.committees.recorded import committee_fault

    if is_shared(path):
        chain = audit_shared(path, genesis, start, committee_fault)
        return chain.fault is None, describe_shared(chain)
    one = verify(path, genesis)
    return one.fault is None, describe(one)


def _hash(text: str, option: str, what: str, source: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise LedgerError(f"not {what}", where=option, remedy=f"Give 64 hexadecimal digits, {source}.")
    return found


def _ask(home: Path, command: str, **content: Any) -> dict[str, Any]:
    from coterie.runtime.node.control import call
    from coterie.runtime.node.home import Home as Folder

    if not (home / "node.toml").exists():
        raise NodeError("this is no node's home", where=str(home), remedy="Make one: coterie federation init, or join.")
    return call(Folder(home).socket, {"command": command, **content})


def _table(
    listen: str | None,
    announce: str | None,
    join: str | None,
    contact: list[str] | None,
    dht_listen: str | None,
    dht: list[str] | None,
    private: bool,
    data: str | None,
    part: int | None,
) -> Any:
    from pydantic import ValidationError

    from coterie.registry import explain
    from coterie.runtime.node.home import NodeTable

    try:
        return NodeTable(
            listen=listen,
            announce=announce,
            join=join,
            contacts=contact or [],
            dht_listen=dht_listen,
            dht=dht or [],
            private_networks=private,
            dataset=_anchored(data),
            part=part,
        )
    except ValidationError as error:
        raise explain(error, "command line", NodeTable.model_fields) from None


def _anchored(dataset: str | None) -> str | None:
    """A data set with its path made absolute: the node may be started from another folder."""
    kind, colon, path = (dataset or "").partition(":")
    return f"{kind}:{Path(path).absolute()}" if colon and kind in ("csv", "npz") else dataset


def _identity(key: Path | None) -> Any:
    from coterie.identity import Identity

    return None if key is None else Identity.load(key)


def _moment(day: str | None) -> int | None:
    """The end of a day in UTC, in ms since 1970."""
    if day is None:
        return None
    try:
        end = datetime.datetime.combine(datetime.date.fromisoformat(day), datetime.time.max, datetime.UTC)
    except ValueError:
        raise MembershipError(f"{day!r} is no day", where="--until", remedy="Write it as 2027-12-31.") from None
    return int(end.timestamp() * 1000)
