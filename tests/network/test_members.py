"""The picture of the members: found by the exact certificate, changed as a whole."""

import hashlib

import pytest
from cryptography import x509
from network_world import following

from coterie.errors import IdentityError
from coterie.identity import Certificate, Identity, TransportKey
from coterie.network.members import Members

GENESIS = bytes(32)


def certificates(count, identity=None):
    return [TransportKey.new(identity or Identity.generate()).certificate for _ in range(count)]


def test_each_certificate_is_found_by_its_sha256_and_no_other():
    one, two = certificates(2)
    members = Members.of(GENESIS, [one, two])
    for each in (one, two):
        assert members.holder(hashlib.sha256(each.der).digest()) == each.peer
        assert each.peer in members
        assert members.of_peer(each.peer) == (each,)
    (stranger,) = certificates(1)
    assert members.holder(stranger.fingerprint) is None
    assert members.holder(b"") is None
    assert stranger.peer not in members
    assert members.of_peer(stranger.peer) == ()


def test_a_peer_may_have_two_certificates_while_one_replaces_the_other():
    identity = Identity.generate()
    old, new = certificates(2, identity)
    both = Members.of(GENESIS, [old, new])
    assert both.of_peer(identity.id) == (old, new)
    assert {both.holder(c.fingerprint) for c in (old, new)} == {identity.id}
    after = following(both, [new])
    assert after.holder(old.fingerprint) is None
    assert both.holder(old.fingerprint) == identity.id  # a picture never changes


def test_the_roots_are_all_certificates_as_pem():
    held = certificates(3)
    read = x509.load_pem_x509_certificates(Members.of(GENESIS, held).roots)
    assert [c.fingerprint(c.signature_hash_algorithm) for c in read] == [c.fingerprint for c in held]
    assert Members.of(GENESIS, []).roots == b""


def test_nothing_in_it_can_be_changed():
    members = Members.of(GENESIS, certificates(1))
    with pytest.raises(TypeError):
        members.certificates["a"] = ()
    with pytest.raises(AttributeError):
        members.left = frozenset()


def test_a_certificate_that_its_peer_has_not_signed_is_refused():
    (one,) = certificates(1)
    other = Identity.generate()
    for wrong in (Certificate(other.id, one.der, one.signature), Certificate(one.peer, one.der + b"x", one.signature)):
        with pytest.raises(IdentityError, match="has not signed it"):
            Members.of(GENESIS, [wrong])
    with pytest.raises(IdentityError, match="32 bytes"):
        Members.of(bytes(31), [one])
