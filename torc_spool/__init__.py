"""torc-spool: a filesystem-spooled batch tool. The directory is the state."""
