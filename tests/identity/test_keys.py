"""Identities: RFC 8032, what is signed, what is refused, and the key file."""

import os
import shutil
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add

from coterie.errors import IdentityError
from coterie.identity import Identity, is_peer_id, verify

SEED = bytes(range(32))
# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
]


def framed(purpose: str, content: bytes) -> bytes:
    return b"coterie" + struct.pack(">H", len(purpose)) + purpose.encode() + content


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_keys_are_those_of_rfc_8032(secret, public, message, signature):
    identity = Identity.from_seed(bytes.fromhex(secret))
    assert identity.id == public
    reference = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert reference.sign(bytes.fromhex(message)).hex() == signature, "the reference itself keeps to the RFC"
    assert identity.sign("record", bytes.fromhex(message)) == reference.sign(framed("record", bytes.fromhex(message)))


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=20), st.binary(max_size=200), st.binary(min_size=32, max_size=32))
def test_signatures_agree_with_another_library(purpose, content, seed):
    identity, reference = Identity.from_seed(seed), Ed25519PrivateKey.from_private_bytes(seed)
    signature = identity.sign(purpose, content)
    assert signature == reference.sign(framed(purpose, content))
    assert verify(identity.id, purpose, content, signature)


def test_a_signature_holds_for_one_purpose_one_content_and_one_key():
    identity, other = Identity.from_seed(SEED), Identity.generate()
    signature = identity.sign("record", b"content")
    assert verify(identity.id, "record", b"content", signature)
    assert not verify(identity.id, "recor", b"dcontent", signature)
    assert not verify(identity.id, "records", b"content", signature)
    assert not verify(identity.id, "record", b"content.", signature)
    assert not verify(other.id, "record", b"content", signature)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_none(length):
    assert not verify(Identity.from_seed(SEED).id, "record", b"", bytes(length))


def test_the_same_signature_with_a_larger_scalar_is_none():
    """Malleability: s + L verifies by the bare equation, and would give a record a second signature."""
    identity, order = Identity.from_seed(SEED), 2**252 + 27742317777372353535851937790883648493
    signature = identity.sign("record", b"")
    larger = int.from_bytes(signature[32:], "little") + order
    assert not verify(identity.id, "record", b"", signature[:32] + larger.to_bytes(32, "little"))


def torsioned() -> str:
    of_order_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    return crypto_core_ed25519_add(bytes.fromhex(Identity.from_seed(SEED).id), of_order_8).hex()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00" * 32,
        "01" + "00" * 31,  # the neutral element
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # of order 8
        "ee" + "ff" * 30 + "7f",  # 1, written as p + 1
        "02" + "00" * 31,  # no point of the curve
        torsioned(),
        Identity.from_seed(SEED).id.upper(),
        Identity.from_seed(SEED).id[:-1],
        Identity.from_seed(SEED).id + "\n",
        Identity.from_seed(SEED).id[:-1] + "\N{FULLWIDTH DIGIT ONE}",
        bytes.fromhex(Identity.from_seed(SEED).id),
        None,
        7,
    ],
)
def test_what_is_no_point_of_prime_order_is_no_peer_id(text):
    assert not is_peer_id(text)
    assert not verify(text, "record", b"", bytes(64))


@given(st.text(max_size=70), st.binary(max_size=70))
def test_verify_never_raises(peer, signature):
    assert not verify(peer, "record", b"", signature)


def test_no_secret_is_shown():
    identity = Identity.from_seed(SEED)
    for text in (repr(identity), str(identity), f"{identity}", repr([identity]), repr({"key": identity})):
        assert SEED.hex() not in text
        assert repr(SEED)[2:-1] not in text
        assert identity.id in text


def test_a_key_file_is_its_owners_alone_and_reads_back(tmp_path):
    identity, path = Identity.generate(), tmp_path / "key.pem"
    before = os.umask(0)
    try:
        identity.save(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert Identity.load(path).id == identity.id
    assert Identity.load(path) == identity
    read = serialization.load_pem_private_key(path.read_bytes(), None)
    assert read.public_key().public_bytes_raw().hex() == identity.id


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "key.pem"
    Identity.from_seed(SEED).save(path)
    with pytest.raises(IdentityError, match="never overwritten") as caught:
        Identity.generate().save(path)
    assert caught.value.where == str(path)
    assert Identity.load(path).id == Identity.from_seed(SEED).id


def test_a_key_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(IdentityError, match="No such file"):
        Identity.generate().save(tmp_path / "nowhere" / "key.pem")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "key.pem"
    with pytest.raises(IdentityError, match="No space left") as caught:
        Identity.generate().save(path)
    assert "full" in caught.value.remedy
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o602, 0o777])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path, mode):
    path = tmp_path / "key.pem"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"mode {mode:04o}") as caught:
        Identity.load(path)
    assert f"chmod 600 {path}" in caught.value.remedy


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_file_that_only_its_owner_may_touch_is_read(tmp_path, mode):
    path = tmp_path / "key.pem"
    Identity.from_seed(SEED).save(path)
    path.chmod(mode)
    assert Identity.load(path).id == Identity.from_seed(SEED).id


def test_a_missing_key_or_a_folder_is_named(tmp_path):
    with pytest.raises(IdentityError, match="No such file"):
        Identity.load(tmp_path / "key.pem")
    with pytest.raises(IdentityError, match="Is a directory"):
        Identity.load(tmp_path)


def pem(key, encryption=None):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption or serialization.NoEncryption()
    )


def test_a_key_made_by_cryptography_is_imported():
    key = Ed25519PrivateKey.generate()
    assert Identity.from_pem(pem(key), "here").id == key.public_key().public_bytes_raw().hex()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_a_key_made_by_openssl_is_imported(tmp_path):
    path = tmp_path / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    subprocess.run(command, check=True, timeout=30)
    path.chmod(0o600)
    identity = Identity.load(path)
    public = ["openssl", "pkey", "-in", str(path), "-pubout", "-outform", "DER"]
    der = subprocess.run(public, check=True, timeout=30, capture_output=True).stdout
    assert der[-32:].hex() == identity.id


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"password")),
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "zeros", "garbage", "P-256", "encrypted", "public"],
)
def test_what_is_no_plain_ed25519_key_is_refused(content):
    with pytest.raises(IdentityError, match="not an Ed25519 private key") as caught:
        Identity.from_pem(content, "key.pem")
    assert caught.value.where == "key.pem"
    assert "openssl genpkey" in caught.value.remedy


def test_the_command_that_mends_a_key_file_can_be_pasted(tmp_path):
    path = tmp_path / "ward 7" / "key.pem"
    path.parent.mkdir()
    Identity.generate().save(path)
    path.chmod(0o644)
    with pytest.raises(IdentityError) as found:
        Identity.load(path)
    assert f"chmod 600 '{path}'" in found.value.remedy
