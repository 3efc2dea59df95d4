"""Run as a program: adds blocks to a shared chain and prints how many are final, once durable, until it is killed."""

import sys
from pathlib import Path

from shared_worlds import Writer, charter, note

from coterie.ledger.shared import SharedStore


def main(path, filling):
    start = charter((1,))  # one voter: what takes time is the disk
    with SharedStore(path, start) as store:
        writer = Writer(start.checkpoint)
        writer.chain = store.chain
        writer.height, writer.head = store.chain.height, store.chain.head
        while True:
            batch = writer.write(note(writer.time, filling), closes=writer.height >= 5)
            store.add(*batch)
            sys.stdout.write(f"{store.chain.state.epoch} {store.chain.height}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
