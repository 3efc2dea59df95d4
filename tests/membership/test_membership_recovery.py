"""Recovery by invitation: holders of recovery keys, members that lie to them, and thieves of either."""

import asyncio
import random
from types import SimpleNamespace

import msgspec
import pytest
from membership_world import START, History, Person, people, person

from coterie.errors import MembershipError, PeerUnreachable
from coterie.protocols.membership import Book, Host, Invitation, Issues, invite, recover, sign_beside
from coterie.protocols.membership.join_messages import History as Shown
from coterie.protocols.membership.join_messages import RecoveryRequest, answers, recovery_claim

ANN, BOB, CAT, NEW = people("ann", "bob", "cat", "ann-again")
SAFES = people("safe-1", "safe-2", "safe-3")
HOUR = 3_600_000


class Memory(dict):
    def put(self, key, value):
        self[key] = value


class Helper:
    """A member without rights, whose join port answers."""

    def __init__(self, recovery=SAFES, lab: History | None = None) -> None:
        self.lab = lab or History(ANN, recovery=recovery)
        if lab is None:
            self.lab.admit(ANN, BOB)
            self.lab.admit(ANN, CAT)
        self.time = START + HOUR
        self.book = Book(self.lab.genesis, lambda: self.time, lambda record: None, self.lab.records)
        self.issues = Issues(Memory(), lambda: self.time)
        self.host = Host(BOB.identity, self.book, self.issues, lambda: self.time)

    def invite(self, replaces=ANN.id) -> Invitation:
        self.host.require_right(replaces)
        made = invite(
            genesis=self.lab.genesis.id,
            inviter=BOB.id,
            fingerprint=BOB.certificate.fingerprint,
            contacts=["192.0.2.1:7801"],
            expires=self.time + HOUR,
            secrets=random.SystemRandom(),
        )
        self.issues.add(made, replaces)
        return made

    async def ask(self, data: bytes) -> bytes:
        return await self.host.answer(data, "192.0.2.9")

    def recover(self, *keys: Person, invitation=None, ask=None, who=NEW, agree=lambda _: True):
        return asyncio.run(
            recover(
                invitation or self.invite(),
                who.identity,
                who.certificate,
                "Hospital A",
                [key.identity for key in keys],
                agree=agree,
                ask=ask or self.ask,
                secrets=random.SystemRandom(),
                now=lambda: self.time,
            )
        )

    def put(self, invitation, records=(), key=None, **changes):
        """The answer to a raw request that brings these records."""
        request = RecoveryRequest(
            federation=self.lab.genesis.id,
            invitation=bytes.fromhex(invitation.key.id),
            nonce=bytes(16),
            records=tuple(record.encode() for record in records),
            start=0,
            proof=bytes(64),
        )
        proof = (key or invitation.key).sign("recovery", recovery_claim(request, BOB.id))
        request = msgspec.structs.replace(request, proof=proof, **changes)
        return answers.decode(asyncio.run(self.ask(msgspec.msgpack.encode(request))))


def test_enough_keys_make_a_new_founder():
    helper = Helper()
    joined = helper.recover(SAFES[2], SAFES[0])
    assert joined.missing == 0
    assert joined.membership == helper.book.membership
    membership = helper.book.membership
    assert membership.founder == NEW.id
    assert ANN.id in membership.expelled
    assert tuple(membership.members) == membership.places == (NEW.id, BOB.id, CAT.id)  # in the founder's place
    assert membership.members[NEW.id].certificates == (NEW.certificate,)
    assert membership.members[NEW.id].name == "Hospital A"


def test_too_few_keys_wait_for_another_one():
    helper = Helper()
    joined = helper.recover(SAFES[1])
    assert joined.missing == 1
    assert helper.book.membership.founder == ANN.id
    parents, time = helper.book.follow()
    helper.book.accept([sign_beside(SAFES[0].identity, joined.admission, parents, time)])
    assert helper.book.membership.founder == NEW.id


def test_an_answer_that_was_lost_comes_again_and_nothing_is_signed_twice():
    for keys, missing in ((SAFES[:2], 0), (SAFES[:1], 1)):
        helper = Helper()
        invitation = helper.invite()
        asked = []

        async def lose(data, helper=helper, asked=asked):
            asked.append(await helper.ask(data))
            if len(asked) == 2:  # what follows the signatures
                raise PeerUnreachable("lost")
            return asked[-1]

        with pytest.raises(PeerUnreachable):
            helper.recover(*keys, invitation=invitation, ask=lose)
        size = helper.book.size
        found = helper.recover(*keys, invitation=invitation)
        assert helper.book.size == size
        assert found.missing == missing
        assert found.membership == helper.book.membership
        assert (found.membership.founder == NEW.id) == (missing == 0)


