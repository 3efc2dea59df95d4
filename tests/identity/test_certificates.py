"""Transport certificates: one form, bound to one peer; everything else is refused."""

import datetime
import hashlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import IdentityError
from coterie.identity import Certificate, Identity, TransportKey, certificates

ALICE, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
GOOD = TransportKey.new(ALICE)


def bound(der: bytes, identity: Identity = ALICE) -> Certificate:
    """Any bytes, signed as a certificate by ``identity``: what a hostile peer can make."""
    return Certificate(identity.id, der, identity.sign("transport certificate", hashlib.sha256(der).digest()))


def made(
    *, ca=False, path=None, san=None, common=None, key=None, signer=None, critical=True, extra=None, serial=7,
    usage=None, digest=None, issuer=None, without=(), starts=NOW, ends=None,
):  # fmt: skip
    """DER of a certificate for Alice that deviates in what is named."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    tls = certificates.tls_name(ALICE.id)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common or tls)])
    extensions = {
        "basic": (x509.BasicConstraints(ca=ca, path_length=path), critical),
        "usage": (usage or certificates._signs_handshakes_only(), True),
        "purposes": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        "san": (x509.SubjectAlternativeName(san or [x509.DNSName(tls)]), False),
    }
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer or name).public_key(key.public_key())
    builder = (
        builder.serial_number(serial).not_valid_before(starts).not_valid_after(ends or NOW + datetime.timedelta(days=9))
    )
    for what, (extension, is_critical) in extensions.items():
        if what not in without:
            builder = builder.add_extension(extension, critical=is_critical)
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    algorithm = None if isinstance(signer or key, Ed25519PrivateKey) else digest or hashes.SHA256()
    return builder.sign(signer or key, algorithm).public_bytes(serialization.Encoding.DER)


def signing_usage():
    return x509.KeyUsage(True, False, False, False, False, True, False, False, False)


def test_a_new_certificate_is_good_and_is_what_it_should_be():
    certificate = GOOD.certificate
    certificate.check()
    found = x509.load_der_x509_certificate(certificate.der)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [certificate.name]
    assert isinstance(found.public_key().curve, ec.SECP256R1)
    assert certificate.fingerprint == found.fingerprint(hashes.SHA256()) == hashlib.sha256(certificate.der).digest()
    assert ssl.PEM_cert_to_DER_cert(certificate.pem.decode()) == certificate.der
    assert certificate.peer == ALICE.id
    assert certificate.name.startswith(ALICE.id[:40])


def test_the_same_form_made_by_hand_is_good():
    bound(made()).check()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, (1 << 159) - 1),
    st.datetimes(datetime.datetime(1951, 1, 1), datetime.datetime(9998, 1, 1)),
    st.integers(1, 10**6),
)
def test_the_one_form_is_that_of_another_library(serial, starts, seconds):
    starts = starts.replace(microsecond=0, tzinfo=datetime.UTC)
    ends = starts + datetime.timedelta(seconds=seconds)
    der = made(serial=serial, starts=starts, ends=ends)
    bound(der).check()
    found = x509.load_der_x509_certificate(der)
    assert certificates._form(ALICE.id, found.public_key(), serial, starts, ends) == found.tbs_certificate_bytes


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_serial_number_that_is_none_is_refused(serial):
    """Only made by changing the form itself: libraries refuse to write them."""
    found = x509.load_der_x509_certificate(GOOD.certificate.der)
    dates = found.not_valid_before_utc, found.not_valid_after_utc
    with pytest.raises(ValueError, match="serial"):
        certificates._form(ALICE.id, found.public_key(), serial, *dates)


def test_it_ends_when_it_was_told_to():
    now = datetime.datetime.now(datetime.UTC)
    for days in (1, 90):
        ends = TransportKey.new(ALICE, days).certificate.ends
        assert abs(ends - now - datetime.timedelta(days=days)) < datetime.timedelta(minutes=5)


def test_tls_accepts_it_with_itself_as_the_only_root(tmp_path):
    """The pinned certificate is the root: OpenSSL takes a CA:FALSE one as such."""
    path = tmp_path / "both.pem"
    path.write_bytes(GOOD.key_pem + GOOD.certificate.pem)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(path)
    client.load_verify_locations(cadata=GOOD.certificate.pem.decode())
    assert handshake(client, server, GOOD.certificate.name) == GOOD.certificate.der
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server, certificates.tls_name(BOB.id))


def handshake(client, server, name):
    """The server's certificate, after a TLS handshake in memory."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialling = client.wrap_bio(one, two, server_hostname=name)
    answering = server.wrap_bio(two, one, server_side=True)
    for _ in range(6):
        for end in (dialling, answering):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return dialling.getpeercert(binary_form=True)


