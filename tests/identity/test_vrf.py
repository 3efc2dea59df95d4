"""The verifiable random function: RFC 9381's vectors, integers to compare with, and everything that must be refused."""

import hashlib
import hmac
import struct

import edwards_integers as integers
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from coterie.errors import IdentityError
from coterie.identity import Identity, VrfKey, is_vrf_key, vrf_output
from coterie.identity import vrf as module

# RFC 9381, appendix B.3, examples 16, 17 and 18. k is the 64-byte k_string, before it is reduced.
RFC_9381 = [
    {
        "SK": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "PK": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "alpha": "",
        "x": "307c83864f2833cb427a2ef1c00a013cfdff2768d980c0a3a520f006904de94f",
        "ctr": 0,
        "H": "91bbed02a99461df1ad4c6564a5f5d829d0b90cfc7903e7a5797bd658abf3318",
        "k": "7100f3d9eadb6dc4743b029736ff283f5be494128df128df2817106f345b8594"
        "b6d6da2d6fb0b4c0257eb337675d96eab49cf39e66cc2c9547c2bf8b2a6afae4",
        "U": "aef27c725be964c6a9bf4c45ca8e35df258c1878b838f37d9975523f09034071",
        "V": "5016572f71466c646c119443455d6cb9b952f07d060ec8286d678615d55f954f",
        "pi": "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f"
        "26f8a57ccaed74ee1b190bed1f479d9727d2d0f9b005a6e456a35d4fb0daab12"
        "68a1b0db10836d9826a528ca76567805",
        "beta": "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff"
        "66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae",
    },
    {
        "SK": "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "PK": "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "alpha": "72",
        "x": "68bd9ed75882d52815a97585caf4790a7f6c6b3b7f821c5e259a24b02e502e51",
        "ctr": 1,
        "H": "5b659fc3d4e9263fd9a4ed1d022d75eaacc20df5e09f9ea937502396598dc551",
        "k": "42589bbf0c485c3c91c1621bb4bfe04aed7be76ee48f9b00793b2342acb9c167"
        "cab856f9f9d4febc311330c20b0a8afd3743d05433e8be8d32522ecdc16cc5ce",
        "U": "1dcb0a4821a2c48bf53548228b7f170962988f6d12f5439f31987ef41f034ab3",
        "V": "fd03c0bf498c752161bae4719105a074630a2aa5f200ff7b3995f7bfb1513423",
        "pi": "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed593"
        "3bf0864a62558b3ed7f2fea45c92a465301b3bbf5e3e54ddf2d935be3b67926d"
        "a3ef39226bbc355bdc9850112c8f4b02",
        "beta": "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb"
        "5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031",
    },
    {
        "SK": "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "PK": "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "alpha": "af82",
        "x": "909a8b755ed902849023a55b15c23d11ba4d7f4ec5c2f51b1325a181991ea95c",
        "ctr": 0,
        "H": "bf4339376f5542811de615e3313d2b36f6f53c0acfebb482159711201192576a",
        "k": "38b868c335ccda94a088428cbf3ec8bc7955bfaffe1f3bd2aa2c59fc31a0febc"
        "59d0e1af3715773ce11b3bbdd7aba8e3505d4b9de6f7e4a96e67e0d6bb6d6c3a",
        "U": "2bae73e15a64042fcebf062abe7e432b2eca6744f3e8265bc38e009cd577ecd5",
        "V": "88cba1cb0d4f9b649d9a86026b69de076724a93a65c349c988954f0961c5d506",
        "pi": "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf80"
        "96bb474e53895c362d8628ee9f9ea3c0e52c7a5c691b6c18c9979866568add7a"
        "2d41b00b05081ed0f58ee5e31b3a970e",
        "beta": "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c45"
        "2118fec1219202a0edcf038bb6373241578be7217ba85a2687f7a0310b2df19f",
    },
]
SEED = bytes(range(32))
GENESIS = hashlib.sha256(b"a federation").digest()
KEY = VrfKey.from_seed(SEED)
PROOF = KEY.prove(b"alpha")
seeds = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("vector", RFC_9381, ids=["16", "17", "18"])
def test_the_vectors_of_rfc_9381(vector):
    seed, alpha = bytes.fromhex(vector["SK"]), bytes.fromhex(vector["alpha"])
    reference = {name: value if name == "ctr" else value.hex() for name, value in integers.prove(seed, alpha).items()}
    assert reference == {name: value for name, value in vector.items() if name not in ("SK", "alpha")}
    key = VrfKey.from_seed(seed)
    assert key.public.hex() == vector["PK"]
    assert key._scalar.hex() == vector["x"]
    assert module._to_curve(key.public, alpha).hex() == vector["H"]
    assert key.prove(alpha).hex() == vector["pi"]
    assert vrf_output(key.public, alpha, key.prove(alpha)).hex() == vector["beta"]
    assert integers.verify(key.public, alpha, key.prove(alpha)).hex() == vector["beta"]


