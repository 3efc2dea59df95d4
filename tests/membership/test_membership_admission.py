"""Joining: newcomers, thieves of tokens, guessers, liars on both sides, and crashes in between."""

import asyncio
import logging
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from membership_world import START, History, Person, people, person

from coterie.errors import MembershipError
from coterie.identity import TransportKey
from coterie.ledger.records import Record
from coterie.protocols.membership import Book, Host, Invitation, Issues, Joined, invite, issued, join
from coterie.protocols.membership.admission import MOST_FAILURES
from coterie.protocols.membership.join_messages import MOST_ANSWER_BYTES, JoinRequest, Refused, Welcome
from coterie.protocols.membership.joining import _request

ANN, BOB, CAT, EVE = people("ann", "bob", "cat", "eve")
HOUR = 3_600_000
ADDRESS = "192.0.2.9"


class Crash(Exception):
    """The process dies here."""


class Disk:
    """A store that survives; ``dies_after``: how many more writes it takes before the process dies in the next."""

    def __init__(self) -> None:
        self.values, self.records, self.dies_after = {}, [], None

    def get(self, key):
        return self.values.get(key)

    def put(self, key, value):
        self._write()
        self.values[key] = value

    def keep(self, record):
        self._write()
        self.records.append(record)

    def _write(self):
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise Crash


class Inviter:
    """One who invites: what it stores, and its side of the conversation, which can start again."""

    def __init__(self, who: Person = ANN, lab: History | None = None, **rules) -> None:
        self.who, self.lab, self.disk, self.time = who, lab or History(ANN, **rules), Disk(), START + HOUR
        self.disk.records += self.lab.records
        self.start()

    def start(self):
        self.disk.dies_after = None
        self.book = Book(self.lab.genesis, lambda: self.time, self.disk.keep, self.disk.records)
        self.issues = Issues(self.disk, lambda: self.time)
        self.host = Host(self.who.identity, self.book, self.issues, lambda: self.time)

    def invite(self, replaces="", **changes) -> Invitation:
        given = {
            "genesis": self.lab.genesis.id,
            "inviter": self.who.id,
            "fingerprint": self.who.certificate.fingerprint,
            "contacts": ["192.0.2.1:7801"],
            "expires": self.time + HOUR,
            "secrets": random.SystemRandom(),
        }
        invitation = invite(**{**given, **changes})
        self.issues.add(invitation, replaces)
        return Invitation.parse(invitation.text())

    async def ask(self, data: bytes) -> bytes:
        return await self.host.answer(data, ADDRESS)

    def join(self, invitation, newcomer: Person, ask=None, name=None, certificate=None) -> Joined:
        return asyncio.run(
            join(
                invitation,
                newcomer.identity,
                certificate or newcomer.certificate,
                name or newcomer.name,
                ask=ask or self.ask,
                secrets=random.Random(1),
                now=lambda: self.time,
            )
        )

    def put(self, request, address=ADDRESS):
        """The answer to a raw request."""
        data = request if isinstance(request, bytes) else msgspec.msgpack.encode(request)
        answer = asyncio.run(self.host.answer(data, address))
        return msgspec.msgpack.decode(answer, type=Refused | Welcome)

    def request(self, invitation, newcomer: Person, **changes) -> JoinRequest:
        made = _request(
            invitation,
            newcomer.identity,
            newcomer.certificate,
            newcomer.name,
            changes.pop("start", 0),
            random.Random(2),
        )
        return msgspec.structs.replace(made, **changes)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "coterie.protocols.membership.admission")
    return caplog


def test_a_newcomer_joins_and_knows_the_members(log):
    ann = Inviter(stakes={BOB.id: 1})
    joined = ann.join(ann.invite(), BOB)
    assert joined.missing == 0
    assert joined.genesis == ann.lab.genesis
    assert joined.membership == ann.book.membership
    assert ann.lab.names(joined.membership) == {"ann", "bob"}
    deed = joined.records[-1].content
    assert (joined.records[-1].id, deed["peer"], deed["name"]) == (joined.admission, BOB.id, "bob")
    assert joined.membership.members[BOB.id].certificates == (BOB.certificate,)
    assert f"admitted {BOB.id}" in log.text
    book = Book(joined.genesis, lambda: ann.time, lambda record: None, joined.records)
    assert book.membership == ann.book.membership


