"""A table of records that a hostile peer may make: each is refused for good, with its reason, and changes nothing."""

import hashlib
from dataclasses import dataclass

import msgspec
import pytest
from membership_world import START, History, people

from coterie.errors import LedgerError, MembershipError
from coterie.identity import Certificate, TransportKey
from coterie.ledger.records import Record
from coterie.protocols.membership import Policy, Replay, read_genesis
from coterie.protocols.membership.policy import MOST_SEATS
from coterie.protocols.membership.records import KIND_OF, Consent, Countersignature, Expulsion, content_of

ANN, BOB, CAT, EVE = people("ann", "bob", "cat", "eve")
UNTIL = START + 60_000


@dataclass
class Scene:
    """Ann has admitted Bob; Eve is nobody. Any member may admit."""

    lab: History

    def raw(self, author, kind, content, *parents, time=START + 5000):
        parents = parents or (self.lab.records[0],)
        record = Record.make(author.identity, kind, content, [parent.id for parent in parents], time)
        self.lab.records.append(record)
        return record

    def changed(self, author, deed, *parents, **changes):
        """The record of a deed of which some entries of the content are others."""
        content = {**content_of(deed), **changes}
        return self.raw(author, KIND_OF[type(deed)], content, *parents)

    def guest(self, host=BOB, newcomer=CAT, **changes):
        return self.changed(host, self.lab.admission(host, newcomer), **changes)


def scene():
    lab = History(ANN, admit="any", until=UNTIL)
    lab.admit(ANN, BOB)
    return Scene(lab)


def foreign(newcomer, host, federation):
    """A consent to another federation."""
    consent = Consent(federation, host.id, bytes(32), newcomer.certificate.fingerprint, newcomer.name)
    return consent.sign(newcomer.identity)


def bound(newcomer, der):
    return newcomer.identity.sign("transport certificate", hashlib.sha256(der).digest())


def used_twice(s):
    deed = s.lab.admission(BOB, CAT)
    first = s.lab.sign(BOB, deed)
    s.lab.leave(CAT)
    assert first
    return s.lab.sign(BOB, deed)


def of_another_guest(s):
    deed, other = s.lab.admission(BOB, CAT), s.lab.admission(BOB, EVE)
    consent = Consent(s.lab.genesis.id, BOB.id, deed.invitation, EVE.certificate.fingerprint, EVE.name)
    s.lab.sign(BOB, deed)
    again = msgspec.structs.replace(other, invitation=deed.invitation, consent=consent.sign(EVE.identity))
    return s.lab.sign(BOB, again)


def follows_refused(s):
    refused = s.guest(name="")
    return s.raw(ANN, "expel", {"peer": BOB.id, "reason": ""}, refused, time=START + 9000)


def before_parent(s):
    late = s.lab.renew(BOB)
    return s.lab.admit(BOB, CAT, late, time=late.time - 1)


