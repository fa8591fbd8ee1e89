"""What holds for all tests."""

import os


def pytest_configure() -> None:
    """The same modes for everybody: a spool that the caller's umask lets a group write to would be refused."""
    os.umask(0o022)