def test_many_records_come_in_pieces():
    lab = History(ANN, admit="any")
    for number in range(700):
        lab.admit(ANN, person(f"crowd-{number % 40}"), time=START + number) if number < 40 else lab.renew(
            ANN, lab.records[-1], certificate=ANN.certificate
        )
    ann, asked = Inviter(lab=lab), []

    async def ask(data):
        answer = await ann.ask(data)
        asked.append(len(answer))
        return answer

    joined = ann.join(ann.invite(), BOB, ask)
    assert len(joined.records) == 701
    assert len(asked) > 1
    assert max(asked) < MOST_ANSWER_BYTES
    assert joined.membership == ann.book.membership


def test_records_that_come_in_between_two_pieces_are_not_missed():
    lab = History(ANN)
    for number in range(800):
        lab.renew(ANN, *lab.records[-1:], certificate=ANN.certificate, time=START + number)
    ann, asked = Inviter(lab=lab), []

    async def ask(data):
        answer = await ann.ask(data)
        if not asked:
            ann.book.renew(ANN.identity, ANN.certificate)
        asked.append(1)
        return answer

    joined = ann.join(ann.invite(), BOB, ask)
    assert len(joined.records) == 802
    assert joined.membership == ann.book.membership


def test_a_token_is_used_once_but_answers_its_user_again(log):
    ann = Inviter()
    invitation = ann.invite()
    first = ann.join(invitation, BOB)
    again = ann.join(invitation, BOB)
    assert (again.admission, again.records) == (first.admission, first.records)
    with pytest.raises(MembershipError, match="used by another key"):
        ann.join(invitation, EVE)
    assert "used by another key" in log.text
    assert EVE.id[:12] in log.text
    assert ann.lab.names(ann.book.membership) == {"ann", "bob"}


def test_an_ended_token_is_refused_on_both_sides(log):
    ann = Inviter()
    invitation = ann.invite()
    late = ann.request(invitation, BOB)
    ann.time += HOUR + 1
    with pytest.raises(MembershipError, match="the invitation has ended"):
        ann.join(invitation, BOB)
    answer = ann.put(late)
    assert answer.reason == "the invitation has ended"
    assert "the invitation has ended" in log.text
    assert ann.lab.names(ann.book.membership) == {"ann"}


def test_who_used_it_in_time_is_answered_after_its_end():
    ann = Inviter()
    invitation = ann.invite()
    admission = ann.join(invitation, BOB).admission
    ann.time += HOUR + 1
    assert ann.put(ann.request(invitation, BOB)).admission == admission


def resigned(request, newcomer):
    """Signed anew by the newcomer, as a hostile one would."""
    blank = msgspec.structs.replace(request, signature=bytes(64))
    signature = newcomer.identity.sign("join request", msgspec.msgpack.encode(blank))
    return msgspec.structs.replace(request, signature=signature)


UNPROVED = {
    "garbage": (lambda ann, i: b"\xff" * 100, "not a request"),
    "nothing": (lambda ann, i: b"", "not a request"),
    "too long": (lambda ann, i: bytes(20_000), "bytes are no request"),
    "an answer": (lambda ann, i: msgspec.msgpack.encode(Refused("x")), "not a request"),
    "another federation": (
        lambda ann, i: resigned(ann.request(i, BOB, federation=bytes(32)), BOB),
        "another federation",
    ),
    "a guessed invitation": (
        lambda ann, i: ann.request(
            Invitation(i.genesis, i.inviter, i.fingerprint, i.contacts, i.expires, bytes(16)), BOB
        ),
        "never issued here",
    ),
    "the public key without the secret": (
        lambda ann, i: resigned(ann.request(i, BOB, proof=BOB.identity.sign("invitation", b"")), BOB),
        "the proof of the invitation is wrong",
    ),
    "the proof of another newcomer": (
        lambda ann, i: resigned(ann.request(i, EVE, proof=ann.request(i, BOB).proof), EVE),
        "the proof of the invitation is wrong",
    ),
    "the proof for another name": (
        lambda ann, i: resigned(ann.request(i, BOB, name="rob"), BOB),
        "the proof of the invitation is wrong",
    ),
    "the proof for another nonce": (
        lambda ann, i: resigned(ann.request(i, BOB, nonce=bytes(16)), BOB),
        "the proof of the invitation is wrong",
    ),
    "the proof for another certificate": (
        lambda ann, i: resigned(ann.request(i, BOB, certificate=EVE.certificate.der), BOB),
        "the proof of the invitation is wrong",
    ),
    "another's request, begun elsewhere": (lambda ann, i: ann.request(i, BOB, signature=bytes(64)), "not signed"),
    "a changed start": (
        lambda ann, i: msgspec.structs.replace(ann.request(i, BOB), start=1),
        "not signed by the newcomer",
    ),
}


