"""Short sums: of what defines a run, and of the records that never change, so that a change of them can be told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from torc_spool.model import Job

_DIGITS = 16


def digest(job: Job, workflow_env: Mapping[str, str]) -> str:
    """Of a job's command, its invocation script, and the variables that it is given; the order of these is nothing."""
    defines = [job.command, job.invocation_script, sorted({**workflow_env, **job.env}.items())]
    return hashlib.sha256(json.dumps(defines).encode()).hexdigest()[:_DIGITS]


class Sum:
    """Of a file's content, which may come in parts."""

    def __init__(self, data: bytes = b"") -> None:
        self._sum = hashlib.sha256(data)

    def add(self, data: bytes) -> None:
        self._sum.update(data)

    def __str__(self) -> str:
        return self._sum.hexdigest()[:_DIGITS]
