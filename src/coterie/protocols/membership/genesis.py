"""The record with which a federation begins. Its id, 32 bytes, is the federation's.

The author is the founder. Whoever knows the id can check everything that follows; whoever does not can be told any
history. So the id travels by a way people trust, in the invitation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from coterie.errors import MembershipError
from coterie.identity import Certificate, Identity, PeerId, is_peer_id
from coterie.ledger.records import Record
from coterie.protocols.membership.policy import Id, Policy, Stake
from coterie.protocols.membership.records import (
    Der,
    Hash,
    Name,
    Signature,
    content_of,
    refused,
    require_certificate,
    require_plain,
    typed,
)

KIND = "genesis"
MOST_STAKES = 512


class Genesis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a genesis record says."""

    federation: Name
    spec: Hash
    """SHA-256 of the resolved spec."""
    layout: Annotated[bytes, msgspec.Meta(max_length=32)]
    """Hash of the model's layout; empty where it is not known yet."""
    name: Name
    """The founder's, to show."""
    certificate: Der
    binding: Signature
    policy: Policy
    stakes: Annotated[dict[Id, Stake], msgspec.Meta(max_length=MOST_STAKES)]
    """Of peers that are known by name at the founding. It makes nobody a member."""

    def stake_of(self, peer: PeerId) -> int:
        """What ``peer`` is to have when it is admitted."""
        return self.stakes.get(peer, self.policy.stake)


def found(
    identity: Identity,
    *,
    federation: str,
    spec: bytes,
    name: str,
    certificate: Certificate,
    time: int,
    policy: Policy | None = None,
    layout: bytes = b"",
    stakes: Mapping[PeerId, int] | None = None,
) -> Record:
    """The signed genesis record of a new federation; ``time`` in ms since 1970. Raises MembershipError."""
    genesis = Genesis(
        federation=federation,
        spec=spec,
        layout=layout,
        name=name,
        certificate=certificate.der,
        binding=certificate.signature,
        policy=policy or Policy(),
        stakes=dict(stakes or {}),
    )
    record = Record.make(identity, KIND, content_of(genesis), (), time)
    read_genesis(record)
    return record


def read_genesis(record: Record) -> Genesis:
    """What a genesis record says. Raises MembershipError where it is none."""
    if record.kind != KIND or record.parents:
        raise refused(record, "a federation begins with a genesis record that follows nothing")
    genesis = typed(_decoder, record)
    if len(genesis.layout) not in (0, 32):
        raise refused(record, "its layout hash is none")
    for text in (genesis.federation, genesis.name):
        require_plain(record, text)
    if not all(map(is_peer_id, genesis.stakes)):
        raise refused(record, "a stake is given to what is no peer id")
    try:
        genesis.policy.check()
    except MembershipError as error:
        raise refused(record, error.what) from None
    if genesis.policy.until is not None and genesis.policy.until < record.time:
        raise refused(record, "its policy had ended before it began")
    require_certificate(record, Certificate(record.author, genesis.certificate, genesis.binding))
    return genesis


_decoder = msgspec.msgpack.Decoder(Genesis)
