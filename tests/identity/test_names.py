"""Short names: readable, the same everywhere, and made of whole word lists."""

import hashlib

from coterie.identity import Identity, names, short_name


def test_a_name_is_taken_from_the_hash_of_the_id():
    peer = Identity.from_seed(bytes(32)).id
    digest = hashlib.sha256(peer.encode()).digest()
    first, second, rest = short_name(peer).split("-")
    assert first == names._FIRST[digest[0] % 32]
    assert second == names._SECOND[digest[1] % 32]
    assert rest == digest[2:4].hex()


def test_names_differ_and_do_not_change():
    peers = [Identity.from_seed(bytes([n]) * 32).id for n in range(50)]
    assert len({short_name(peer) for peer in peers}) == 50
    assert short_name(peers[0]) == "neat-puffin-4f07"


def test_each_list_has_32_words():
    for words in (names._FIRST, names._SECOND):
        assert len(words) == len(set(words)) == 32
        assert all(word.isalpha() and word.islower() for word in words)