@pytest.mark.parametrize("what", UNPROVED)
def test_without_a_proof_there_is_one_answer_and_a_logged_reason(what, log):
    ann = Inviter()
    invitation = ann.invite()
    forge, reason = UNPROVED[what]
    assert ann.put(forge(ann, invitation)) == Refused("refused")
    assert reason in log.text
    assert "192.0.2.9" in log.text
    assert ann.lab.names(ann.book.membership) == {"ann"}
    assert ann.join(invitation, BOB).missing == 0, "the invitation is still good"


def test_a_request_for_one_federation_is_worth_nothing_in_another():
    ann, other = Inviter(), Inviter(BOB, lab=History(BOB))
    invitation = ann.invite()
    other.issues.add(invitation)
    assert other.put(ann.request(invitation, CAT)) == Refused("refused")
    moved = Invitation(other.lab.genesis.id, BOB.id, invitation.fingerprint, ("a:1",), invitation.expires, bytes(16))
    assert other.put(ann.request(moved, CAT)) == Refused("refused")


def test_a_proof_for_one_inviter_is_worth_nothing_at_another():
    """Both issued it: the text was copied, or the same generator served both."""
    lab = History(ANN, admit="any")
    lab.admit(ANN, BOB)
    ann, bob = Inviter(lab=lab), Inviter(BOB, lab=lab)
    invitation = ann.invite()
    bob.issues.add(invitation)
    assert bob.put(ann.request(invitation, CAT)) == Refused("refused")


def test_with_a_proof_but_without_agreement_nobody_is_admitted_and_nothing_used():
    ann = Inviter()
    invitation = ann.invite()
    for changes in ({"consent": bytes(64)}, {"binding": bytes(64)}):
        answer = ann.put(resigned(ann.request(invitation, BOB, **changes), BOB))
        assert "would not count" in answer.reason
    assert ann.join(invitation, CAT).missing == 0


def test_guessing_is_slowed_down_for_one_address_and_nobody_else(log):
    ann = Inviter()
    invitation = ann.invite()
    good = ann.request(invitation, BOB)
    for _ in range(MOST_FAILURES):
        assert ann.put(b"junk", "198.51.100.1") == Refused("refused")
    assert ann.put(good, "198.51.100.1") == Refused("refused")
    assert "too many failures from 198.51.100.1" in log.text
    ann.time += 60_001
    assert isinstance(ann.put(good, "198.51.100.1"), Welcome)
    for _ in range(MOST_FAILURES):
        ann.put(b"junk", "198.51.100.1")
    assert isinstance(ann.put(good, "198.51.100.2"), Welcome)
    for number in range(5000):
        ann.put(b"", f"10.0.{number // 250}.{number % 250}")
    assert len(ann.host._failures._of) <= 4096


def test_guessing_from_one_ipv6_address_does_not_shut_out_its_neighbour():
    ann = Inviter()
    good = ann.request(ann.invite(), BOB)
    for _ in range(MOST_FAILURES):
        ann.put(b"junk", "2001:db8::1")
    assert ann.put(good, "2001:db8::1") == Refused("refused")
    assert isinstance(ann.put(good, "2001:db8::2"), Welcome)


def test_a_quorum_lets_the_newcomer_wait():
    lab = History(ANN, admit="quorum", quorum=2)
    lab.admit(ANN, CAT)
    ann = Inviter(lab=lab)
    invitation = ann.invite()
    joined = ann.join(invitation, BOB)
    assert joined.missing == 1
    assert not joined.membership.is_member(BOB.id)
    assert ann.join(invitation, BOB).missing == 1
    ann.book.countersign(CAT.identity, joined.admission)
    done = ann.join(invitation, BOB)
    assert (done.missing, done.admission) == (0, joined.admission)
    assert done.membership.is_member(BOB.id)