DEVIATIONS = {
    "CA:TRUE": lambda: made(ca=True, path=0),
    "CA:TRUE that may sign": lambda: made(ca=True, path=0, usage=signing_usage()),
    "may sign certificates": lambda: made(usage=signing_usage()),
    "basic constraints that need not be heeded": lambda: made(critical=False),
    "no basic constraints": lambda: made(without=["basic"]),
    "no key usage": lambda: made(without=["usage"]),
    "no purposes": lambda: made(without=["purposes"]),
    "no name": lambda: made(without=["san"]),
    "another's name": lambda: made(san=[x509.DNSName(certificates.tls_name(BOB.id))]),
    "a second name": lambda: made(
        san=[x509.DNSName(certificates.tls_name(ALICE.id)), x509.DNSName(certificates.tls_name(BOB.id))]
    ),
    "every name": lambda: made(san=[x509.DNSName("*.coterie.invalid")]),
    "another common name": lambda: made(common=certificates.tls_name(BOB.id)),
    "another issuer": lambda: made(issuer=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])),
    "one more extension": lambda: made(extra=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
}


@pytest.mark.parametrize("what", DEVIATIONS)
def test_another_form_is_refused(what):
    with pytest.raises(IdentityError, match="could sign other certificates, is made out to another name"):
        bound(DEVIATIONS[what]()).check()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.BrainpoolP256R1()),
        rsa.generate_private_key(65537, 2048),
        Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "secp256k1", "brainpool", "RSA", "Ed25519"],
)
def test_another_kind_of_key_is_refused(key):
    with pytest.raises(IdentityError, match=r"not of P-256|not a certificate of the right form"):
        bound(made(key=key)).check()


def test_an_unknown_kind_of_key_is_refused_and_not_a_crash():
    """An object identifier that no library knows, in place of P-256's and of id-ecPublicKey."""
    for known in ("2a8648ce3d030107", "2a8648ce3d0201"):
        der = GOOD.certificate.der
        at = der.index(bytes.fromhex(known))
        changed = der[: at + len(known) // 2 - 1] + b"\x7f" + der[at + len(known) // 2 :]
        with pytest.raises(IdentityError):
            bound(changed).check()


def test_a_certificate_that_another_key_signed_is_refused():
    with pytest.raises(IdentityError, match="another key than its own has signed it"):
        bound(made(signer=ec.generate_private_key(ec.SECP256R1()))).check()


def test_another_hash_is_refused():
    with pytest.raises(IdentityError, match="some other form"):
        bound(made(digest=hashes.SHA384())).check()


def test_a_certificate_that_another_peer_bound_is_refused():
    good = GOOD.certificate
    with pytest.raises(IdentityError, match="the peer's key has not signed it"):
        Certificate(BOB.id, good.der, good.signature).check()
    with pytest.raises(IdentityError, match="the peer's key has not signed it"):
        Certificate(ALICE.id, good.der, bound(good.der, BOB).signature).check()
    with pytest.raises(IdentityError, match="made out to another name"):
        bound(good.der, BOB).check()
    with pytest.raises(IdentityError, match="the peer's key has not signed it"):
        Certificate(ALICE.id, good.der, ALICE.sign("record", good.fingerprint)).check()


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x80", bytes(500), b"\xff" * 500, GOOD.certificate.der[:-1]])
def test_garbage_is_refused(der):
    with pytest.raises(IdentityError, match="not a certificate of the right form"):
        bound(der).check()


def test_what_follows_a_certificate_is_refused():
    with pytest.raises(IdentityError, match="not a certificate of the right form"):
        bound(GOOD.certificate.der + b"\x00").check()


def test_a_signature_with_unused_bits_is_refused():
    even = next(der for der in iter(lambda: TransportKey.new(ALICE).certificate.der, None) if der[-1] % 2 == 0)
    der = bytearray(even)
    signature = x509.load_der_x509_certificate(even).signature
    assert der[-len(signature) - 1] == 0
    der[-len(signature) - 1] = 1
    with pytest.raises(IdentityError):
        bound(bytes(der)).check()


def test_a_long_certificate_is_refused_unread():
    with pytest.raises(IdentityError):
        bound(made(san=[x509.DNSName(f"{n}.coterie.invalid") for n in range(400)])).check()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD.certificate.der) - 1), st.integers(1, 255))
def test_no_changed_byte_is_accepted(at, change):
    """Whatever its owner changes and signs anew: refused with our error, never another. The dates alone are free."""
    der = bytearray(GOOD.certificate.der)
    der[at] ^= change
    try:
        bound(bytes(der)).check()
    except IdentityError:
        return
    pytest.fail(f"byte {at} of {der.hex()}")


def test_no_secret_is_shown():
    assert "PRIVATE" not in repr(GOOD)
    assert repr(GOOD) == f"TransportKey({ALICE.id[:12]})"
    assert GOOD.key_pem.decode().splitlines()[1] not in str(GOOD)


def test_the_error_names_the_peer_and_the_remedy():
    with pytest.raises(IdentityError) as caught:
        bound(b"").check()
    assert ALICE.id[:12] in caught.value.where
    assert caught.value.remedy
