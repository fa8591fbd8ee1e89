"""Submit, run, watch and read from Python: the calls of the command line, with its rows and its errors.

Nothing here prints. What runners say goes to the log "torc_spool", or to a function that is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, TypeAlias, Unpack

import msgspec

from torc_spool import actions, changes, mend, reinitialize, remedies, repair, report, userdata, waiting, watching
from torc_spool import spec as specs
from torc_spool import spool as spools
from torc_spool.building import Job, Workflow
from torc_spool.changes import Changed
from torc_spool.errors import NotFound, SpecError, StorageError, UsageError
from torc_spool.ownprocess import LOGGER, RunnerProcess, RunOptions, RunResult
from torc_spool.plan import as_data
from torc_spool.report import Row
from torc_spool.store import Store
from torc_spool.submission import Verbatim

Names: TypeAlias = "str | int | Job | Iterable[str | int | Job]"


class Spool:
    """A spool by its path: else TORC_SPOOL_DIR, else ./spool. It need not exist before the first submit."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, allow_shared: bool = False) -> None:
        """`allow_shared`: work in a spool that others may write to; their commands may then run as you."""
        if path is None:
            self._spool = spools.Spool.find(allow_shared=allow_shared)
            return
        if not os.fspath(path):
            raise UsageError("the spool's path is empty; name a directory")
        self._spool = spools.Spool(os.fsdecode(path), allow_shared=allow_shared)

    @property
    def path(self) -> str:
        return self._spool.path

    def __repr__(self) -> str:
        return f"Spool({self.path!r})"

    def submit(
        self,
        workflow: Workflow,
        *,
        cwd: str | os.PathLike[str] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        ignore_missing_data: bool = False,
        hash_inputs: bool = False,
    ) -> SubmittedWorkflow:
        """Publish a workflow, all or nothing; it is durable on return. Jobs run in `cwd`, default: where we are.
        With `hash_inputs` runners note the SHA-256 of input files too, for `reinitialize(by_content=True)`.

        What of it is not acted on is noted in the log. Raises SpecError when it is not valid, or when an input file
        that no job produces is not there, unless that is to be ignored; StorageError, UntrustedSpool.
        """
        text, source = _text_of(workflow), workflow.source
        parsed = specs.parse(text, source)
        try:
            workflow_id = self._spool.submit(
                parsed,
                Verbatim(text, "spec.json", source=source),
                cwd=None if cwd is None else os.path.abspath(os.fsdecode(cwd)),
                output_dir=None if output_dir is None else os.path.abspath(os.fsdecode(output_dir)),
                ignore_missing_data=ignore_missing_data,
                hash_inputs=hash_inputs,
            )
        except SpecError as error:  # what only shows at the submit does not say where it came from
            raise SpecError(error.message, source=error.source or source, where=error.where) from error
        for note in parsed.notes:
            LOGGER.info("%s: %s", source, note)
        return SubmittedWorkflow(self, workflow_id)

    def workflows(self) -> list[SubmittedWorkflow]:
        """All workflows, in order of id. Raises NotFound when there is no spool."""
        return [SubmittedWorkflow(self, found.id) for found in self._spool.workflows()]

    def workflow(self, workflow_id: int) -> SubmittedWorkflow:
        """One workflow by its id. Raises NotFound, DamagedFile."""
        self.open(workflow_id)
        return SubmittedWorkflow(self, workflow_id)

    def run(self, **options: Unpack[RunOptions]) -> RunResult:
        """Run every workflow of the spool. See `SubmittedWorkflow.run`."""
        return self.start(**options).wait_in_foreground()

    def start(self, **options: Unpack[RunOptions]) -> RunnerProcess:
        """Run every workflow of the spool in the background. See `SubmittedWorkflow.start`."""
        return RunnerProcess(self.path, self._spool.allow_shared, None, options)

    def open(self, workflow_id: int, *, to_change: bool = False) -> Store:
        """The workflow's directories; for what this module has no call for. Raises NotFound, UntrustedSpool."""
        return self._spool.open_to_change(workflow_id) if to_change else self._spool.open(workflow_id)

    def delete(self, workflow_id: int, *, force: bool = False) -> None:
        """Remove a workflow. See `SubmittedWorkflow.delete`."""
        self._spool.delete(workflow_id, force=force)

    def _start(self, workflow_id: int, options: RunOptions) -> RunnerProcess:
        return RunnerProcess(self.path, self._spool.allow_shared, workflow_id, options)