def test_an_invitation_that_replaces_a_lost_key_makes_a_successor():
    lab = History(ANN, stakes={BOB.id: 30})
    lab.admit(ANN, BOB, stake=30)
    ann, new = Inviter(lab=lab), person("bob-again")
    joined = ann.join(ann.invite(replaces=BOB.id), new)
    assert ann.lab.names(joined.membership) == {"ann", "bob-again"}
    assert joined.membership.members[new.id].stake == 30
    assert joined.membership.expelled[BOB.id].successor == new.id


@pytest.mark.parametrize(
    ("rules", "reason"),
    [({"seats": 1}, "no seat was free"), ({"until": START + 1}, "ended admission")],
)
def test_what_the_policy_forbids_is_refused_and_uses_nothing(rules, reason):
    ann = Inviter(**rules)
    invitation = ann.invite()
    with pytest.raises(MembershipError, match=reason):
        ann.join(invitation, BOB)
    assert ann.issues.find(invitation.key.id).used_by == ""


def test_one_who_may_not_admit_cannot():
    lab = History(ANN)
    lab.admit(ANN, BOB)
    bob = Inviter(BOB, lab=lab)
    with pytest.raises(MembershipError, match="only the founder may do that"):
        bob.join(bob.invite(), CAT)


def test_one_who_was_expelled_is_not_welcomed_again():
    ann = Inviter()
    invitation = ann.invite()
    ann.join(invitation, BOB)
    ann.book.expel(ANN.identity, BOB.id)
    with pytest.raises(MembershipError, match="no longer a member"):
        ann.join(invitation, BOB)
    with pytest.raises(MembershipError, match="never admitted again"):
        ann.join(ann.invite(), BOB)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_wherever_the_inviter_crashes_the_newcomer_gets_in_once_and_nobody_else_does(writes):
    """Write 0 marks the invitation, write 1 keeps the record; then the answer is lost on the way."""
    ann = Inviter()
    invitation = ann.invite()
    ann.disk.dies_after = writes

    async def lost(data):
        await ann.ask(data)
        raise Crash

    with pytest.raises(Crash):
        ann.join(invitation, BOB, lost)
    ann.start()
    if writes:
        with pytest.raises(MembershipError, match="used by another key"):
            ann.join(invitation, EVE)
    joined = ann.join(invitation, BOB)
    assert ann.lab.names(joined.membership) == {"ann", "bob"}
    assert len(ann.disk.records) == 1
    assert ann.join(invitation, BOB).admission == joined.admission


def test_the_inviters_store_gives_nobody_an_invitation():
    ann = Inviter()
    invitation = ann.invite()
    stored = repr(ann.disk.values)
    assert invitation.secret.hex() not in stored
    assert repr(invitation.secret)[2:-1] not in stored
    assert invitation.key.id in stored


def test_open_invitations_have_a_limit_and_old_ones_are_forgotten(monkeypatch):
    monkeypatch.setattr(issued, "MOST_OPEN", 3)
    ann = Inviter()
    used = ann.invite()
    ann.join(used, BOB)
    others = [ann.invite() for _ in range(2)]
    with pytest.raises(MembershipError, match="3 invitations are open"):
        ann.invite()
    ann.time += HOUR + 1
    ann.invite()
    assert ann.issues.find(others[0].key.id) is None
    assert ann.issues.find(used.key.id).used_by == BOB.id
    ann.time += issued.KEEP_USED_MS + HOUR
    ann.invite()
    assert ann.issues.find(used.key.id) is None


# What a lying inviter may answer


def lie(change, newcomer=BOB):
    """Join with an inviter that changes its answers."""
    ann = Inviter()
    ann.book.add(ann.book.draft(ANN.identity, ann.lab.admission(ANN, CAT)))
    invitation = ann.invite()

    async def ask(data):
        answer = msgspec.msgpack.decode(await ann.ask(data), type=Welcome)
        changed = change(ann, answer)
        return changed if isinstance(changed, bytes) else msgspec.msgpack.encode(changed)

    return ann.join(invitation, newcomer, ask)


