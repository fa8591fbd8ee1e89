"""What a file was like, so that a change of it can be told later: its size, its time, and a sum of its content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping

from torc_spool.model import Job

Fingerprint = tuple[int, int, str | None]  # size, mtime in ns, SHA-256 where it was asked for

_BLOCK = 1 << 20


def input_paths(job: Job, user_data: Mapping[str, str]) -> list[str]:
    """What a job reads, and does not write itself: its files, and those of its user data (by name: the path)."""
    data = (user_data.get(name) for name in job.input_user_data if name not in job.output_user_data)
    paths = dict.fromkeys((*job.input_files, *(path for path in data if path is not None)))
    return [path for path in paths if path not in job.output_files]


def take(paths: Iterable[str], cwd: str, *, hashed: bool) -> dict[str, Fingerprint]:
    """By the paths as given, which are relative to `cwd`; what does not exist, or may not be seen, is not in it.

    Only a regular file has a sum, and only one that may be read.
    """
    found: dict[str, Fingerprint] = {}
    for path in paths:
        full = os.path.join(cwd, path)
        try:
            status = os.stat(full)
        except (OSError, ValueError):
            continue
        content = _sha256(full) if hashed and stat.S_ISREG(status.st_mode) else None
        found[path] = (status.st_size, status.st_mtime_ns, content)
    return found


def _sha256(path: str) -> str | None:
    content = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                content.update(block)
    except OSError:
        return None
    return content.hexdigest()
