"""How homes come to be: a federation is founded, a newcomer joins one, or all nodes of a run are made at once."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import data
from coterie import spec as specs
from coterie.errors import MembershipError, PeerUnreachable, SpecError
from coterie.identity import Identity, PeerId, TransportKey, verify
from coterie.layout import Layout
from coterie.ledger import Record
from coterie.network.addresses import is_address
from coterie.network.join import call_join
from coterie.protocols.membership import (
    Admission,
    Book,
    Consent,
    Invitation,
    Joined,
    Membership,
    Policy,
    found,
    invite,
    join,
    recover,
)
from coterie.protocols.membership.invitation import PREFIX
from coterie.runtime.node.chain_start import save_pin
from coterie.runtime.node.home import Home, NodeTable
from coterie.runtime.node.messages import signed_spec
from coterie.runtime.node.roster import Roster, begin_ledger, now_ms
from coterie.runtime.node.site import data_here
from coterie.runtime.results import spec_text
from coterie.spec import Spec

_SCRIPT = {"dataset": "script", "partition": "iid"}
_JOIN_SECONDS = 30.0
_HOUR_MS = 3_600_000


def found_federation(
    path: Path,
    spec: Spec,
    layout: Layout | None,
    table: NodeTable,
    *,
    name: str,
    policy: Policy,
    identity: Identity | None = None,
) -> Home:
    """Make the home of a new federation's founder. ``layout``: of the spec's model, which all members must have; None
    where training scripts bring the models.

    Nothing is made where the record would be refused. Raises NodeError, MembershipError, LedgerError, OutputError.
    """
    identity = identity or Identity.generate()
    transport = TransportKey.new(identity)
    genesis = found(
        identity,
        federation=spec.federation.name,
        spec=bytes.fromhex(spec.hash),
        name=name,
        certificate=transport.certificate,
        time=now_ms(),
        policy=policy,
        layout=b"" if layout is None else bytes.fromhex(layout.hash),
    )
    home = Home.create(path, identity, transport, table.model_copy(update={"federation": genesis.id.hex()}))
    begin_ledger(path, genesis)
    text = spec_text(spec.resolved())
    home.save_spec(text, identity.sign("spec", signed_spec(genesis.id, text)))
    return home


def spec_to_found(path: Path | None, swarm: str | None) -> Spec:
    """The spec in a file, or that of a swarm of training scripts with this name. Raises SpecError."""
    if (path is None) == (swarm is None):
        raise SpecError(
            "give a spec, or --swarm NAME" if path is None else "a spec and --swarm NAME are given",
            where="command line",
            remedy="A spec is for a federation that trains by itself, --swarm for one whose scripts do.",
        )
    if path is not None:
        spec = specs.load(path, ())
    else:
        tables = {"federation": {"name": swarm, "protocol": "swarm"}, "data": _SCRIPT, "model": {"name": "script"}}
        spec = specs.check(tables, Path.cwd())
    named = {spec.model.name == "script", spec.is_for_scripts}
    if len(named) > 1 or (spec.is_for_scripts and spec.federation.protocol != "swarm"):
        raise SpecError(
            "model, data and protocol do not go together",
            where=str(path),
            remedy='Scripts bring both model and data, by protocol "swarm": or let neither be "script".',
        )
    return spec


def found_with_data(
    path: Path, spec: Spec, table: NodeTable, *, name: str, policy: Policy, identity: Identity | None = None
) -> Home:
    """``found_federation`` for any spec; the data here say what the model's layout is. Also raises DataError."""
    layout = None if spec.is_for_scripts else data_here(spec, table)[1]
    table = table.model_copy(update={"base": str(Path(spec.base).resolve())})
    return found_federation(path, spec, layout, table, name=name, policy=policy, identity=identity)


async def join_federation(
    path: Path, invitation: Invitation, table: NodeTable, *, name: str, identity: Identity | None = None
) -> tuple[Home, Joined]:
    """Join by an invitation, and make a home. It is not a member yet while ``missing`` signatures are.

    Raises MembershipError where refused or lied to, PeerUnreachable where no contact of the invitation answers.
    """
    return await _enter(
        path,
        table,
        identity,
        invitation.genesis,
        lambda home: join(
            invitation,
            home.identity,
            home.transport.certificate,
            name,
            ask=_asker(invitation),
            secrets=random.SystemRandom(),
            now=now_ms,
        ),
    )


async def recover_federation(
    path: Path,
    invitation: Invitation,
    table: NodeTable,
    keys: Sequence[Identity],
    agree: Callable[[Membership], bool],
    *,
    name: str,
    identity: Identity | None = None,
) -> tuple[Home, Joined]:
    """Succeed the founder, by recovery ``keys`` and any member's invitation, and make a home.

    ``agree`` sees the members before anything is signed. Raises as ``join_federation``.
    """
    return await _enter(
        path,
        table,
        identity,
        invitation.genesis,
        lambda home: recover(
            invitation,
            home.identity,
            home.transport.certificate,
            name,
            keys,
            agree=agree,
            ask=_asker(invitation),
            secrets=random.SystemRandom(),
            now=now_ms,
        ),
    )


