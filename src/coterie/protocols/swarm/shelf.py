"""Models in a peer's store: each under a key of its own, and written once, as it is large."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from coterie.layout import Snapshot
from coterie.protocols.interfaces import Store


class Shelf:
    """``places``: where models are, by their hashes, as the peer has kept it with what refers to them."""

    def __init__(self, store: Store, places: Mapping[bytes, int]) -> None:
        self._store = store
        self.places = dict(places)

    def get(self, digest: bytes) -> Snapshot | None:
        """The model of this hash; None where a crash came before it was written."""
        place = self.places.get(digest)
        found = self._store.get(_key(place)) if place is not None else None
        return found[1] if found is not None and found[0] == digest else None

    def put(self, models: Mapping[bytes, Snapshot]) -> None:
        """Keep these, too. What refers to them is to be kept after that."""
        for digest, snapshot in models.items():
            if digest not in self.places:
                taken = self.places.values()
                self.places[digest] = next(place for place in itertools.count() if place not in taken)
                self._store.put(_key(self.places[digest]), [digest, snapshot])

    def keep(self, models: Mapping[bytes, Snapshot]) -> None:
        """Let go of all others: nothing that is kept refers to them any more."""
        for digest in [each for each in self.places if each not in models]:
            self._store.put(_key(self.places.pop(digest)), None)


def _key(place: int) -> str:
    return f"swarm-model-{place}"
