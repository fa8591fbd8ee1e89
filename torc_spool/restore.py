"""What a workflow's own record held, told from what else there is, where its digest proves that it is the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from torc_spool import fsops, naming
from torc_spool import spec as specs
from torc_spool.contents import encode
from torc_spool.digest import Sum
from torc_spool.errors import DamagedFile, TorcSpoolError
from torc_spool.model import WorkflowSpec
from torc_spool.store import Store
from torc_spool.submission import job_records, user_data_record

_VERBATIM = re.compile(r"spec\.(yaml|json|json5)")


def restored(store: Store, path: str, digest: str, verbatim: str | None) -> bytes | None:
    """The content of a record of the first definition; None where nothing proves what it was. Raises StorageError.

    `verbatim` is the name of the specification beside it, if that is whole.
    """
    return next((data for data in _candidates(store, path, verbatim) if str(Sum(data)) == digest), None)


def _candidates(store: Store, path: str, verbatim: str | None) -> Iterator[bytes]:
    spec = _specification(store, verbatim) if verbatim is not None else None
    if spec is not None and path == "jobs.jsonl":
        yield job_records(store.layout, spec)
    elif spec is not None and path == "actions.jsonl":
        yield b"".join(map(encode, spec.actions))
    elif spec is not None and path == "user_data.jsonl":
        yield user_data_record(spec.user_data, naming.user_data_files(datum.name for datum in spec.user_data))
    for directory in (store.layout.root, f"{store.layout.root}/lost+found"):  # it may have been renamed
        for name in sorted(fsops.entries(directory) or ()):
            with suppress(DamagedFile):
                content = fsops.look(f"{directory}/{name}")
                if content is not None:
                    yield content.data


def _specification(store: Store, name: str) -> WorkflowSpec | None:
    content = fsops.look(f"{store.layout.root}/{name}") if _VERBATIM.fullmatch(name) else None
    with suppress(TorcSpoolError):
        return specs.parse(content.data, name) if content is not None else None
    return None