async def _enter(
    path: Path,
    table: NodeTable,
    identity: Identity | None,
    federation: bytes,
    talk: Callable[[Home], Awaitable[Joined]],
) -> tuple[Home, Joined]:
    """Make a home and talk to who lets it in.

    Where that fails the home keeps its key: an answer may have been lost after the admission, and the same key is then
    answered again. Another call takes it up. Data that cannot be read are found before an invitation is used.
    """
    if table.dataset is not None:
        data.load(specs.check({"data": {"dataset": table.dataset}}, path).dataset, None)
    home = Home.begin(path, identity, federation)
    with home.locked():
        try:
            joined = await talk(home)
        except PeerUnreachable as error:
            remedy = f"{error.remedy} Then give the same command again: {path} keeps the key."
            raise PeerUnreachable(error.what, where=error.where, remedy=remedy) from None
        return _settle(home, table, joined), joined


def _settle(home: Home, table: NodeTable, joined: Joined) -> Home:
    """Keep what a newcomer was told."""
    begin_ledger(home.path, joined.genesis, joined.records)
    briefing = joined.briefing
    contacts = table.contacts or [text for text in briefing.contacts if is_address(text)]
    if verify(joined.genesis.author, "spec", signed_spec(joined.genesis.id, briefing.spec), briefing.signature):
        home.save_spec(briefing.spec, briefing.signature)
    if briefing.chain is not None:
        save_pin(home.path, briefing.chain)
    home.finish(table.model_copy(update={"federation": joined.genesis.id.hex(), "contacts": contacts}))
    return home


@contextmanager
def recovery_keys(files: Sequence[Path]) -> Iterator[tuple[PeerId, ...]]:
    """New recovery keys in these files, to be kept offline; their ids, as a policy names them.

    The files are taken back where what follows fails. Raises IdentityError where a file is there, or cannot be made.
    """
    made: list[Path] = []
    ids = []
    try:
        for path in files:
            key = Identity.generate()
            key.save(path)
            made.append(path)
            ids.append(key.id)
        yield tuple(sorted(ids))
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _asker(invitation: Invitation) -> Callable[[bytes], Awaitable[bytes]]:
    """Puts requests to the first contact that answers."""

    async def ask(request: bytes) -> bytes:
        failures = []
        for contact in invitation.contacts:
            try:
                return await call_join(contact, invitation.fingerprint, request, _JOIN_SECONDS)
            except PeerUnreachable as error:
                failures.append(str(error))
        raise PeerUnreachable(
            "nobody answers at the contacts of the invitation: " + "; ".join(failures),
            where="join",
            remedy="Is the inviter's node running, and may this machine dial it?",
        )

    return ask


def found_run(
    folders: Sequence[Path], spec: Spec, layout: Layout | None, names: Sequence[str], parts: Sequence[int]
) -> list[Home]:
    """Homes of all nodes of one run on this machine, the first the founder, all of them members."""
    table = NodeTable(listen="127.0.0.1:0", private_networks=True, base=str(Path(spec.base).resolve()))
    tables = [table.model_copy(update={"part": part}) for part in parts]
    founder = found_federation(folders[0], spec, layout, tables[0], name=names[0], policy=Policy(seats=len(names)))
    homes = [founder]
    for path, own in zip(folders[1:], tables[1:], strict=True):
        own = own.model_copy(update={"federation": founder.table.federation})
        identity = Identity.generate()
        homes.append(Home.create(path, identity, TransportKey.new(identity), own))
        homes[-1].save_spec(*(founder.spec_text or ("", b"")))
    genesis, records = _admit_all(founder, homes[1:], names[1:])
    for home in homes[1:]:
        begin_ledger(home.path, genesis, records)
    return homes


def _admit_all(founder: Home, newcomers: Sequence[Home], names: Sequence[str]) -> tuple[Record, list[Record]]:
    with Roster(founder.path, founder.table.federation) as roster:
        book = roster.book
        for home, name in zip(newcomers, names, strict=True):
            book.add(book.draft(founder.identity, _admission(founder.identity.id, home, name, book)))
        records = [node.record for node in book.log(0, book.size)]
        return book.replay.graph.genesis, records


def _admission(inviter: PeerId, home: Home, name: str, book: Book) -> Admission:
    """An admission as the join conversation makes it, with an invitation that nobody else has seen."""
    identity, certificate = home.identity, home.transport.certificate
    expires = now_ms() + _HOUR_MS
    invitation = invite(
        genesis=book.federation,
        inviter=inviter,
        fingerprint=certificate.fingerprint,
        contacts=("127.0.0.1:1",),
        expires=expires,
        secrets=random.SystemRandom(),
    )
    key = bytes.fromhex(invitation.key.id)
    consent = Consent(book.federation, inviter, key, certificate.fingerprint, name)
    return Admission(
        peer=identity.id,
        certificate=certificate.der,
        binding=certificate.signature,
        name=name,
        stake=book.replay.genesis.stake_of(identity.id),
        consent=consent.sign(identity),
        invitation=key,
        expires=invitation.expires,
    )


def read_invitation(text: str) -> Invitation:
    """The invitation of a pasted text, or of a file that holds one. Raises MembershipError."""
    path = Path(text)
    try:
        if len(text) < 256 and path.is_file():
            text = path.read_text()
        elif not text.lstrip().lower().startswith(PREFIX):
            raise MembershipError(
                f"there is no file {text[:80]!r}, and it is no invitation itself",
                where="invitation",
                remedy=f"Give the text, which begins with {PREFIX}, or a file that holds it.",
            )
    except (OSError, UnicodeDecodeError) as error:
        raise MembershipError(f"the invitation cannot be read: {error}", where=str(path)) from None
    return Invitation.parse(text.strip())
