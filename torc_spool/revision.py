"""Later definitions of a workflow's jobs: `revision-<n>/`, immutable like what was submitted, published by one rename.

A job's file keeps the definition that it was last run with. Who claims it brings it up to the latest, in its own
directory, before it is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from torc_spool import fsops, naming
from torc_spool.errors import DamagedFile
from torc_spool.layout import Layout
from torc_spool.model import Job

DEFINES = (
    "command",
    "invocation_script",
    "env",
    "resources",
    "priority",
    "failure_handler",
    "stdio",
    "supports_termination",
    "input_files",
    "output_files",
    "input_user_data",
    "output_user_data",
)
"""The fields of a job that a revision may change."""

_decode = msgspec.json.Decoder(Job).decode
_MARK = b'"revision":'


def latest_of(root: str) -> int:
    """The number of the latest revision, by a fresh listing of the workflow's directory; 0: as it was submitted."""
    return max((number for name in fsops.names(root) if (number := naming.parse_revision(name))), default=0)


class Revisions:
    """The definitions of one workflow up to its `number`th revision."""

    def __init__(self, layout: Layout, number: int) -> None:
        self._layout, self.number = layout, number
        self._lines: dict[int, list[bytes]] = {}
        self._changed: dict[int, Job] | None = None if number else {}

    def with_next(self, changed: Mapping[int, Job]) -> Revisions:
        """The same and one more revision, which need not be published."""
        following = Revisions(self._layout, self.number + 1)
        following._changed = {**self._latest(), **changed}
        return following

    def lines(self, number: int) -> list[bytes]:
        """The record of a revision, a job a line. Raises DamagedFile."""
        if number not in self._lines:
            path = self._layout.jobs_file_of(number)
            content = fsops.read(path)
            if content is None:
                raise DamagedFile(path, "is missing")
            self._lines[number] = content.data.splitlines()
        return self._lines[number]

    def _latest(self) -> dict[int, Job]:
        """The jobs that were ever changed, as they are now."""
        if self._changed is None:
            path = self._layout.jobs_file_of(self.number)
            jobs = (_decode_line(line, path) for line in self.lines(self.number) if _MARK in line)
            self._changed = {job.id: job for job in jobs if job.revision}
        return self._changed

    def changes(self, job: Job) -> dict[str, Any]:
        """What the latest definition changes in a job's file, and `revision`; empty where it is up to date.

        What a person has edited in the file since stays as it is.
        """
        latest = self._latest().get(job.id)
        if latest is None or job.revision >= latest.revision:
            return {}
        base = _decode_line(self.lines(job.revision)[job.id - 1], self._layout.jobs_file_of(job.revision))
        fields = {
            field: getattr(latest, field)
            for field in DEFINES
            if getattr(latest, field) != getattr(base, field) == getattr(job, field)
        }
        return {**fields, "revision": latest.revision}

    def current(self, job: Job) -> Job:
        """The job as it is run next."""
        fields = self.changes(job)
        return msgspec.structs.replace(job, **fields) if fields else job


def _decode_line(line: bytes, path: str) -> Job:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedFile(path, f"has a line that is no job ({error})") from error
