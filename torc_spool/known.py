"""What a workflow's own records say that never change, and whether they are as they were written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

import msgspec

from torc_spool import fsops
from torc_spool.contents import decode_workflow
from torc_spool.digest import Sum
from torc_spool.errors import DamagedFile
from torc_spool.layout import Layout
from torc_spool.model import Action, Job, Needs
from torc_spool.picture import Known, Odd
from torc_spool.restore import restored, workflow_record
from torc_spool.store import Store
from torc_spool.submission import COPY

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


def known_of(store: Store) -> Known:
    """Reads them all; those that are not as they were submitted are named, and what they say is left out."""
    records, workflow = _Records(store.layout.root), store.workflow
    directories = ["", *(f"revision-{number}/" for number in range(1, store.revisions.number + 1))]
    names: dict[str, set[str]] = {}
    needs: dict[int, set[Needs]] = {}
    jobs: dict[int, Job] = {}
    for directory in directories:
        names[directory.rstrip("/")] = records.check(directory)
        jobs = {job.id: job for job in records.lines(f"{directory}jobs.jsonl", Job)}
        for job in jobs.values():
            needs.setdefault(job.id, set()).add(job.resources.needs)
    acts = records.lines("actions.jsonl", Action) if workflow.num_actions else ()
    return Known(
        workflow.num_jobs,
        workflow.num_edges,
        workflow.num_actions,
        workflow.jobs_sort_method,
        store.revisions.number,
        jobs,
        needs,
        {action.number: action for action in acts},
        names,
        [Odd(path, why) for path, why in records.broken.items()],
        _restored(store, records),
    )


def _restored(store: Store, records: _Records) -> dict[str, bytes]:
    """What of the broken can be told from the rest."""
    whole = {name for name in records.digests if name not in records.broken}
    verbatim = next((name for name in sorted(whole) if name.startswith("spec.")), None)
    found = dict(records.restored)
    for path in records.digests.keys() & records.broken.keys():
        data = restored(store, path, records.digests[path], verbatim)
        if data is not None:
            found[path] = data
    return found


class _Records:
    """Reads the files below one root, and remembers which are broken."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._whole: dict[str, bytes] = {}
        self.broken: dict[str, str] = {}
        self.restored: dict[str, bytes] = {}  # what of these held which tell the digests of others
        self.digests: dict[str, str] = {}  # of the records of the first definition, by name

    def check(self, directory: str) -> set[str]:
        """Hold the files of a directory against the digests in its workflow.json; returns the names that it has."""
        digests = self._digests(directory)
        if not directory:
            self.digests = {name: digest for name, digest in digests.items() if os.path.basename(name) == name}
        for name, digest in digests.items():
            if os.path.basename(name) == name:
                content = self._read(f"{directory}{name}")
                if content is not None and str(Sum(content)) != digest:
                    self.broken[f"{directory}{name}"] = "is not as it was submitted: its digest is another"
        return {"workflow.json", "jobs.jsonl", *digests}

    def _digests(self, directory: str) -> dict[str, str]:
        """Those in the `workflow.json` of a directory, or in what it held; the copy of it must say the same."""
        name, copy = f"{directory}workflow.json", f"{directory}{COPY}"
        layout = Layout(self._root)
        layout.workflow_file = f"{self._root}/{name}"
        data = self._read(name)
        try:
            if data is None:
                raise DamagedFile(name, self.broken[name])
            workflow = decode_workflow(data, name, layout.workflow_id)
        except DamagedFile as damage:
            self.broken[name] = damage.why
            with suppress(DamagedFile):
                self.restored[name] = workflow_record(layout, damage).data
                return decode_workflow(self.restored[name], name).digests
            return {}
        if self._read(copy) == data or self.broken.get(copy) == "is missing":  # a spool may be older than the copies
            self.broken.pop(copy, None)
            return workflow.digests
        self.broken[copy] = f"is not as {name}, of which it is the copy"
        if not self._is_of(copy, layout.workflow_id):
            self.restored[copy] = data
        return workflow.digests

    def _is_of(self, path: str, workflow_id: int | None) -> bool:
        """Whether it may be right in spite of another that says something else."""
        with suppress(DamagedFile):
            decode_workflow(self._whole.get(path, b""), path, workflow_id)
            return True
        return False

    def lines(self, path: str, kind: type[T]) -> Iterable[T]:
        """What a record says, a line each; nothing where it is broken."""
        data = self._read(path)
        if data is None or path in self.broken:
            return ()
        try:
            return msgspec.json.Decoder(kind).decode_lines(data)
        except _UNREADABLE as error:
            self.broken[path] = f"has a line that is no {kind.__name__.lower()} ({error})"
            return ()

    def _read(self, path: str) -> bytes | None:
        if path in self.broken:
            return None
        if path not in self._whole:
            try:
                content = fsops.look(f"{self._root}/{path}")
                if content is not None:
                    self._whole[path] = content.data
                    return content.data
                self.broken[path] = "is missing"
            except DamagedFile as damage:
                self.broken[path] = damage.why
            return None
        return self._whole[path]
