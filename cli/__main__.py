"""`python -m torc_spool_cli`."""

from .main import main

if __name__ == "__main__":
    main()
