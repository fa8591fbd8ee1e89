"""`python -m torc_spool_cli`."""

import sys

from .entry import main

if __name__ == "__main__":
    sys.exit(main())