FORGERIES = {
    "of no kind": (lambda s: s.raw(ANN, "king", {}), "no kind that belongs here"),
    "a second genesis": (lambda s: s.raw(ANN, "genesis", content_of(read_genesis(s.lab.genesis))), "no kind that"),
    "empty": (lambda s: s.raw(ANN, "member", {}), "its content is wrong"),
    "one field too many": (lambda s: s.guest(admin=True), "its content is wrong"),
    "of a wrong type": (lambda s: s.guest(stake="1"), "its content is wrong"),
    "negative stake": (lambda s: s.guest(stake=-1), "its content is wrong"),
    "more stake than genesis gives": (lambda s: s.guest(stake=2), "genesis gives the newcomer a stake of 1"),
    "less stake than genesis gives": (lambda s: s.guest(stake=0), "genesis gives the newcomer a stake of 1"),
    "no name": (lambda s: s.guest(name=""), "its content is wrong"),
    "a long name": (lambda s: s.guest(name="x" * 65), "its content is wrong"),
    "a name that turns around": (lambda s: s.guest(name="bob\u202egpj.exe"), "invisible"),
    "a name with a line break": (lambda s: s.guest(name="cat\nadmitted"), "invisible"),
    "a name that begins blank": (lambda s: s.guest(name=" cat"), "invisible"),
    "another name than was agreed": (lambda s: s.guest(name="dog"), "has not agreed"),
    "a short id": (lambda s: s.guest(peer="ab"), "its content is wrong"),
    "an id of small order": (lambda s: s.guest(peer="01" + "00" * 31), "no peer id"),
    "an id in capitals": (lambda s: s.guest(peer=CAT.id.upper()), "no peer id"),
    "another peer's certificate": (
        lambda s: s.guest(certificate=EVE.certificate.der, binding=EVE.certificate.signature),
        "its certificate is refused: the peer's key has not signed it",
    ),
    "a certificate made out to another": (
        lambda s: s.guest(certificate=EVE.certificate.der, binding=bound(CAT, EVE.certificate.der)),
        "its certificate is refused: it could sign other certificates, is made out to another name",
    ),
    "no certificate": (lambda s: s.guest(certificate=b""), "its content is wrong"),
    "garbage for a certificate": (
        lambda s: s.guest(certificate=b"\x30\x80", binding=bound(CAT, b"\x30\x80")),
        "its certificate is refused: it is not a certificate",
    ),
    "a long certificate": (lambda s: s.guest(certificate=bytes(4097)), "its content is wrong"),
    "without consent": (lambda s: s.guest(consent=bytes(64)), "has not agreed"),
    "consent to another federation": (lambda s: s.guest(consent=foreign(CAT, BOB, bytes(32))), "has not agreed"),
    "consent to another host": (
        lambda s: s.guest(host=ANN, **{"consent": s.lab.admission(BOB, CAT).consent}),
        "has not agreed",
    ),
    "another certificate than was agreed": (
        lambda s: (
            lambda new: s.guest(certificate=new.der, binding=new.signature)
        )(TransportKey.new(CAT.identity).certificate),
        "has not agreed",
    ),
    "a short invitation": (lambda s: s.guest(invitation=b""), "its content is wrong"),
    "an expired invitation": (lambda s: s.guest(expires=START + 4999), "its invitation had expired"),
    "an invitation used twice": (used_twice, "its invitation had been used"),
    "an invitation used for two": (of_another_guest, "its invitation had been used"),
    "by itself": (lambda s: s.lab.admit(EVE, EVE), "nobody admits itself"),
    "by nobody": (lambda s: s.lab.admit(EVE, CAT), "its author had not been admitted"),
    "after the policy's end": (lambda s: s.lab.admit(BOB, CAT, time=UNTIL + 1), "had ended admission"),
    "before its parent": (before_parent, "its time lies before that of a record it follows"),
    "a record that follows nothing": (
        lambda s: s.lab.records.append(r := Record.make(ANN.identity, "leave", {"reason": ""}, (), START)) or r,
        "it follows nothing",
    ),
    "following a refused record": (follows_refused, "it follows a refused record"),
    "an expulsion of oneself": (lambda s: s.lab.expel(BOB, BOB), "nobody expels itself"),
    "an expulsion by nobody": (lambda s: s.lab.expel(EVE, BOB), "its author had not been admitted"),
    "a long reason": (
        lambda s: s.raw(ANN, "expel", {"peer": BOB.id, "reason": "x" * 281}),
        "its content is wrong",
    ),
    "a hidden reason": (lambda s: s.raw(ANN, "expel", {"peer": BOB.id, "reason": "a\u200bb"}), "invisible"),
    "its own successor": (lambda s: s.lab.succeed(BOB, BOB, CAT), "nobody names its own successor"),
    "a successor to oneself": (lambda s: s.lab.succeed(ANN, CAT, CAT), "nobody names its own successor"),
    "its author as a successor": (lambda s: s.lab.succeed(BOB, ANN, BOB), "nobody admits itself"),
    "countersigning nothing": (
        lambda s: s.raw(BOB, "countersign", {"record": bytes(32)}),
        "does not follow the record it countersigns",
    ),
    "countersigning beside it": (
        lambda s: s.lab.countersign(ANN, s.lab.admit(BOB, CAT), s.lab.records[0]),
        "does not follow the record it countersigns",
    ),
    "countersigning oneself": (
        lambda s: s.lab.countersign(BOB, s.lab.admit(BOB, CAT)),
        "needs no signature of its author's",
    ),
    "countersigning a renewal": (lambda s: s.lab.countersign(ANN, s.lab.renew(BOB)), "needs no signature"),
    "countersigning genesis": (lambda s: s.lab.countersign(BOB, s.lab.genesis), "needs no signature"),
}  # fmt: skip

