"""Invitations as text: what goes in comes out, and every mistake is named."""

import base64
import hashlib
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from membership_world import person

from coterie.errors import MembershipError
from coterie.identity import Identity
from coterie.protocols.membership import Invitation, invite
from coterie.protocols.membership.invitation import MOST_CONTACTS, PREFIX

ANN = person("ann")
CONTACTS = ("hospital.example.org:7801", "192.0.2.7:7801", "[2001:db8::1]:7801")


def example(**changes) -> Invitation:
    given = {
        "genesis": b"g" * 32,
        "inviter": ANN.id,
        "fingerprint": b"f" * 32,
        "contacts": CONTACTS[:1],
        "expires": 1_800_000_000_999,
        "secrets": random.Random(5),
    }
    return invite(**{**given, **changes})


def test_the_text_is_as_the_document_says():
    """Taken apart by hand."""
    invitation = example(contacts=CONTACTS)
    text = invitation.text()
    assert text.startswith("coterie1")
    body = text.removeprefix("coterie1").upper()
    data = base64.b32decode(body + "=" * (-len(body) % 8))
    length, version = struct.unpack(">HB", data[:3])
    assert (length, version) == (len(data), 1)
    assert int.from_bytes(data[3:8], "big") == 1_800_000_000
    assert data[8:40] == b"g" * 32
    assert data[40:72].hex() == ANN.id
    assert data[72:104] == b"f" * 32
    assert data[104:120] == invitation.secret
    assert data[120:-4].decode() == ",".join(CONTACTS)
    assert data[-4:] == hashlib.sha256(data[:-4]).digest()[:4]
    assert len(example().text()) < 250


@settings(max_examples=100, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(0, (1 << 40) - 1),
    st.lists(st.sampled_from(CONTACTS), min_size=1, max_size=MOST_CONTACTS),
    st.integers(),
)
def test_what_goes_in_comes_out(genesis, fingerprint, seconds, contacts, seed):
    invitation = invite(
        genesis=genesis,
        inviter=ANN.id,
        fingerprint=fingerprint,
        contacts=contacts,
        expires=1000 * seconds,
        secrets=random.Random(seed),
    )
    assert Invitation.parse(invitation.text()) == invitation


def test_pasting_may_break_lines_and_change_case():
    text = example().text()
    broken = f"  {text[:50]}\r\n {text[50:100]}\t{text[100:].upper()}\n\n"
    assert Invitation.parse(broken) == example()


def test_each_invitation_has_its_own_secret_and_key_and_shows_neither():
    one, two = example(), example(secrets=random.Random(6))
    assert one.secret != two.secret
    assert one.key.id != two.key.id
    assert one.key == Identity.from_seed(hashlib.sha256(b"coterie invitation" + one.secret).digest())
    assert len(one.secret) == 16
    assert repr(one.secret)[2:-1] not in repr(one)
    assert one.secret.hex() not in repr(one)


def encoded(data: bytes) -> str:
    return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()


def raw(*, length=None, version=1, inviter=None, contacts=b"a:1", checksum=None) -> str:
    """An invitation made by hand, with what is wrong in it."""
    inviter = bytes.fromhex(ANN.id) if inviter is None else inviter
    tail = b"\0" * 5 + b"g" * 32 + inviter + b"f" * 32 + b"s" * 16 + contacts
    data = struct.pack(">HB", len(tail) + 7 if length is None else length, version) + tail
    return encoded(data + (hashlib.sha256(data).digest()[:4] if checksum is None else checksum))


MISTAKES = {
    "nothing": ("", "does not begin with coterie1"),
    "something else": ("https://example.org", "does not begin with coterie1"),
    "another version of the text": ("coterie2" + example().text()[8:], "does not begin with coterie1"),
    "only the prefix": ("coterie1", "cut off after 0 bytes"),
    "the first half": (example().text()[:104], "cut off after 60 bytes"),
    "not the last letters": (example().text()[:-8], "cut off"),
    "not the last letter": (example().text()[:-1], "cut off|typing mistake"),
    "twice": (example().text() + example().text()[8:], "goes on too long|cut off|typing mistake"),
    "a digit that is none": (example().text()[:20] + "1" + example().text()[21:], r"typing mistake: '1' at place 21"),
    "a full stop": (example().text() + ".", r"typing mistake: '\.'"),
    "a wrong checksum": (raw(checksum=b"\0\0\0\0"), "its checksum does not fit"),
    "a wrong length": (raw(length=5), "goes on too long"),
    "a newer version": (raw(version=2), "of version 2"),
    "no inviter": (raw(inviter=bytes(32)), "is no peer id"),
    "no contact": (raw(contacts=b""), "is no contact"),
    "a contact without a port": (raw(contacts=b"example.org"), "is no contact"),
    "a contact with a path": (raw(contacts=b"example.org:1/x"), "is no contact"),
    "a port too high": (raw(contacts=b"example.org:65536"), "is no contact"),
    "port nought": (raw(contacts=b"example.org:0"), "is no contact"),
    "an option": (raw(contacts=b"-oProxy:1"), "is no contact"),
    "a line break": (raw(contacts=b"a:1\n"), "is no contact"),
    "letters of elsewhere": (raw(contacts="é:1".encode()), "cannot be read"),
    "too many contacts": (raw(contacts=b",".join([b"a:1"] * 9)), "names 9 contacts"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_every_mistake_is_named(what):
    text, reason = MISTAKES[what]
    with pytest.raises(MembershipError, match=reason) as caught:
        Invitation.parse(text)
    assert caught.value.where == "invitation"
    assert caught.value.remedy


@settings(max_examples=200, deadline=None)
@given(st.integers(8, len(example().text()) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_one_wrong_letter_is_found(place, letter):
    text = example().text()
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong != text:
        with pytest.raises(MembershipError, match=r"typing mistake"):
            Invitation.parse(wrong)


@given(st.integers(8, len(example().text()) - 2))
def test_two_letters_swapped_are_found(place):
    text = example().text()
    wrong = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if wrong != text:
        with pytest.raises(MembershipError, match="typing mistake"):
            Invitation.parse(wrong)


@given(st.text(max_size=300))
def test_no_text_breaks_it(text):
    for attempt in (text, PREFIX + text):
        with pytest.raises(MembershipError):
            Invitation.parse(attempt)


@pytest.mark.parametrize("contacts", [(), ("no port",), ("a:1",) * 9])
def test_contacts_that_are_none_are_not_written(contacts):
    with pytest.raises(MembershipError, match="contact"):
        example(contacts=contacts).text()