def other_federation(ann, answer):
    lab = History(ANN, admit="any")
    admission = lab.admit(ANN, BOB)
    return Welcome(lab.genesis.encode(), admission.id, 0, 0, 1, [admission.encode()])


def by_another(ann, answer):
    """A real admission of the newcomer in the same federation, but signed by somebody else."""
    lab = ann.lab
    record = lab.admit(CAT, BOB, *[Record.decode(data) for data in answer.records[:1]])
    return replaced(answer, records=[answer.records[0], record.encode()], admission=record.id)


def replaced(answer, **changes):
    return msgspec.structs.replace(answer, **changes)


LIES = {
    "nothing": (lambda ann, a: b"", "cannot be read"),
    "garbage": (lambda ann, a: b"\xc1" * 40, "cannot be read"),
    "too much": (lambda ann, a: bytes(MOST_ANSWER_BYTES + 1), "too long"),
    "another federation": (other_federation, "another federation"),
    "no genesis": (lambda ann, a: replaced(a, genesis=b""), "not a record"),
    "a record for genesis": (lambda ann, a: replaced(a, genesis=a.records[0]), "another federation"),
    "no records": (lambda ann, a: replaced(a, records=[], total=0), "shows no admission"),
    "without the first record": (lambda ann, a: replaced(a, records=a.records[1:], total=1), "not whole"),
    "a record twice": (lambda ann, a: replaced(a, records=a.records * 2, total=4), "not whole"),
    "a cut record": (lambda ann, a: replaced(a, records=[a.records[0][:-1], *a.records[1:]]), "not a record"),
    "without the admission": (lambda ann, a: replaced(a, records=a.records[:1], total=1), "shows no admission"),
    "another's admission": (
        lambda ann, a: replaced(a, admission=Record.decode(a.records[0]).id),
        "another key or certificate",
    ),
    "an admission by another": (by_another, "shows no admission that the inviter has signed"),
    "a piece out of turn": (lambda ann, a: replaced(a, start=1), "does not go on"),
    "more than there is": (lambda ann, a: replaced(a, records=[], total=9), "does not go on"),
    "a long refusal": (
        lambda ann, a: msgspec.msgpack.encode({"type": "Refused", "reason": "x" * 301}),
        "cannot be read",
    ),
    "a refusal": (lambda ann, a: msgspec.msgpack.encode(Refused("go\x1b[2J")), r"the inviter refuses: 'go\\x1b\[2J'"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lying_inviter_is_not_believed(what):
    change, reason = LIES[what]
    with pytest.raises(MembershipError, match=reason):
        lie(change)


def test_the_same_inviter_is_believed_when_it_does_not_lie():
    assert lie(lambda ann, answer: answer).membership.is_member(BOB.id)


def test_records_from_the_future_point_to_the_clock():
    ann = Inviter()
    invitation = ann.invite()

    async def ask(data):
        answer = await ann.ask(data)
        ann.time -= 2 * HOUR
        return answer

    with pytest.raises(MembershipError, match="from the future"):
        ann.join(invitation, BOB, ask)


def test_another_certificate_than_was_admitted_is_named():
    ann = Inviter()
    invitation = ann.invite()
    ann.join(invitation, BOB)
    with pytest.raises(MembershipError, match="another key or certificate"):
        ann.join(invitation, BOB, certificate=TransportKey.new(BOB.identity).certificate)


SEEN = Inviter()
SEEN_REQUEST = msgspec.msgpack.encode(SEEN.request(SEEN.invite(), BOB))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(SEEN_REQUEST) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_no_changed_request_is_answered(place, inserted, cut):
    data = SEEN_REQUEST[:place] + inserted + SEEN_REQUEST[place + cut :]
    if data != SEEN_REQUEST:
        SEEN.time += 60_001  # so that each is read
        assert SEEN.put(data) == Refused("refused")
        assert SEEN.book.size == 0


def test_what_a_guesser_writes_does_not_reach_the_log_as_it_is(log):
    SEEN.time += 60_001
    SEEN.put(msgspec.msgpack.encode({"type": "JoinRequest", "x\nadmitted everybody\x1b[2J" * 50: 1}))
    assert "\n" not in log.messages[-1]
    assert "\x1b" not in log.messages[-1]
    assert len(log.messages[-1]) < 600
