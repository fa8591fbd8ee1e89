"""A spool: the directory that holds workflows. Find, open, submit, delete."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torc_spool import fsops, naming, recovery, submission
from torc_spool.errors import NotFound, UsageError
from torc_spool.inputs import check_inputs
from torc_spool.model import WorkflowSpec
from torc_spool.store import Instead, Store
from torc_spool.submission import Verbatim

ENVIRONMENT = "TORC_SPOOL_DIR"
DEFAULT = "spool"


def command(spool_path: str, words: str) -> str:
    """A command line for a person to paste: it names the spool where a bare command would look at another."""
    found = os.environ.get(ENVIRONMENT) or DEFAULT
    same = os.path.realpath(found) == os.path.realpath(spool_path)
    return f"torc-spool {words}" if same else f"torc-spool --spool {shlex.quote(spool_path)} {words}"


def nobody_works(store: Store, spool_path: str) -> str:
    """What to say, and to do, when no runner is at work."""
    workflow = store.workflow
    said = f"no runner is at work; start one with: {command(spool_path, f'run {workflow.id}')}"
    if workflow.schedulers:
        said += f", or in allocations: {command(spool_path, f'slurm schedule-nodes {workflow.id}')}"
    return said


class Found(NamedTuple):
    """A workflow's directory in a spool."""

    id: int
    slug: str
    root: str


class Spool:
    """A spool by its path. The directory need not exist before the first submit."""

    def __init__(self, path: str, *, allow_shared: bool = False, looked: str | None = None) -> None:
        self.path = naming.storable(os.path.abspath(path))
        self.allow_shared = allow_shared
        self._looked = looked or self.path

    @classmethod
    def find(
        cls,
        path: str | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        allow_shared: bool = False,
    ) -> Spool:
        """By the option, else by TORC_SPOOL_DIR, else ./spool."""
        if path:
            return cls(path, allow_shared=allow_shared, looked=f"{path} (from --spool)")
        named = environ.get(ENVIRONMENT)
        if named:
            return cls(named, allow_shared=allow_shared, looked=f"{named} (from {ENVIRONMENT})")
        looked = f"{os.path.abspath(DEFAULT)} (no --spool given, {ENVIRONMENT} not set)"
        return cls(DEFAULT, allow_shared=allow_shared, looked=looked)

    def workflows(self) -> list[Found]:
        """All workflows, in order of id. Raises NotFound when there is no spool."""
        listed = fsops.entries(self.path)
        if listed is None:
            raise NotFound(f"no spool at {self._looked}; name one with --spool, or submit something first")
        found = [
            Found(parsed[0], parsed[1], f"{self.path}/{name}")
            for name in listed
            if (parsed := naming.parse_workflow(name))
        ]
        return sorted(found)

    def open(self, workflow_id: int, *, instead: Instead | None = None) -> Store:
        """One workflow, to look at. Raises NotFound, DamagedFile."""
        workflows = self.workflows()
        for found in workflows:
            if found.id == workflow_id:
                return Store.open(found.root, allow_shared=self.allow_shared, instead=instead)
        has = ", ".join(str(found.id) for found in workflows[-8:]) or "none"
        raise NotFound(f"no workflow {workflow_id} in {self._looked}; there: {has}")

    def open_to_change(self, workflow_id: int) -> Store:
        """One workflow, to move its jobs or to run them. Raises UntrustedSpool too."""
        store = self.open(workflow_id)
        store.check_trust()
        return store

    def submit(
        self,
        spec: WorkflowSpec,
        verbatim: Verbatim,
        *,
        cwd: str | None = None,
        output_dir: str | None = None,
        ignore_missing_data: bool = False,
        hash_inputs: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Publish a validated spec; returns its id once that is durable.

        Raises SpecError when an input file that no job produces is not there, unless that is to be ignored,
        StorageError, UntrustedSpool.
        """
        where = naming.storable(os.getcwd() if cwd is None else cwd)
        if not ignore_missing_data:
            check_inputs(spec.jobs, where)
        output = None if output_dir is None else naming.storable(os.path.join(where, output_dir))
        if output is not None:
            fsops.make_output_directory(output)
        return submission.publish(
            self.path,
            spec,
            verbatim,
            cwd=where,
            output_dir=output,
            hash_inputs=hash_inputs,
            shared=self.allow_shared,
            progress=progress,
        )

    def delete(self, workflow_id: int, *, force: bool = False) -> None:
        """Remove a workflow and all that is in it. Refuses while a runner that may live holds its directories."""
        store = self.open_to_change(workflow_id)
        if not force:
            living = [
                owner.name for owner in recovery.scan(store, only_holders=True) if owner.state in ("alive", "silent")
            ]
            if living:
                raise UsageError(
                    f"workflow {workflow_id} has runners that may live: {', '.join(living)}; "
                    f"stop them first ({command(self.path, f'stop {workflow_id} RUNNER')}), or pass --force"
                )
        fsops.make_directory(f"{self.path}/{submission.TRASH}")
        trash = f"{self.path}/{submission.TRASH}/{naming.workflow_directory(workflow_id, 'deleted')}"
        if fsops.rename_directory(store.layout.root, trash):
            fsops.remove_tree(trash)
        submission.sweep(self.path)
