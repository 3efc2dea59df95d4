"""Leaving: a member signs that it goes. Nobody need agree; but a federation is not left to nobody.

What it did before stays; its seat is free, and its key may be admitted again. Expulsion wins over a leave. A leave
cannot be taken back, and it holds at a peer once that peer has the record: until one other member has it, whoever
leaves is a member to all others.
"""

from __future__ import annotations

from coterie.errors import MembershipError
from coterie.identity import Identity, PeerId
from coterie.ledger.records import Record
from coterie.protocols.membership.book import Book
from coterie.protocols.membership.records import Leave


def sign_leave(book: Book, identity: Identity) -> Record:
    """The signed record, kept in ``book``. Raises MembershipError where it would not count.

    That is so for one who is no member, and for the last one. Any other may go, the founder too: whoever is left can
    admit others, by the rules of ``policy`` for a federation whose founder has left.
    """
    require_leave(book, identity)
    return book.leave(identity)


def require_leave(book: Book, identity: Identity) -> None:
    """Raise MembershipError where ``sign_leave`` would. Nothing is kept."""
    own, before = identity.id, book.membership
    if own in before.expelled:
        raise MembershipError("this peer was expelled: there is nothing to leave", where="leave")
    if own in before.left:
        raise MembershipError("this peer has left already", where="leave")
    if own not in before.members:
        raise MembershipError("this peer is no member yet: there is nothing to leave", where="leave")
    if len(before.members) == 1:
        raise MembershipError(
            "this peer is the only member, and nobody could ever admit another",
            where="leave",
            remedy="Stop the node; without its home there is no such federation any more. To go on with others, invite "
            "them first.",
        )


def leave_of(book: Book, peer: PeerId) -> Record | None:
    """The last record by which ``peer`` has left; None unless it is out because of it."""
    if peer not in book.membership.left:
        return None
    leaves = [n.record for n in book.log(0, book.size) if isinstance(n.deed, Leave) and n.author == peer]
    return leaves[-1] if leaves else None
