"""What a workflow's own record held, told from what else there is, where its digest proves that it is the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from torc_spool import contents, fsops, naming
from torc_spool import spec as specs
from torc_spool.contents import encode
from torc_spool.digest import Sum
from torc_spool.errors import DamagedFile, TorcSpoolError
from torc_spool.fsops import Content
from torc_spool.layout import Layout
from torc_spool.model import WorkflowSpec
from torc_spool.store import Store
from torc_spool.submission import COPY, job_records, user_data_record

LOST_AND_FOUND = "lost+found"
_VERBATIM = re.compile(r"spec\.(yaml|json|json5)")


def restored(store: Store, path: str, digest: str, verbatim: str | None) -> bytes | None:
    """The content of a record of the first definition; None where nothing proves what it was. Raises StorageError.

    `verbatim` is the name of the specification beside it, if that is whole.
    """
    return next((data for data in _candidates(store, path, verbatim) if str(Sum(data)) == digest), None)


def workflow_record(layout: Layout, damage: DamagedFile) -> Content:
    """What the damaged `workflow.json` of the layout held: the copy beside it, or another file whose digests are those
    of the files beside it. Raises `damage`, and says what a person can do, where there is no such; StorageError."""
    directory = os.path.dirname(layout.workflow_file)
    for path in (f"{directory}/{COPY}", *_elsewhere(directory, layout.root)):
        with suppress(DamagedFile):
            content = fsops.look(path)
            if content is not None:
                workflow = contents.decode_workflow(content.data, path, layout.workflow_id)
                if path.endswith(f"/{COPY}") or _fits(directory, workflow.digests):
                    return content
    hint = "nothing here tells what it held: put it back from a copy of the spool, or submit the specification anew"
    raise DamagedFile(damage.path, f"{damage.why}; {hint}") from damage


def _fits(directory: str, digests: Mapping[str, str]) -> bool:
    """Whether these are the digests of what lies there."""
    for name, digest in digests.items():
        content = fsops.look(f"{directory}/{name}") if os.path.basename(name) == name else None
        if content is None or str(Sum(content.data)) != digest:
            return False
    return bool(digests)


def _elsewhere(*directories: str) -> Iterator[str]:
    """Where a record may lie that was renamed or moved away: the last of these is the workflow's own."""
    for directory in dict.fromkeys((*directories, f"{directories[-1]}/{LOST_AND_FOUND}")):
        for name in sorted(fsops.entries(directory) or ()):
            yield f"{directory}/{name}"


def _candidates(store: Store, path: str, verbatim: str | None) -> Iterator[bytes]:
    spec = _specification(store, verbatim) if verbatim is not None else None
    if spec is not None and path == "jobs.jsonl":
        yield job_records(store.layout, spec)
    elif spec is not None and path == "actions.jsonl":
        yield b"".join(map(encode, spec.actions))
    elif spec is not None and path == "user_data.jsonl":
        yield user_data_record(spec.user_data, naming.user_data_files(datum.name for datum in spec.user_data))
    for other in _elsewhere(store.layout.root):
        with suppress(DamagedFile):
            content = fsops.look(other)
            if content is not None:
                yield content.data


def _specification(store: Store, name: str) -> WorkflowSpec | None:
    content = fsops.look(f"{store.layout.root}/{name}") if _VERBATIM.fullmatch(name) else None
    with suppress(TorcSpoolError):
        return specs.parse(content.data, name) if content is not None else None
    return None
