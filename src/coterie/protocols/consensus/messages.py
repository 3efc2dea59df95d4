"""What voters say to each other. Forms and lengths are checked by the codec, the rest before anything is believed."""

from __future__ import annotations

from typing import Annotated

import msgspec

from coterie.ledger.encoding import Hash, Height
from coterie.ledger.shared import Batch, Certificate, FullSharedBlock, Proposal, Vote
from coterie.network import Message, message

MOST_LACKING = 16
MOST_NEWS_BYTES = 3 << 18
"""Of an answer's certificates and blocks together. A message holds 1 MiB."""
MOST_NEWS = 1024


@message
class ConsensusVote(Message, frozen=True):
    """The sender's own vote."""

    vote: Vote


@message
class ConsensusProposal(Message, frozen=True):
    """The sender leads, and proposes."""

    proposal: Proposal


@message
class ConsensusCertificate(Message, frozen=True):
    """The height has been decided; somebody passes this on to those who have not shown that they know."""

    certificate: Certificate


@message
class ConsensusAhead(Message, frozen=True):
    """I am further than you seem to be: pull from me."""

    epoch: Height
    height: Height


@message
class ConsensusPull(Message, frozen=True):
    """What do I lack? Asked by one that stands here."""

    epoch: Height
    final: Height
    """Height of its last final block in the epoch; 0: none."""
    gap: Height
    """The lowest height above that of which it knows no certificate."""
    lacking: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MOST_LACKING)]
    """Blocks it knows of and does not have."""


@message
class ConsensusNews(Message, frozen=True):
    """What the asker lacks, as much as fits; or nothing. The sender stands at ``height`` of ``epoch``."""

    epoch: Height
    height: Height
    history: Batch | None
    """Final blocks; where there are some, nothing else."""
    certificates: Annotated[tuple[Certificate, ...], msgspec.Meta(max_length=MOST_NEWS)]
    blocks: Annotated[tuple[FullSharedBlock, ...], msgspec.Meta(max_length=MOST_LACKING)]