class SubmittedWorkflow:
    """A workflow in a spool. Each call looks afresh: what it returns may have changed since.

    Jobs are named by their names, their ids or the `Job` that was submitted. Raises NotFound when it is deleted.
    """

    def __init__(self, spool: Spool, workflow_id: int) -> None:
        self.spool, self.id = spool, workflow_id

    def __repr__(self) -> str:
        return f"<workflow {self.id} in {self.spool.path}>"

    # -- look -----------------------------------------------------------------------------------------------

    def status(self) -> Row:
        """How it stands: what `torc-spool -f json status` shows."""
        return report.status(self._open())

    def jobs(self, *, statuses: Collection[str] = (), names: Collection[str] = ()) -> list[Row]:
        """A row for each job, in order of id; `statuses` and `names` (patterns with * and ?) narrow it."""
        return report.jobs(self._open(), statuses=_each_text(statuses), names=_each_text(names))

    def job(self, job: str | int | Job) -> Row:
        """Everything about one job, its attempts too."""
        store = self._open()
        return report.job(store, changes.find_jobs(store, _words(job))[0])

    def results(self) -> list[Row]:
        """A row for each recorded attempt, in order of job and attempt."""
        return report.results(self._open())

    def logs(
        self, job: str | int | Job, *, attempt: int | None = None, stream: Literal["stdout", "stderr"] = "stdout"
    ) -> str:
        """What a job has written so far; of the last attempt that was started where none is named. Raises NotFound."""
        row = self.job(job)
        ran = {entry["attempt"]: entry for entry in row["attempts"]}
        if row["pid"] is not None:
            ran[row["attempt"]] = row  # under way
        with_output = (number for number, entry in ran.items() if entry["stdout"] or entry["stderr"])
        wanted = max(with_output, default=max(ran, default=None)) if attempt is None else attempt
        if wanted not in ran:
            which = "output" if attempt is None else f"output of an attempt {attempt}"
            raise NotFound(f"job {row['name']} has no {which}: it is {row['status']}")
        path: str | None = ran[wanted][stream]
        if path is None:
            why = report.why_not_kept(row, ran[wanted], stream) or "not kept"
            raise NotFound(f"job {row['name']} has no {stream} of its attempt {wanted}: it was {why}")
        try:
            with open(path, "rb") as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError as error:
            raise NotFound(f"{stream} of job {row['name']} is no longer there: {path}") from error
        except OSError as error:
            raise StorageError("read", path, error.errno) from error

    def user_data(self, name: str) -> Any:
        """The value of a piece of user data as it is now. Raises NotFound, DamagedFile."""
        store = self._open()
        return msgspec.json.decode(userdata.read(store, userdata.find(store, name)).data)

    def actions(self) -> list[Row]:
        """A row for each action, in order of the specification."""
        return actions.rows(self._open())

    def plan(self) -> Row:
        """In which stages the jobs become ready: what `torc-spool -f json execution-plan` shows. Raises DamagedFile."""
        store = self._open()
        found, states = report.plan(store)
        return {"id": self.id, "name": store.workflow.name, **as_data(found, states)}

    def fsck(self) -> list[Row]:
        """What is not as the format says, a row each; none: it is sound. Raises StorageError."""
        return [finding._asdict() for finding in repair.look(self._open())]

    # -- run ------------------------------------------------------------------------------------------------

    def run(self, **options: Unpack[RunOptions]) -> RunResult:
        """Run it, with the options of `torc-spool run`, until there is nothing more that this runner may or can run.

        The runner is a process of its own. KeyboardInterrupt gives its jobs their notice, a second one ends them; it is
        raised when the runner has ended. When this process is killed the runner goes on. That jobs fail raises nothing:
        see the result. Raises UsageError, NotFound, UntrustedSpool, StorageError, RunnerLost.
        """
        return self.start(**options).wait_in_foreground()

    def start(self, **options: Unpack[RunOptions]) -> RunnerProcess:
        """As `run`, in the background; several may run at once. Used with `with`, it is stopped at the end."""
        return self.spool._start(self.id, options)

    def wait(
        self,
        timeout: float | None = None,
        *,
        poll: float = waiting.LONGEST_POLL_S,
        tell: Callable[[str], None] = LOGGER.info,
    ) -> Row:
        """The status, once every job has an outcome, or after `timeout` seconds: look at its `finished`.

        Whoever runs the jobs, on whatever machine. `poll` is the longest time between two looks.
        """
        return waiting.wait(self._open(), self.spool.path, timeout_s=timeout, longest_poll_s=poll, tell=tell)

    # -- change ---------------------------------------------------------------------------------------------

    def cancel(self, jobs: Names | None = None) -> list[Changed]:
        """Cancel these jobs; all that have not ended when none is given. See the result for what became of each."""
        store = self._open(to_change=True)
        changes.recover(store)
        return self._change(store, changes.cancel, jobs)

    def hold(self, jobs: Names | None = None) -> list[Changed]:
        """Park these waiting jobs, or all, until `release`."""
        return self._change(self._open(to_change=True), changes.hold, jobs)

    def release(self, jobs: Names | None = None) -> list[Changed]:
        """Let these held jobs go, or all."""
        return self._change(self._open(to_change=True), changes.release, jobs)

    def retry(self, jobs: Names | None = None) -> list[Changed]:
        """Run these jobs again, or all that failed or were terminated; those canceled because of them come back too."""
        return self._change(self._open(to_change=True), changes.retry, jobs)

    def set_priority(self, jobs: Names, priority: int) -> list[Changed]:
        """Give these waiting jobs another priority, 0 to 999999; higher is claimed first."""
        wanted = _words(jobs)
        return changes.set_priority(self._open(to_change=True), wanted, priority) if wanted else []

    def reinitialize(
        self, workflow: Workflow | None = None, *, by_content: bool = False, dry_run: bool = False
    ) -> list[Row]:
        """Let run again what no longer holds, and what waits for it: outputs that are gone, inputs that have changed,
        and, with the changed workflow, definitions. A row for each job, with the reasons. All or nothing.

        Raises SpecError, UsageError; then nothing was done.
        """
        wanted = None
        if workflow is not None:
            text = _text_of(workflow)
            wanted = (specs.parse(text, workflow.source), Verbatim(text, "spec.json", source=workflow.source))
        store = self._open(to_change=not dry_run)
        rows = reinitialize.reinitialize(store, wanted, by_content=by_content, dry_run=dry_run)
        return [row._asdict() for row in rows]

    def reset_status(self, *, failed: bool = False, dry_run: bool = False) -> list[Row]:
        """Let all jobs run again, or those that did not complete, and what follows. A row a job. Raises UsageError."""
        store = self._open(to_change=not dry_run)
        return [row._asdict() for row in reinitialize.reset_status(store, failed=failed, dry_run=dry_run)]

    def set_user_data(self, name: str, value: Any) -> None:
        """Put another value in place of one. Raises NotFound, and UsageError for what JSON cannot hold."""
        store = self._open(to_change=True)
        try:
            text = json.dumps(value, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise UsageError(f"user data {name}: {error}") from error
        userdata.update(store, userdata.find(store, name), text)

    def repeat_action(self, number: int, *, force: bool = False) -> None:
        """Have an action performed once more. Raises NotFound, UsageError."""
        actions.repeat(self._open(to_change=True), number, force=force)

    def stop(self, runner: str) -> str:
        """Ask a runner, on any host, to finish what it runs and end; returns its name. Its beginning will do."""
        return changes.stop_runner(self._open(to_change=True), runner)

    def recover(self, *, dead: Collection[str] = (), dry_run: bool = False) -> list[Row]:
        """Take back the work of dead runners: those known to be, and those in `dead`, because you know. A row a job."""
        store = self._open(to_change=not dry_run)
        steps, _owners = changes.recover(store, said_dead=_each_text(dead), dry_run=dry_run)
        return [step._asdict() for step in steps]

    def mend(
        self,
        *,
        memory_multiplier: float = remedies.MEMORY_MULTIPLIER,
        runtime_multiplier: float = remedies.RUNTIME_MULTIPLIER,
        max_retries: int = remedies.MAX_RETRIES,
        retry_unknown: bool = False,
        dry_run: bool = False,
    ) -> list[Row]:
        """Take back the work of dead runners, and have jobs run again that ran out of memory or time, with more of it.

        A row for each job that did not complete: its cause, what is done about it and why. Raises UsageError.
        """
        terms = remedies.Terms(memory_multiplier, runtime_multiplier, max_retries, retry_unknown)
        store = self._open(to_change=not dry_run)
        return [case.row() for case in mend.recover(store, terms, dry_run=dry_run).cases]

    def watch(
        self,
        *,
        recover: bool = False,
        memory_multiplier: float = remedies.MEMORY_MULTIPLIER,
        runtime_multiplier: float = remedies.RUNTIME_MULTIPLIER,
        max_retries: int = remedies.MAX_RETRIES,
        retry_unknown: bool = False,
        num_hpc_jobs: int = 1,
        timeout: float | None = None,
        poll: float = watching.LONGEST_POLL_S,
        tell: Callable[[str], None] = LOGGER.info,
    ) -> Row:
        """What `torc-spool -f json watch` shows, once every job has an outcome, or after `timeout` seconds.

        With `recover`, what ran out of memory or time is helped on the way, and nodes are asked for when none are left.
        """
        terms = remedies.Terms(memory_multiplier, runtime_multiplier, max_retries, retry_unknown)
        help_with = watching.Help(terms, num_hpc_jobs) if recover else None
        store = self._open(to_change=recover)
        seen = watching.watch(store, self.spool.path, help_with=help_with, poll_s=poll, timeout_s=timeout, tell=tell)
        return watching.rows(seen)

    def delete(self, *, force: bool = False) -> None:
        """Remove it with its results and its output. Refuses while runners may live, unless forced."""
        self.spool.delete(self.id, force=force)

    def _open(self, *, to_change: bool = False) -> Store:
        return self.spool.open(self.id, to_change=to_change)

    @staticmethod
    def _change(
        store: Store, change: Callable[[Store, Collection[str]], list[Changed]], jobs: Names | None
    ) -> list[Changed]:
        """An empty list of jobs means none of them; only None means all."""
        wanted = None if jobs is None else _words(jobs)
        return change(store, wanted or ()) if wanted is None or wanted else []


def _text_of(workflow: object) -> bytes:
    if not isinstance(workflow, Workflow):
        given = f"Workflow.from_file({workflow!r})" if isinstance(workflow, str | os.PathLike) else "Workflow(...)"
        raise UsageError(f"what is submitted must be a Workflow, not a {type(workflow).__name__}; give {given}")
    return workflow.text()


def _words(jobs: Names) -> list[str]:
    """Jobs as the command line names them."""
    each = [jobs] if isinstance(jobs, str | int | Job) else list(jobs)
    return [job.name if isinstance(job, Job) else str(job) for job in each]


def _each_text(texts: Collection[str]) -> Collection[str]:
    return [texts] if isinstance(texts, str) else texts
