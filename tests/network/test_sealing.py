"""Sealed sessions: what the two ends agree on, and everything a relay could try."""

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import MessageError
from coterie.identity import Identity
from coterie.network import sealing
from coterie.network.sealing import Opening, accept

GENESIS = b"\x07" * 32
ANNA, BERT, CARL = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def session(sender=ANNA, receiver=BERT):
    opening = Opening(sender, GENESIS, receiver.id, 0b1111)
    unsealer, answer = accept(receiver, GENESIS, sender.id, opening.content, 0b0011)
    return opening.accepted(answer), unsealer


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_what_is_sealed_arrives_once_and_in_order(messages):
    sealer, unsealer = session()
    assert sealer.encodings == 0b0011
    for number, message in enumerate(messages, 1):
        sealed = sealer.seal(message)
        assert len(sealed) == len(message) + 8 + 16  # the counter, and the tag of ChaCha20-Poly1305 (RFC 8439)
        assert len(message) < 8 or message not in sealed
        assert unsealer.unseal(sealed) == (0, message)
        sealer.acknowledged(unsealer.acknowledge())
        assert (sealer.sent, sealer.received) == (number, number)


def test_a_repeated_or_earlier_message_is_refused():
    sealer, unsealer = session()
    first, second, third = (sealer.seal(text) for text in (b"1", b"2", b"3"))
    assert unsealer.unseal(first) == (0, b"1")
    assert unsealer.unseal(third) == (1, b"3")  # one is missing
    for old in (first, second, third):
        with pytest.raises(MessageError, match="twice"):
            unsealer.unseal(old)
    ack = unsealer.acknowledge()
    sealer.acknowledged(ack)
    with pytest.raises(MessageError, match="twice"):
        sealer.acknowledged(ack)


def test_every_changed_bit_is_noticed():
    sealer, unsealer = session()
    sealed = sealer.seal(b"some text")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1 << position % 8
        with pytest.raises(MessageError, match="changed"):
            unsealer.unseal(bytes(changed))
    for cut in range(len(sealed)):
        with pytest.raises(MessageError):
            unsealer.unseal(sealed[:cut])
    assert unsealer.unseal(sealed) == (0, b"some text")
    ack = unsealer.acknowledge()
    for position in range(len(ack)):
        changed = bytearray(ack)
        changed[position] ^= 1
        with pytest.raises(MessageError, match="changed"):
            sealer.acknowledged(bytes(changed))
    with pytest.raises(MessageError):
        sealer.acknowledged(sealed)  # data are no acknowledgement


def test_every_changed_bit_of_the_greetings_is_noticed():
    opening = Opening(ANNA, GENESIS, BERT.id, 3)
    for position in range(len(opening.content)):
        changed = bytearray(opening.content)
        changed[position] ^= 1
        with pytest.raises(MessageError, match="is not opened by"):
            accept(BERT, GENESIS, ANNA.id, bytes(changed), 3)
    _, answer = accept(BERT, GENESIS, ANNA.id, opening.content, 3)
    for position in range(len(answer)):
        changed = bytearray(answer)
        changed[position] ^= 1
        with pytest.raises(MessageError, match="is not accepted by"):
            opening.accepted(bytes(changed))
    for cut in (b"", answer[:-1], answer + b"x"):
        with pytest.raises(MessageError, match="length"):
            opening.accepted(cut)


def test_a_greeting_is_worth_nothing_elsewhere():
    opening = Opening(ANNA, GENESIS, BERT.id, 3)
    for receiver, genesis, sender in (
        (CARL, GENESIS, ANNA.id),  # for another receiver
        (BERT, bytes(32), ANNA.id),  # in another federation
        (BERT, GENESIS, CARL.id),  # from another sender
    ):
        with pytest.raises(MessageError):
            accept(receiver, genesis, sender, opening.content, 3)
    _, answer = accept(BERT, GENESIS, ANNA.id, opening.content, 3)
    with pytest.raises(MessageError):  # an answer to an earlier opening
        Opening(ANNA, GENESIS, BERT.id, 3).accepted(answer)
    with pytest.raises(MessageError):  # an answer by the relay itself
        opening.accepted(accept(CARL, GENESIS, ANNA.id, Opening(ANNA, GENESIS, CARL.id, 3).content, 3)[1])


def test_a_repeated_opening_gives_a_session_nobody_can_use():
    opening = Opening(ANNA, GENESIS, BERT.id, 3)
    _, answer = accept(BERT, GENESIS, ANNA.id, opening.content, 3)
    sealed = opening.accepted(answer).seal(b"once")
    again, _ = accept(BERT, GENESIS, ANNA.id, opening.content, 3)
    with pytest.raises(MessageError, match="changed"):
        again.unseal(sealed)


def test_the_keys_are_rfc_5869_over_rfc_7748(monkeypatch):
    """Computed again with hmac and hashlib from the fixed secrets."""
    import hashlib
    import hmac

    secrets = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (11, 12)]
    drawn = iter(secrets)
    monkeypatch.setattr(sealing.X25519PrivateKey, "generate", staticmethod(lambda: next(drawn)), raising=False)
    sealer, unsealer = session()
    monkeypatch.undo()
    shared = secrets[0].exchange(secrets[1].public_key())
    publics = b"".join(secret.public_key().public_bytes_raw() for secret in secrets)
    info = b"coterie relay" + bytes.fromhex(ANNA.id) + bytes.fromhex(BERT.id) + publics
    extracted = hmac.digest(GENESIS, shared, "sha256")
    one = hmac.digest(extracted, info + b"\x01", "sha256")
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    counter = struct.pack(">Q", 1)
    assert sealer.seal(b"text") == counter + ChaCha20Poly1305(one).encrypt(bytes(4) + counter, b"text", None)
    two = hmac.digest(extracted, one + info + b"\x02", "sha256")
    unsealer.last = 1
    assert unsealer.acknowledge() == counter + ChaCha20Poly1305(two).encrypt(bytes(4) + counter, b"", None)
    assert hashlib.sha256(one).digest() != hashlib.sha256(two).digest()


def test_a_point_of_small_order_is_refused():
    opening = Opening(ANNA, GENESIS, BERT.id, 3)
    signed = GENESIS + bytes.fromhex(BERT.id) + b"\x03" + bytes(32)
    evil = b"\x03" + bytes(32) + ANNA.sign("relayed session opened", signed)
    with pytest.raises(MessageError, match="key is not one"):
        accept(BERT, GENESIS, ANNA.id, evil, 3)
    assert accept(BERT, GENESIS, ANNA.id, opening.content, 3)
