"""What the system says of the filesystem under a path: its type, and what is left on it."""

from __future__ import annotations

import os
from typing import NamedTuple

from torc_spool.fsops import about_to, translated

_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "overlay", "ramfs", "bcachefs"})


class Space(NamedTuple):
    """What is left on a filesystem."""

    bytes_free: int
    inodes_free: int | None  # None: it does not count them


def space(path: str) -> Space:
    """What this user may still fill. Raises StorageError."""
    with translated("look at", path):
        about_to("stat", path)
        status = os.statvfs(path)
    return Space(status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None)


def is_network(path: str) -> bool:
    """Whether the filesystem of `path` is one on which file events of other hosts are not seen."""
    return filesystem(path) not in _LOCAL


def filesystem(path: str) -> str:
    """The type of the filesystem of `path`, as the kernel calls it; empty where it does not say."""
    best, kind = "", ""
    target = os.path.realpath(path)
    try:
        about_to("stat", path)
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split()
                point = fields[1].replace("\\040", " ")
                inside = target == point or target.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, fields[2]
    except OSError:
        return ""
    return kind
