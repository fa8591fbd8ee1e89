"""The command line of torc-spool. Each command parses, makes one call of the library, and shows what came of it."""
