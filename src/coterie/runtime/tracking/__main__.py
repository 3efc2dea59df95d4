"""The process that feeds one tracker; see ``follow``."""

import sys

from coterie.runtime.tracking.follow import main

sys.exit(main(*sys.argv[1:]))
