"""Messages that no honest peer sends, by a seed."""

import random
from collections.abc import Sequence

from coterie.network.grpc.wire import FIRST, FORWARD, FORWARDED, NEXT


def tampered(dice: random.Random, members: Sequence[str], good: Sequence[bytes]) -> list[bytes]:
    """One frame in messages of a stream, or another message: one of the ``good`` ones changed, or made up."""
    peer = bytes.fromhex(dice.choice(members)) if dice.random() < 0.8 else dice.randbytes(32)
    if dice.random() < 0.3:
        return [bytes([dice.randrange(256)]) + dice.randbytes(dice.randrange(120))]
    if dice.random() < 0.4:
        tag = dice.choice((b"\x04", b"\x05", FORWARD, FORWARDED))
        return [tag + peer + bytes([dice.randrange(5)]) + dice.randbytes(dice.choice((0, 9, 97, 97, 200)))]
    data = bytearray(bytes([dice.choice((0, 0, 0, 1, 2, 3, 7))]) + dice.choice(good))
    for _ in range(dice.choice((0, 1, 1, 3))):
        position = dice.randrange(len(data) or 1)
        match dice.randrange(5):
            case 0:
                data[position : position + 1] = dice.randbytes(1)
            case 1:
                del data[position : position + dice.choice((1, 4, 500))]
            case 2:
                data[position:position] = dice.randbytes(dice.randrange(9))
            case 3:
                data[position : position + 4] = b"\xff\xff\xff\xff"
            case 4:
                data[9 : 9 + dice.randrange(100)] = dice.randbytes(dice.randrange(100))
    cut = dice.randrange(len(data) + 1)
    messages = [FIRST + bytes(data[:cut])]
    if dice.random() < 0.9:
        messages.append(NEXT + bytes(data[cut:]))
    return messages