POWERLESS = {
    "an expulsion by a member": (lambda s: s.lab.expel(BOB, ANN), "only the founder may do that"),
    "an expulsion of nobody": (lambda s: s.lab.expel(ANN, EVE), "whom it removes was no member"),
    "an expulsion of the founder by itself, in a way": (lambda s: s.lab.succeed(BOB, ANN, CAT), "only the founder"),
    "a successor of nobody": (lambda s: s.lab.succeed(ANN, EVE, CAT), "whom it removes was no member"),
    "a successor who is a member": (
        lambda s: s.lab.succeed(ANN, BOB, CAT, s.lab.admit(BOB, CAT)),
        "the successor's key is known already",
    ),
    "admission of a member": (lambda s: s.lab.admit(ANN, BOB), "a member already"),
    "admission of the founder": (lambda s: s.lab.admit(BOB, ANN), "a member already"),
    "a countersignature that nobody needs": (
        lambda s: s.lab.countersign(ANN, s.lab.admit(BOB, CAT)),
        "needs no more signatures",
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_record_is_refused_for_good(what):
    made = scene()
    before = made.lab.names()
    forge, reason = FORGERIES[what]
    record = forge(made)
    replay = made.lab.replay()
    membership = replay.membership()
    assert reason in membership.rejected[record.id]
    assert record.id in replay.graph.refused
    assert record.id not in replay.graph.by_id
    if "invitation used" not in what and "countersigning" not in what and "follow" not in what:
        assert made.lab.names(membership) == before
    assert ANN.id in membership.members
    assert BOB.id in membership.members


@pytest.mark.parametrize("what", POWERLESS)
def test_a_record_without_a_right_is_kept_and_does_not_count(what):
    made = scene()
    act, reason = POWERLESS[what]
    record = act(made)
    replay = made.lab.replay()
    assert reason in replay.membership().rejected[record.id]
    assert record.id in replay.graph.by_id
    assert {"ann", "bob"} <= made.lab.names()


def test_the_good_record_next_to_the_forged_ones_is_taken():
    made = scene()
    made.guest()
    assert made.lab.names() == {"ann", "bob", "cat"}


def test_a_record_with_anothers_signature_is_none():
    made = scene()
    record = made.lab.expel(ANN, BOB)
    for forged in (
        msgspec.structs.replace(record, author=BOB.id),
        msgspec.structs.replace(record, time=record.time + 1),
        msgspec.structs.replace(record, parents=(made.lab.genesis.id,)),
        msgspec.structs.replace(record, signature=bytes(64)),
        msgspec.structs.replace(record, kind="leave"),
    ):
        with pytest.raises(LedgerError):
            Record.decode(forged.encode())


def test_records_of_another_federation_wait_for_ever():
    mine, other = scene(), History(ANN, admit="founder")
    other.admit(ANN, BOB)
    other.admit(ANN, EVE)
    replay = mine.lab.replay()
    assert [replay.add(record) for record in other.records] == ["waiting", "waiting"]
    assert replay.add(other.genesis) == "refused"
    assert mine.lab.names(replay.membership()) == {"ann", "bob"}


GENESES = {
    "no spec": ({"spec": b""}, "its content is wrong"),
    "half a layout": ({"layout": bytes(16)}, "its layout hash is none"),
    "no name": ({"federation": ""}, "its content is wrong"),
    "a name that hides": ({"federation": "lab\u200b"}, "invisible"),
    "another's certificate": ({"certificate": BOB.certificate.der}, "its certificate is refused"),
    "stake of nobody": ({"stakes": {"f" * 64: 1}}, "a stake is given to what is no peer id"),
    "negative stake": ({"stakes": {BOB.id: -1}}, "its content is wrong"),
    "a huge stake": ({"stakes": {BOB.id: 1 << 41}}, "its content is wrong"),
    "too many stakes": ({"stakes": {f"{n:064x}": 1 for n in range(513)}}, "its content is wrong"),
    "no policy": ({"policy": {"admit": "everybody"}}, "its content is wrong"),
    "no seat": ({"policy": {"seats": 0}}, "its content is wrong"),
    "too many seats": ({"policy": {"seats": MOST_SEATS + 1}}, "its content is wrong"),
    "a quorum of one": ({"policy": {"quorum": 1}}, "its content is wrong"),
    "ended before it began": ({"policy": {"until": START - 1}}, "had ended before it began"),
    "recovery keys named twice": ({"policy": {"recovery": [BOB.id, BOB.id]}}, "recovery keys are not different"),
    "recovery keys that are none": ({"policy": {"recovery": ["0" * 64]}}, "recovery keys are not different"),
}


@pytest.mark.parametrize("what", GENESES)
def test_a_wrong_genesis_is_refused(what):
    changes, reason = GENESES[what]
    content = {**content_of(read_genesis(scene().lab.genesis)), **changes}
    record = Record.make(ANN.identity, "genesis", content, (), START)
    with pytest.raises(MembershipError, match=reason):
        Replay(record)


def test_genesis_follows_nothing_and_says_what_was_asked():
    lab = scene().lab
    genesis = read_genesis(lab.genesis)
    assert genesis.policy == Policy(admit="any", until=UNTIL)
    assert genesis.federation == "lab"
    Certificate(ANN.id, genesis.certificate, genesis.binding).check()
    following = Record.make(ANN.identity, "genesis", content_of(genesis), [bytes(32)], START)
    with pytest.raises(MembershipError, match="follows nothing"):
        Replay(following)


def test_every_kind_of_deed_has_one_kind_of_record():
    assert KIND_OF[Expulsion] == "expel"
    assert KIND_OF[Countersignature] == "countersign"
    assert len(set(KIND_OF.values())) == len(KIND_OF) == 6
