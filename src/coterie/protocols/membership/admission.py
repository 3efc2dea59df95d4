"""Joining: what a newcomer asks at an inviter's join port, and what it is answered.

    newcomer -> inviter   JoinRequest: id, certificate, name, consent, proof of the invitation, signature
    inviter -> newcomer   Refused, or Welcome: genesis, the newcomer's admission, and the records in pieces

The join port is TLS whose server certificate the invitation pins; the newcomer has no certificate there. The proof is
a signature by the invitation's key over federation, inviter, invitation, certificate, name, newcomer and a nonce: it is
worth nothing for another key or certificate. The newcomer's own signature covers the whole request.

Where the policy needs more signatures, ``Welcome.missing`` says how many, and the newcomer asks again later.

An invitation that replaces the founder is for one who holds recovery keys (``recovering``): it asks for the records
(``RecoveryRequest``), and then brings its own, signed by those keys, which this peer keeps if they count.

Threat model. *Anybody* can reach the port: without a proof it gets one and the same refusal, whatever is wrong, and
after ``MOST_FAILURES`` of them a minute its address is not listened to; a secret of 128 bits is not guessed. *A thief
of the text* can use it first, under its own key, and the rightful newcomer is then told so; not after it was used. *A
network attacker* can delay or cut off the conversation; what he repeats is answered the same to the key that asked, and
TLS keeps the answer from him. *A malicious inviter* can refuse, admit late, or withhold newer records, such as an
expulsion: the newcomer hears of these from the first honest member it meets. It cannot forge records, show another
federation than that of the invitation, or admit the newcomer under another name or certificate. *A malicious newcomer*
is a member once admitted, and bound by what members can do (``replay``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from coterie.errors import CoterieError, LedgerError, MembershipError
from coterie.identity import Identity, PeerId, TransportKey, verify
from coterie.ledger.records import Record
from coterie.protocols.membership.book import Book
from coterie.protocols.membership.graph import Node
from coterie.protocols.membership.issued import Issued, Issues
from coterie.protocols.membership.join_messages import (
    MOST_ANSWER_BYTES,
    MOST_REQUEST_BYTES,
    Briefing,
    History,
    JoinRequest,
    RecoveryRequest,
    Refused,
    Welcome,
    claim_of,
    encoder,
    recovery_claim,
    requests,
    signed_part,
)
from coterie.protocols.membership.records import KIND_OF, Admission, Consent, Countersignature, Succession, read

MOST_FAILURES = 10
"""Of one address in ``_WINDOW_MS``; more are refused unread."""
_WINDOW_MS = 60_000
_TRIED_MS = 60_000
"""How long an invitation would hold that is only thought of, to see whether its use would count."""
_MOST_ADDRESSES = 4096
_PIECE_BYTES = MOST_ANSWER_BYTES // 2
_REFUSED = "refused"
"""All that is said to one who has not proved that it holds an invitation."""
_RECOVERY_KINDS = (KIND_OF[Succession], KIND_OF[Countersignature])
_log = logging.getLogger(__name__)


class _Refusal(Exception):
    """Ends a request: what the newcomer is told, and what the log."""

    def __init__(self, told: str, logged: str) -> None:
        super().__init__(logged)
        self.told = told


class Host:
    """An inviter's side of the conversation: ``answer`` is what its join port calls."""

    def __init__(
        self,
        identity: Identity,
        book: Book,
        issues: Issues,
        now: Callable[[], int],
        brief: Callable[[], Briefing] = Briefing,
    ) -> None:
        """``brief``: what newcomers are told beside the records."""
        self.identity, self.book, self.issues, self._now, self._brief = identity, book, issues, now, brief
        self._failures = _Failures(now)

    async def answer(self, data: bytes, address: str) -> bytes:
        """The answer to a request that came from ``address``, an IP address. Never raises for what is in ``data``."""
        if self._failures.too_many(address):
            _log.warning("join refused: too many failures from %s", address)
            return encoder.encode(Refused(_REFUSED))
        try:
            return encoder.encode(self._answer(data))
        except _Refusal as refusal:
            self._failures.count(address)
            _log.warning("join refused: %s, from %s", refusal, address)
            return encoder.encode(Refused(refusal.told[:300]))

    def require_right(self, replaces: PeerId) -> None:
        """Raise MembershipError where an invitation of this peer's could not be used: it has not the right.

        ``replaces``: whom the invited one succeeds, or empty. For the founder's successor recovery keys must sign.
        """
        policy, founder = self.book.replay.genesis.policy, self.book.membership.founder
        if replaces and replaces == founder:
            if not policy.recovery:
                raise MembershipError(
                    "the federation was founded without recovery keys, and nobody else can replace the founder",
                    where="invite",
                    remedy="The members stay as they are; to admit others, found a new federation.",
                )
            return
        newcomer = Identity.generate()
        certificate, key = TransportKey.new(newcomer).certificate, bytes.fromhex(newcomer.id)
        consent = Consent(self.book.federation, self.identity.id, key, certificate.fingerprint, "newcomer")
        request = JoinRequest(
            federation=self.book.federation,
            invitation=key,
            peer=newcomer.id,
            certificate=certificate.der,
            binding=certificate.signature,
            name="newcomer",
            consent=consent.sign(newcomer),
            nonce=bytes(16),
            proof=bytes(64),
            start=0,
            signature=bytes(64),
        )
        try:
            self.book.draft(self.identity, self._deed(request, Issued(newcomer.id, self._now() + _TRIED_MS, replaces)))
        except MembershipError as error:
            why = error.what.removeprefix("that would not count: ")
            raise MembershipError(
                f"nobody could join by an invitation of this peer's: {why}",
                where="invite",
                remedy="Let a member invite who may, by the policy that the federation was founded with.",
            ) from None

    def _answer(self, data: bytes) -> Welcome | History:
        request, entry = self._proved(data)
        if isinstance(request, RecoveryRequest):
            return self._recover(request, entry)
        if entry.replaces and entry.replaces == self.book.membership.founder:
            told = "this invitation is for the founder's successor, who uses it with 'coterie federation recover'"
            raise _Refusal(told, f"{told}: {request.peer[:12]}")
        if entry.used_by not in ("", request.peer):
            told = "the invitation was used by another key"
            raise _Refusal(told, f"{told}: {entry.used_by[:12]}, not {request.peer[:12]}")
        node = self._admission(request)
        if node is None:
            node = self._admit(request, entry)
        return self._welcome(request, node)

    def _recover(self, request: RecoveryRequest, entry: Issued) -> History:
        """Take what recovery keys have signed, and show the records."""
        if not entry.replaces:
            told = "this invitation is for a newcomer, who uses it with 'coterie federation join'"
            raise _Refusal(told, told)
        if entry.expires < self._now():
            raise _Refusal("the invitation has ended", "the invitation has ended, for a recovery")
        try:
            records = [Record.decode(data) for data in request.records]
            if records:
                self._require_recovery(records, entry)
                self.book.accept(records)
        except (LedgerError, MembershipError) as error:
            raise _Refusal(error.what, f"a recovery: {error.what}") from None
        for record in records:
            _log.warning("a recovery key has signed: %s", record.where)
        found, total = self._records(request.start)
        return History(self.book.replay.graph.genesis.encode(), request.start, total, found, self._brief())

    def _require_recovery(self, records: list[Record], entry: Issued) -> None:
        """The invitation is marked as used before a succession is kept."""
        for record in records:
            if record.author not in self.book.replay.genesis.policy.recovery or record.kind not in _RECOVERY_KINDS:
                raise MembershipError("it is not signed by a recovery key, or does something else", where=record.where)
            deed = read(record, self.book.federation)
            if not isinstance(deed, Succession):
                continue
            if entry.used_by not in ("", deed.peer):
                raise MembershipError("the invitation was used by another key", where=entry.used_by)
            entry = self.issues.use(entry, deed.peer)

    def _proved(self, data: bytes) -> tuple[JoinRequest | RecoveryRequest, Issued]:
        """The request, if it proves that its sender holds an invitation of this peer's."""
        if len(data) > MOST_REQUEST_BYTES:
            raise _Refusal(_REFUSED, f"{len(data)} bytes are no request")
        try:
            request = requests.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _Refusal(_REFUSED, f"not a request: {str(error)[:200]!a}") from None
        if request.federation != self.book.federation:
            raise _Refusal(_REFUSED, "an invitation of another federation")
        entry = self.issues.find(request.invitation.hex())
        if entry is None:
            raise _Refusal(_REFUSED, "an invitation that was never issued here, or ended")
        if isinstance(request, RecoveryRequest):
            if not verify(entry.key, "recovery", recovery_claim(request, self.identity.id), request.proof):
                raise _Refusal(_REFUSED, "the proof of the invitation is wrong")
            return request, entry
        if not verify(entry.key, "invitation", claim_of(request, self.identity.id), request.proof):
            raise _Refusal(_REFUSED, "the proof of the invitation is wrong")
        if not verify(request.peer, "join request", signed_part(request), request.signature):
            raise _Refusal(_REFUSED, "the request is not signed by the newcomer")
        return request, entry

    def _admission(self, request: JoinRequest) -> Node | None:
        """The record that admitted the newcomer by this invitation, if there is one."""
        wanted = self.identity.id, request.peer, request.invitation
        for node in self.book.replay.graph.nodes:
            deed = node.deed
            if isinstance(deed, Admission | Succession) and (node.author, deed.peer, deed.invitation) == wanted:
                return node
        return None

    def _admit(self, request: JoinRequest, entry: Issued) -> Node:
        """Sign the admission. The invitation is marked as used before anything can go out."""
        if entry.expires < self._now():
            raise _Refusal("the invitation has ended", f"the invitation has ended, for {request.peer[:12]}")
        try:
            record = self.book.draft(self.identity, self._deed(request, entry))
        except CoterieError as error:
            raise _Refusal(error.what, f"{error.what}, for {request.peer[:12]}") from None
        self.issues.use(entry, request.peer)
        self.book.add(record)
        _log.info("admitted %s (%s)", request.peer, request.name)
        return self.book.replay.graph.by_id[record.id]

    def _deed(self, request: JoinRequest, entry: Issued) -> Admission | Succession:
        if entry.replaces:
            return Succession(
                old=entry.replaces,
                peer=request.peer,
                certificate=request.certificate,
                binding=request.binding,
                name=request.name,
                consent=request.consent,
                invitation=request.invitation,
                expires=entry.expires,
            )
        return Admission(
            peer=request.peer,
            certificate=request.certificate,
            binding=request.binding,
            name=request.name,
            stake=self.book.replay.genesis.stake_of(request.peer),
            consent=request.consent,
            invitation=request.invitation,
            expires=entry.expires,
        )

    def _welcome(self, request: JoinRequest, node: Node) -> Welcome:
        membership = self.book.membership
        pending = membership.pending.get(node.id)
        if pending is None and not membership.is_member(request.peer):
            reason = membership.rejected.get(node.id, "that peer is no longer a member")
            raise _Refusal(reason, f"{reason}: {request.peer[:12]}")
        records, total = self._records(request.start)
        return Welcome(
            genesis=self.book.replay.graph.genesis.encode(),
            admission=node.id,
            missing=pending.needed - pending.signed if pending else 0,
            start=request.start,
            total=total,
            records=records,
            briefing=self._brief(),
        )

    def _records(self, start: int) -> tuple[list[bytes], int]:
        """As many records from ``start`` on as fit in an answer, and how many there are."""
        records, room = [], _PIECE_BYTES
        for found in self.book.log(start, self.book.size):
            data = found.record.encode()
            room -= len(data)
            if room < 0:
                break
            records.append(data)
        return records, self.book.size


class _Failures:
    """How often each address has failed lately."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._of: OrderedDict[str, list[int]] = OrderedDict()

    def too_many(self, host: str) -> bool:
        since = self._now() - _WINDOW_MS
        times = [time for time in self._of.get(host, ()) if time > since]
        return len(times) >= MOST_FAILURES

    def count(self, host: str) -> None:
        times = self._of.pop(host, [])
        self._of[host] = [*times, self._now()][-MOST_FAILURES:]
        if len(self._of) > _MOST_ADDRESSES:
            self._of.popitem(last=False)
