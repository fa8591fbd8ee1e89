"""The bytes of a spool's files and the records that they hold: decoded, checked, changed, encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from torc_spool import fsops
from torc_spool.errors import DamagedFile, FromTheFuture
from torc_spool.model import FORMAT_VERSION, Action, Job, Workflow

T = TypeVar("T")

_decode_job = msgspec.json.Decoder(Job).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Content(NamedTuple):
    """A job's file as it was read: the record, and the bytes so that unknown fields survive a rewrite."""

    job: Job
    data: bytes

    def redefined(self, changes: Mapping[str, Any]) -> Content:
        """The same job with other fields; one that has its default is left out."""
        fields = _decode_any(self.data)
        said = msgspec.to_builtins(msgspec.structs.replace(self.job, attempts=(), **changes))
        for field in changes:
            fields.pop(field, None)
            if field in said:
                fields[field] = said[field]
        data = encode(fields)
        return Content(_decode_job(data), data)

    def rebound(self, scheduler: str | None) -> Content:
        """The same job, bound to another scheduler or to none."""
        fields = _decode_any(self.data)
        fields["scheduler"] = scheduler
        data = encode(fields)
        return Content(_decode_job(data), data)


class _Version(msgspec.Struct, frozen=True):
    version: int = FORMAT_VERSION


def decode_workflow(data: bytes, path: str, workflow_id: int | None = None) -> Workflow:
    """What `workflow.json` says, of the workflow of that id. Raises DamagedFile, naming `path`, and FromTheFuture."""
    try:
        workflow = msgspec.json.decode(data, type=Workflow)
    except _UNREADABLE as error:
        if why := _from_the_future(data):
            raise FromTheFuture(path, f"{why}; use a newer one") from error
        raise DamagedFile(path, f"is no workflow's JSON ({error})") from error
    if workflow.version > FORMAT_VERSION:
        raise FromTheFuture(path, f"{_from_the_future(data)}; use a newer one")
    if workflow_id not in (None, workflow.id):
        raise DamagedFile(path, f"is of workflow {workflow.id}, its directory's name says {workflow_id}")
    return workflow


def decode_job(data: bytes, path: str, job_id: int) -> Content:
    """A job's file. Raises DamagedFile when it is torn, of another job, or of a version from the future."""
    try:
        job = _decode_job(data)
        _decode_any(data)  # the fields that we do not know have to be written again
    except _UNREADABLE as error:
        raise DamagedFile(path, _from_the_future(data) or f"is no job's JSON ({error})") from error
    if job.version > FORMAT_VERSION:
        raise DamagedFile(path, f"is of version {job.version}; this program knows {FORMAT_VERSION}")
    if job.id != job_id:
        raise DamagedFile(path, f"its name says job {job_id}, its content job {job.id}")
    return Content(job, data)


def decode_action(data: bytes, path: str, number: int) -> Action:
    """An action's file. Raises DamagedFile, as for a job's."""
    try:
        action = msgspec.json.decode(data, type=Action)
    except _UNREADABLE as error:
        raise DamagedFile(path, _from_the_future(data) or f"is no action's JSON ({error})") from error
    if action.version > FORMAT_VERSION:
        raise DamagedFile(path, f"is of version {action.version}; this program knows {FORMAT_VERSION}")
    if action.number != number:
        raise DamagedFile(path, f"its name says action {number}, its content action {action.number}")
    return action


def decode_line(line: bytes, path: str, kind: type[T], what: str) -> T:
    """One line of a record of all jobs or actions. Raises DamagedFile."""
    try:
        return msgspec.json.decode(line, type=kind)
    except _UNREADABLE as error:
        raise DamagedFile(path, f"has a line that is no {what} ({error})") from error


def _from_the_future(data: bytes) -> str | None:
    """Why a file is not guessed at, where all that can be read of it is that it is of a later version."""
    try:
        version = msgspec.json.decode(data, type=_Version).version
    except _UNREADABLE:
        return None
    return f"is of version {version}; this program knows {FORMAT_VERSION}" if version > FORMAT_VERSION else None


def read_record(path: str, kind: type[Any]) -> Any:
    """A record that decides nothing alone; None when it is gone or cannot be understood. Raises StorageError."""
    try:
        content = fsops.read(path)
        return None if content is None else msgspec.json.decode(content.data, type=kind)
    except (*_UNREADABLE, DamagedFile):
        return None


def encode(record: Any) -> bytes:
    return _encode(record) + b"\n"


def with_attempt(content: Content, attempt: Any) -> bytes:
    """The file's bytes with one more attempt; fields that we do not know are kept."""
    fields = _decode_any(content.data)
    fields.setdefault("attempts", []).append(msgspec.to_builtins(attempt))
    return encode(fields)
