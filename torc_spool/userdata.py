"""The user data of a workflow: small JSON values that its jobs read and write, a file each.

`user_data.jsonl` says which there are, and never changes; `user_data/<file>` is the bare value as it is now.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from torc_spool import fsops, trust
from torc_spool.complaints import check_command, did_you_mean, quote, refuse_twice
from torc_spool.dataflow import with_paths
from torc_spool.errors import DamagedFile, NotFound, StorageError, UsageError
from torc_spool.model import Job
from torc_spool.store import Store

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Datum(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `user_data.jsonl`."""

    name: str
    file: str
    data: msgspec.Raw = msgspec.Raw(b"null")  # as it was submitted
    is_ephemeral: bool = False


_decode_lines = msgspec.json.Decoder(Datum).decode_lines


class Value(NamedTuple):
    """A value as it is now."""

    name: str
    data: msgspec.Raw


def with_user_data(job: Job, paths: Mapping[str, str]) -> Job:
    """The job with paths in place of its references to user data. Raises SpecError for a text that is too long then."""
    if not (job.input_user_data or job.output_user_data):
        return job
    changes: dict[str, Any] = {}
    for field in ("command", "invocation_script"):
        text = getattr(job, field)
        if text is not None and (fresh := with_paths(text, "user_data", paths)) != text:
            check_command(fresh, f"job {quote(job.name)}: {field} with the paths of its user data")
            changes[field] = fresh
    return msgspec.structs.replace(job, **changes) if changes else job


def known(store: Store) -> list[Datum]:
    """What the workflow was submitted with, in the order of the specification."""
    content = fsops.read(store.layout.user_data_file)
    if content is None:
        return []
    try:
        return _decode_lines(content.data)
    except _UNREADABLE as error:
        raise DamagedFile(store.layout.user_data_file, f"is not what was submitted ({error})") from error


def paths(store: Store) -> dict[str, str]:
    """Where the value of each is, by its name."""
    return {datum.name: store.layout.user_datum(datum.file) for datum in known(store)}


def find(store: Store, name: str) -> Datum:
    """By its name, or by the path that a job's command was given. Raises NotFound."""
    data = known(store)
    for datum in data:
        if datum.name == name:
            return datum
    directory, file = os.path.split(name)
    if directory and os.path.realpath(directory) == os.path.realpath(store.layout.user_data):
        for datum in data:
            if datum.file == file:
                return datum
    hint = did_you_mean(name, [datum.name for datum in data])
    raise NotFound(f"workflow {store.workflow.id} has no user data {quote(name)}{hint}")


def read(store: Store, datum: Datum) -> Value:
    """Its value as it is now. Raises NotFound, DamagedFile."""
    path = store.layout.user_datum(datum.file)
    content = fsops.read(path)
    if content is None:
        raise NotFound(f"{path} is gone; `update` makes it anew")
    try:
        msgspec.json.decode(content.data)
    except _UNREADABLE as error:
        raise DamagedFile(path, f"is not JSON ({error}); `update` makes it anew") from error
    return Value(datum.name, msgspec.Raw(content.data.strip()))


def update(store: Store, datum: Datum, text: bytes) -> None:
    """Put a JSON text in place of the value (u1, u2): whoever reads sees the one or the other, and the last one stays.

    Raises UsageError for what is not JSON, StorageError, UntrustedSpool.
    """
    try:
        msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=refuse_twice)
    except (*_UNREADABLE, ValueError) as error:
        raise UsageError(f"{quote(datum.name)}: not JSON ({error}); text stands in double quotes") from error
    layout = store.layout
    trust.check_directory(layout.user_data, shared=store.shared)
    temporary = layout.user_datum(f".{datum.file}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    if not fsops.create(temporary, text.strip() + b"\n", store.file_mode):
        raise StorageError("create", temporary, None)
    if not fsops.rename(temporary, layout.user_datum(datum.file)):
        raise NotFound(f"{layout.root} was deleted")