@settings(max_examples=15, deadline=None)
@given(seeds, st.binary(max_size=100))
def test_proofs_and_outputs_agree_with_plain_integers(seed, alpha):
    key, reference = VrfKey.from_seed(seed), integers.prove(seed, alpha)
    assert (key.public, key.prove(alpha)) == (reference["PK"], reference["pi"])
    assert vrf_output(key.public, alpha, reference["pi"]) == reference["beta"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40))
def test_inputs_are_hashed_to_the_point_that_plain_integers_find(alpha):
    assert module._to_curve(KEY.public, alpha) == integers.encode(integers.to_curve(KEY.public, alpha)[0])


@settings(max_examples=100, deadline=None)
@given(seeds, st.binary(max_size=200))
def test_what_is_proved_holds_for_this_key_and_input_only(seed, alpha):
    key = VrfKey.from_seed(seed)
    proof = key.prove(alpha)
    output = vrf_output(key.public, alpha, proof)
    assert len(proof) == 80
    assert output is not None
    assert len(output) == 64
    assert vrf_output(key.public, alpha + b"\0", proof) is None
    assume(seed != SEED)
    assert vrf_output(KEY.public, alpha, proof) is None


@pytest.mark.parametrize("place", range(80))
def test_a_changed_byte_of_the_proof_is_found(place):
    for flip in (1, 0x80, 0xFF):
        changed = bytearray(PROOF)
        changed[place] ^= flip
        assert vrf_output(KEY.public, b"alpha", bytes(changed)) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 31), st.integers(1, 255))
@example(31, 0x80)
def test_a_changed_byte_of_the_key_is_found(place, flip):
    changed = bytearray(KEY.public)
    changed[place] ^= flip
    assert vrf_output(bytes(changed), b"alpha", PROOF) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 4), st.integers(1, 255))
def test_a_changed_byte_of_the_input_is_found(place, flip):
    changed = bytearray(b"alpha")
    changed[place] ^= flip
    assert vrf_output(KEY.public, bytes(changed), PROOF) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=10), st.binary(max_size=100))
def test_any_bytes_are_answered_and_refused(public, alpha, proof):
    assert vrf_output(public, alpha, PROOF) is None
    assert vrf_output(KEY.public, alpha, proof) is None


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_none(length):
    public = (KEY.public * 2)[:length]
    assert not is_vrf_key(public)
    assert vrf_output(public, b"alpha", PROOF) is None


@pytest.mark.parametrize("length", [0, 32, 48, 79, 81, 160])
def test_a_proof_of_another_length_is_none(length):
    assert vrf_output(KEY.public, b"alpha", (PROOF * 2)[:length]) is None
    assert vrf_output(KEY.public, b"alpha", PROOF[:length].ljust(length, b"\0")) is None


def test_s_must_be_reduced():
    s = int.from_bytes(PROOF[48:], "little")
    again = PROOF[:48] + (s + integers.L).to_bytes(32, "little")
    assert integers.L + s < 2**256
    assert vrf_output(KEY.public, b"alpha", again) is None


def test_numbers_that_are_zero_are_refused():
    assert vrf_output(KEY.public, b"alpha", PROOF[:48] + bytes(32)) is None
    assert vrf_output(KEY.public, b"alpha", PROOF[:32] + bytes(16) + PROOF[48:]) is None


def small_encodings():
    """All encodings of points of small order, and of "minus zero", reduced or not."""
    for x, y in integers.torsion():
        for value in (y, y + integers.P):
            if value < 2**255:
                for sign in (0, 1):
                    if (x & 1) == sign or x == 0:
                        yield (value | sign << 255).to_bytes(32, "little")


@pytest.mark.parametrize("point", sorted(set(small_encodings())), ids=bytes.hex)
def test_points_of_small_order_are_neither_keys_nor_gammas(point):
    assert not is_vrf_key(point)
    assert vrf_output(point, b"alpha", PROOF) is None
    assert vrf_output(KEY.public, b"alpha", point + PROOF[32:]) is None


