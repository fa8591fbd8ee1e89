"""Who could have written to a directory of the spool: what runs is what lies in it."""

from __future__ import annotations

import os
import stat

from torc_spool.errors import UntrustedSpool
from torc_spool.fsops import about_to, translated


def check_directory(path: str, *, shared: bool, instead: str | None = None) -> None:
    """Refuse a directory that somebody else could have written to. Raises UntrustedSpool, StorageError.

    `instead` is what to do about something else in its place.
    """
    with translated("look at", path):
        about_to("stat", path)
        status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise UntrustedSpool(path, "is a symbolic link", instead or "name the directory itself")
    if not stat.S_ISDIR(status.st_mode):
        raise UntrustedSpool(path, "is not a directory", instead or "name a directory")
    if shared:
        return
    if status.st_uid != os.geteuid():
        raise UntrustedSpool(
            path, f"belongs to user {status.st_uid}, not to you", "pass --allow-shared if that is meant"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise UntrustedSpool(
            path,
            f"its group or others may write to it (mode {mode:04o})",
            "chmod go-w it, or pass --allow-shared if that is meant",
        )
