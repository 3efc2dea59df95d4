"""Run as a program: appends to Ann's chain and prints each height once it is durable, until it is killed or full."""

import resource
import sys
from pathlib import Path

from ledger_worlds import ANN, GENESIS

from coterie.errors import LedgerError
from coterie.ledger import LedgerStore, PeerLedger


def say(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(path, limit, filling):
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    store = LedgerStore(path, GENESIS)
    ledger = PeerLedger(ANN, store)
    content = {"fill": "x" * filling}
    try:
        while True:
            ledger.append("round", content)
            say(ledger.head.height)
    except LedgerError as error:
        say(error)
    before = ledger.head
    for _ in range(3):  # it stays full, and stays usable
        try:
            ledger.append("round", content)
        except LedgerError:
            say("still full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(5):
        ledger.append("round", content)
    say(f"{before.height} {ledger.head.height}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
