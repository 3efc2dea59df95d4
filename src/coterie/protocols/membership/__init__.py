"""Who is in: genesis, admission, expulsion and lost keys as signed records that every member replays by itself."""

from coterie.protocols.membership.admission import Host
from coterie.protocols.membership.book import Book
from coterie.protocols.membership.genesis import Genesis, found, read_genesis
from coterie.protocols.membership.invitation import Invitation, invite
from coterie.protocols.membership.issued import Issues
from coterie.protocols.membership.join_messages import Briefing
from coterie.protocols.membership.joining import Joined, join
from coterie.protocols.membership.leaving import leave_of, require_leave, sign_leave
from coterie.protocols.membership.policy import Policy
from coterie.protocols.membership.records import Admission, Consent, Succession
from coterie.protocols.membership.recovering import recover, sign_beside
from coterie.protocols.membership.replay import Member, Membership, Pending, Removal, Replay
from coterie.protocols.membership.spread import Spread

__all__ = [
    "Admission",
    "Book",
    "Briefing",
    "Consent",
    "Genesis",
    "Host",
    "Invitation",
    "Issues",
    "Joined",
    "Member",
    "Membership",
    "Pending",
    "Policy",
    "Removal",
    "Replay",
    "Spread",
    "Succession",
    "found",
    "invite",
    "join",
    "leave_of",
    "read_genesis",
    "recover",
    "require_leave",
    "sign_beside",
    "sign_leave",
]
