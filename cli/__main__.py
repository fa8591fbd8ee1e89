"""`python -m torc_spool_cli`."""

from .main import main

main()