def test_encodings_that_are_not_reduced_are_refused():
    for y in range(19):
        for sign in (0, 1):
            text = (y + integers.P | sign << 255).to_bytes(32, "little")
            assert not is_vrf_key(text)
            assert vrf_output(KEY.public, b"alpha", text + PROOF[32:]) is None


@pytest.mark.parametrize("order", range(1, 8))
def test_points_with_a_part_of_small_order_are_no_keys(order):
    mixed = integers.add(integers.decode(KEY.public), integers.torsion()[order])
    assert not is_vrf_key(integers.encode(mixed))
    assert vrf_output(integers.encode(mixed), b"alpha", PROOF) is None


@pytest.mark.parametrize("order", range(1, 8))
def test_a_gamma_with_a_part_of_small_order_is_refused_though_the_rfc_lets_it_pass(order):
    x, _ = integers.expand(SEED)
    h, _ = integers.to_curve(KEY.public, b"alpha")
    gamma = integers.encode(integers.add(integers.times(x, h), integers.torsion()[order]))
    u, v, nonce = integers.ZERO, integers.ZERO, 0
    while True:  # the holder of the key tries nonces until 8 divides the challenge, and the small part falls out
        nonce, u, v = nonce + 1, integers.add(u, integers.BASE), integers.add(v, h)
        challenge = integers.challenge(KEY.public, integers.encode(h), gamma, integers.encode(u), integers.encode(v))
        if challenge[0] % 8 == 0:
            break
    s = (nonce + int.from_bytes(challenge, "little") * x) % integers.L
    proof = gamma + challenge + s.to_bytes(32, "little")
    assert integers.verify(KEY.public, b"alpha", proof) == vrf_output(KEY.public, b"alpha", PROOF)
    assert vrf_output(KEY.public, b"alpha", proof) is None


def test_one_output_may_have_several_proofs():
    x, _ = integers.expand(SEED)
    h, _ = integers.to_curve(KEY.public, b"alpha")
    points = [KEY.public, integers.encode(h), PROOF[:32], integers.encode(integers.times(5, integers.BASE))]
    challenge = integers.challenge(*points, integers.encode(integers.times(5, h)))
    s = (5 + int.from_bytes(challenge, "little") * x) % integers.L
    other = PROOF[:32] + challenge + s.to_bytes(32, "little")
    assert other != PROOF
    assert vrf_output(KEY.public, b"alpha", other) == vrf_output(KEY.public, b"alpha", PROOF)


def test_the_key_of_a_peer_is_not_its_identity():
    identity = Identity.from_seed(SEED)
    key = VrfKey.of(identity, GENESIS)
    assert key.public.hex() != identity.id
    assert key.public != VrfKey.of(Identity.generate(), GENESIS).public


def test_the_key_of_a_peer_is_hkdf_of_its_seed_and_the_genesis():
    """HKDF-SHA256 (RFC 5869) without a salt, of 32 bytes, written out with hmac."""
    info = b"coterie" + struct.pack(">H", len("vrf")) + b"vrf" + GENESIS
    extracted = hmac.digest(bytes(32), SEED, "sha256")
    expanded = hmac.digest(extracted, info + b"\x01", "sha256")
    assert VrfKey.of(Identity.from_seed(SEED), GENESIS) == VrfKey.from_seed(expanded)


def test_a_peer_has_another_key_in_another_federation():
    """One that was founded from a copied checkpoint, with the same beacon and heights, learns nothing of this one."""
    identity, copied = Identity.from_seed(SEED), hashlib.sha256(b"a copy").digest()
    here, again, there = (VrfKey.of(identity, genesis) for genesis in (GENESIS, GENESIS, copied))
    assert here == again != there
    assert here.public != there.public
    alpha = b"the same beacon and height"
    outputs = [vrf_output(key.public, alpha, key.prove(alpha)) for key in (here, again, there)]
    assert outputs[0] == outputs[1] != outputs[2]
    assert None not in outputs
    assert vrf_output(here.public, alpha, there.prove(alpha)) is None


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_genesis_hash_has_32_bytes(length):
    with pytest.raises(IdentityError, match="genesis"):
        VrfKey.of(Identity.from_seed(SEED), bytes(length))


def test_a_key_shows_no_secret():
    shown = repr(KEY)
    assert repr(KEY._scalar) not in shown
    assert repr(KEY._prefix) not in shown


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(length):
    with pytest.raises(IdentityError, match="seed"):
        VrfKey.from_seed(bytes(length))