def test_an_invitation_for_a_successor_is_of_use_to_one_key_only():
    helper = Helper()
    invitation = helper.invite()
    helper.recover(*SAFES[:2], invitation=invitation)
    with pytest.raises(MembershipError, match="used by another key"):
        helper.recover(*SAFES[:2], invitation=invitation, who=person("ann-once-more"))
    assert helper.book.membership.founder == NEW.id


def test_a_successor_that_was_lost_is_replaced_again():
    helper = Helper()
    helper.recover(*SAFES[:2])
    third = person("ann-once-more")
    joined = helper.recover(*SAFES[:2], invitation=helper.invite(NEW.id), who=third)
    assert joined.membership.founder == third.id
    assert helper.book.membership.places == (third.id, BOB.id, CAT.id)


@pytest.mark.parametrize(
    ("keys", "words"),
    [([BOB], "no recovery key"), ([SAFES[0], ANN], "no recovery key"), ([SAFES[0], SAFES[0]], "named twice")],
)
def test_other_keys_are_refused_before_anything_is_sent(keys, words):
    helper = Helper()
    with pytest.raises(MembershipError, match=words):
        helper.recover(*keys)
    assert helper.book.size == 2


def test_a_federation_without_recovery_keys_says_so():
    helper = Helper(recovery=[])
    with pytest.raises(MembershipError, match="without recovery keys"):
        helper.invite()
    helper.host.require_right = lambda replaces: None  # a member that invites all the same
    with pytest.raises(MembershipError, match="without recovery keys"):
        helper.recover(SAFES[0])


def test_what_a_helper_hides_is_seen_before_anything_is_signed():
    """Whom the old key had admitted in records that are hidden would be out."""
    helper = Helper()
    invitation = helper.invite()
    helper.book = helper.host.book = Book(helper.lab.genesis, lambda: helper.time, lambda record: None, [])
    shown = []

    def look(membership):
        shown.extend(membership.members)
        return False

    with pytest.raises(MembershipError, match="nothing was signed"):
        helper.recover(*SAFES[:2], invitation=invitation, agree=look)
    assert shown == [ANN.id]
    assert helper.book.size == 0
    helper.recover(*SAFES[:2], invitation=invitation)
    for record in helper.lab.records:
        helper.book.offer(record)
    assert list(helper.book.membership.members) == [NEW.id]


def test_a_liar_s_history_is_not_believed():
    helper, other = Helper(), Helper(lab=History(BOB, recovery=SAFES))

    def changed(**changes):
        async def ask(data: bytes) -> bytes:
            return msgspec.msgpack.encode(msgspec.structs.replace(answers.decode(await helper.ask(data)), **changes))

        return ask

    async def takes_nothing(data: bytes) -> bytes:
        brought = answers.decode(await helper.ask(data)).records
        return msgspec.msgpack.encode(Shown(helper.lab.genesis.encode(), 0, 2, brought[:2]))

    records = [record.encode() for record in helper.lab.records]
    for lie, words in (
        (changed(genesis=other.lab.genesis.encode()), "another federation"),
        (changed(records=records[:0]), "does not go on"),
        (changed(start=1), "does not go on"),
        (changed(records=records[1:], total=1), "not whole"),
        (changed(records=[b"junk"], total=1), "not believed"),
    ):
        with pytest.raises(MembershipError, match=words):
            helper.recover(*SAFES[:2], ask=lie)
        assert helper.book.size == 2
    with pytest.raises(MembershipError, match="do not show the succession"):
        helper.recover(*SAFES[:2], ask=takes_nothing)


def test_a_thief_of_the_invitation_needs_the_keys():
    helper = Helper()
    invitation = helper.invite()
    lab = History(ANN, recovery=SAFES)
    lab.genesis, lab.records = helper.lab.genesis, list(helper.lab.records)
    for record in (
        lab.succeed(BOB, ANN, NEW, lab.records[-1]),
        lab.expel(SAFES[0], CAT, lab.records[1]),
        lab.admit(SAFES[0], NEW, lab.records[1]),
    ):
        assert "recovery key" in helper.put(invitation, [record]).reason
    assert helper.book.size == 2
    assert helper.put(invitation).total == 2
    assert helper.put(invitation, key=BOB.identity).reason == "refused"
    assert helper.put(invitation, start=1).reason == "refused"  # what the proof covers cannot be changed
    assert "not a record" in helper.put(invitation, [SimpleNamespace(encode=lambda: b"junk")]).reason
    helper.time += 2 * HOUR
    assert "ended" in helper.put(invitation).reason


def test_each_invitation_is_for_one_thing():
    helper = Helper()
    plain = invite(
        genesis=helper.lab.genesis.id,
        inviter=BOB.id,
        fingerprint=BOB.certificate.fingerprint,
        contacts=["192.0.2.1:7801"],
        expires=helper.time + HOUR,
        secrets=random.SystemRandom(),
    )
    helper.issues.add(plain)
    assert "federation join" in helper.put(plain).reason
    with pytest.raises(MembershipError, match="only the founder may do that"):
        helper.invite("")  # this member may admit nobody, and hears so before a newcomer does
