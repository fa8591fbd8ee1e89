"""Spools for tests: made from a few words, read by a reader of their own, held against the invariants of the format.

`read` knows the tree from `docs/spool-format.md` alone, and asks no code of the library but the grammar of the names.
`Hand` is a runner without processes: it claims, starts and records by the library's own steps, and invents results.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from torc_spool import fsops, naming, processes
from torc_spool.actor import Given, identity, new_name
from torc_spool.errors import BadName, Fenced, StorageError
from torc_spool.model import OUTCOMES, Action, Attempt, Job, RunnerRecord, Status, Trigger, WorkflowSpec
from torc_spool.naming import Cause, JobName
from torc_spool.recording import obey_late_wish
from torc_spool.select import Free, Offer
from torc_spool.served import Claimed, Served, serve_directories
from torc_spool.spool import Spool
from torc_spool.store import Store
from torc_spool.submission import Verbatim

RAN = (Status.COMPLETED, Status.FAILED, Status.TERMINATED)  # outcomes that only an execution has
WAITING = (Status.BLOCKED, Status.READY, Status.HELD)
OWNED = (Status.PENDING, Status.RUNNING)
READS = frozenset({"list", "open", "stat"})  # calls after which the disk is as it was before
FULL, BROKEN = errno.ENOSPC, errno.EIO
MEMORY = "/dev/shm"
VERBATIM = Verbatim(b"name: of a test\n")


# -- workflows


class Wanted(NamedTuple):
    """A job of a workflow to make: `true` completes, `false` fails, `once` fails the first time only."""

    command: str = "true"
    after: tuple[str, ...] = ()
    anyway: bool = False  # is not canceled when what it waits for does not complete
    scheduler: str | None = None
    priority: int = 0


class Do(NamedTuple):
    """An action of a workflow to make."""

    trigger: Trigger
    commands: tuple[str, ...] = ("true",)
    jobs: tuple[str, ...] = ()
    persistent: bool = False


def workflow(
    jobs: dict[str, Wanted], *, name: str = "test", schedulers: Collection[str] = (), actions: Collection[Do] = ()
) -> WorkflowSpec:
    """A specification as if it had been read from a file."""
    ids = {job: number for number, job in enumerate(jobs, 1)}
    return WorkflowSpec(
        name=name,
        schedulers=tuple({"name": scheduler} for scheduler in schedulers),
        jobs=tuple(
            Job(
                id=ids[job],
                name=job,
                command=wanted.command,
                priority=wanted.priority,
                scheduler=wanted.scheduler,
                depends_on=tuple(ids[other] for other in wanted.after),
                cancel_on_blocking_job_failure=not wanted.anyway,
            )
            for job, wanted in jobs.items()
        ),
        actions=tuple(
            Action(
                number=number,
                trigger=do.trigger,
                kind="run_commands",
                jobs=tuple(ids[job] for job in do.jobs),
                commands=do.commands,
                persistent=do.persistent,
            )
            for number, do in enumerate(actions, 1)
        ),
    )


def submit(spool: str, spec: WorkflowSpec) -> int:
    return Spool(spool).submit(spec, VERBATIM, cwd="/")


def open_workflow(spool: str, workflow_id: int = 1) -> Store:
    return Spool(spool).open_to_change(workflow_id)


def by_command(job: Job, attempt: int) -> Status:
    """What comes of a job, as its command says."""
    fails = job.command == "false" or (job.command == "once" and attempt == 1)
    return Status.FAILED if fails else Status.COMPLETED


# -- a reader of its own


class Seen(NamedTuple):
    """A job's file where it lies."""

    status: Status
    detail: str | None  # the scheduler's directory, or the owner's
    filename: str
    name: JobName
    data: bytes

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found

    @property
    def attempts(self) -> list[tuple[int, str | None]]:
        return [(entry["attempt"], entry.get("outcome")) for entry in self.content.get("attempts", [])]


class Tree(NamedTuple):
    """One workflow's directory, as it was read."""

    jobs: dict[int, list[Seen]]
    odd: list[str]  # what lies where only jobs may
    temporaries: list[str]
    aside: list[str]  # the hidden ones too
    requests: list[str]
    runners: dict[str, str]  # the directories of their records, at any depth
    owned: set[str]  # directories below pending/ and running/
    fixed: dict[str, bytes]
    actions: dict[int, list[str]]  # where the files of each are
    deleted: bool = False

    def one(self, job: int) -> Seen:
        (seen,) = self.jobs[job]
        return seen

    @property
    def evidence(self) -> set[int]:
        """The ids of the jobs that were set aside."""
        found = (naming.aside_job_id(name.removeprefix(".")) for name in self.aside)
        return {key[0] for key in found if key is not None}


def read(root: str) -> Tree:
    """Everything in a workflow's directory that is no output."""
    tree = Tree({}, [], [], [], [], {}, set(), {}, {}, not os.path.isdir(root))
    if tree.deleted:
        return tree
    _read_jobs(tree, f"{root}/blocked", Status.BLOCKED, None)
    _read_jobs(tree, f"{root}/held", Status.HELD, None)
    for directory in os.listdir(f"{root}/ready"):
        _read_jobs(tree, f"{root}/ready/{directory}", Status.READY, directory)
    for status in OWNED:
        for owner in os.listdir(f"{root}/{status}"):
            tree.owned.add(f"{status}/{owner}")
            if naming.owners(owner) is None:
                tree.odd.append(f"{root}/{status}/{owner}")
            _read_jobs(tree, f"{root}/{status}/{owner}", status, owner)
    for outcome in OUTCOMES:
        _read_jobs(tree, f"{root}/done/{outcome}", outcome, None)
    tree.aside.extend(os.listdir(f"{root}/aside"))
    tree.requests.extend(os.listdir(f"{root}/requests"))
    _read_runners(tree, f"{root}/runners")
    for where in ("waiting", "running", "done", "persistent") if os.path.isdir(f"{root}/actions") else ():
        for filename in os.listdir(f"{root}/actions/{where}"):
            name = naming.parse_action(filename)
            if name is not None:
                tree.actions.setdefault(name.number, []).append(f"{where}/{filename}")
            elif not filename.startswith("."):
                tree.odd.append(f"{root}/actions/{where}/{filename}")
    for fixed in ("workflow.json", "jobs.jsonl", "spec.yaml"):
        tree.fixed[fixed] = _bytes(f"{root}/{fixed}")
    return tree


def _read_jobs(tree: Tree, directory: str, status: Status, detail: str | None) -> None:
    for filename in os.listdir(directory):
        path = f"{directory}/{filename}"
        if filename.startswith("."):
            tree.temporaries.append(path)
            continue
        try:
            name = naming.parse_job(filename)
        except BadName:
            # an owner who makes a job anew holds the damaged file meanwhile
            if status in OWNED and naming.aside_job_id(filename) is not None:
                tree.aside.append(filename)
            else:
                tree.odd.append(path)
            continue
        tree.jobs.setdefault(name.id, []).append(Seen(status, detail, filename, name, _bytes(path)))


def _read_runners(tree: Tree, directory: str) -> None:
    for name in os.listdir(directory):
        if os.path.exists(f"{directory}/{name}/runner.json") or name not in tree.runners:
            known = tree.runners.get(name, "")
            assert not os.path.exists(f"{known}/runner.json"), f"I9: two runners are called {name}"
            tree.runners[name] = f"{directory}/{name}"
        if os.path.isdir(f"{directory}/{name}/taken"):
            _read_runners(tree, f"{directory}/{name}/taken")


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# -- the invariants


def check_invariants(
    root: str,
    before: Tree | None = None,
    *,
    by_hand: Collection[int] = (),
    early: Collection[int] = (),
    damaged: Collection[int] = (),
) -> Tree:
    """Hold a workflow's directory against I1 to I6, I9, I10, I12 and I13; returns what was read.

    With `before`, what an earlier call returned, also against what may have become of that. Jobs that a person moved
    `by_hand` may have kept their attempt, those that are `early` may be ready before what they wait for has ended, and
    those whose file was `damaged` need not be readable.
    """
    tree = read(root)
    if tree.deleted:
        return tree
    total = json.loads(tree.fixed["workflow.json"])["num_jobs"]
    records = [json.loads(line) for line in tree.fixed["jobs.jsonl"].splitlines()]
    assert not tree.odd, f"what is no job's file lies where only jobs may: {tree.odd}"
    assert set(tree.jobs) <= set(range(1, total + 1)), "I1: a job that was never submitted"
    for job in range(1, total + 1):
        seen = tree.jobs.get(job, [])
        places = [f"{found.status}/{found.detail or ''}/{found.filename}" for found in seen]
        assert len(seen) == 1 or (not seen and job in tree.evidence), f"I1: job {job} lies in {places}"
    evidence = {found.number for name in tree.aside if (found := naming.aside_action(name.removeprefix(".")))}
    for number in range(1, json.loads(tree.fixed["workflow.json"]).get("num_actions", 0) + 1):
        files = tree.actions.get(number, [])
        assert len(files) == 1 or (not files and number in evidence), f"I13: action {number} lies in {files}"
    for path in tree.temporaries:
        assert f"{root}/running/" in path or f"{root}/pending/" in path, f"{path}: a temporary that nobody owns"
    for (seen,) in (found for job, found in tree.jobs.items() if found and job not in damaged):
        _check_content(seen, tree, by_hand)
        if seen.status is Status.READY and seen.name.id not in early:
            _check_ready(records[seen.name.id - 1], tree, damaged)
    if before is not None and not before.deleted:
        _check_since(before, tree, by_hand)
    return tree


def _check_content(seen: Seen, tree: Tree, by_hand: Collection[int]) -> None:
    where = f"{seen.status}/{seen.detail or ''}/{seen.filename}"
    assert seen.content["id"] == seen.name.id, f"{where}: the name lies about the id"
    numbers = [number for number, _ in seen.attempts]
    assert numbers == sorted(set(numbers)), f"I3: {where}: attempts {numbers}"
    assert all(number <= seen.name.attempt for number in numbers), f"I3: {where}: attempts {numbers}"
    assert (seen.name.cause is None) or seen.status is Status.CANCELED or seen.name.id in by_hand, where
    recorded = dict(seen.attempts)
    if seen.status in RAN:
        assert recorded.get(seen.name.attempt) == seen.status, f"I2, I15: {where}: recorded are {seen.attempts}"
    elif seen.status is Status.CANCELED and seen.name.id not in by_hand:
        assert recorded.get(seen.name.attempt) in (None, Status.CANCELED), f"I2: {where}: recorded {seen.attempts}"
    elif seen.status in (*WAITING, Status.PENDING) and seen.name.id not in by_hand:
        assert seen.name.attempt not in recorded, f"I4: {where}: recorded are {seen.attempts}"
    _check_runners(seen, tree, where)


def _check_runners(seen: Seen, tree: Tree, where: str) -> None:
    """Who ran it may have claimed it."""
    scheduler = seen.content.get("scheduler")
    last = (seen.content.get("attempts") or [{}])[-1]
    if scheduler is None or last.get("outcome") not in RAN or last["attempt"] != seen.name.attempt:
        return
    if seen.status in (*WAITING, Status.PENDING):
        return  # moved back by hand, perhaps to another scheduler: t2 makes it a new attempt
    assert last["runner"] in tree.runners, f"I12: {where}: runner {last['runner']} is forgotten"
    path = f"{tree.runners[last['runner']]}/runner.json"
    if not os.path.exists(path):
        return  # it was lost, and a repair has said so
    record = json.loads(_bytes(path))
    serves = record.get("any_scheduler") or record.get("scheduler") == scheduler
    assert serves, f"I6: {where}: bound to {scheduler}, run by {record}"


def _check_ready(record: dict[str, Any], tree: Tree, damaged: Collection[int]) -> None:
    for awaited in record.get("depends_on", ()):
        if awaited in damaged or awaited not in tree.jobs:
            continue
        (seen,) = tree.jobs[awaited]
        outcomes = {outcome for _, outcome in seen.attempts if outcome} | ({seen.status} & {*OUTCOMES})
        # one that was canceled before it ran, and is to run again, has no result, but a later attempt
        ended = outcomes or seen.name.attempt > 1
        may = Status.COMPLETED in outcomes or (not record.get("cancel_on_blocking_job_failure", True) and ended)
        assert may, f"I5: job {record['id']} is ready, job {awaited} is {seen.status} and had {outcomes}"


def _check_since(before: Tree, tree: Tree, by_hand: Collection[int]) -> None:
    assert before.fixed == tree.fixed, "I10: what never changes has changed"
    assert set(before.runners) <= set(tree.runners), "I12: a runner's record is gone"
    kept = [name.removeprefix(".") for name in tree.aside]
    for name in before.aside:
        stem = name.removeprefix(".")
        assert any(other.startswith(stem) for other in kept), f"I12: {name} is gone from aside/"
    for job, (was,) in ((job, seen) for job, seen in before.jobs.items() if seen):
        for now in tree.jobs.get(job, []):
            assert now.name.attempt >= was.name.attempt, f"I4: job {job} went back to an older attempt: {was} {now}"
            same = now.name.attempt == was.name.attempt
            recalled = now.status is Status.RUNNING and now.attempts == was.attempts  # z2, g3: it may be put back
            if was.status in OUTCOMES and same and job not in by_hand and not recalled:
                assert (now.status, now.filename) == (was.status, was.filename), f"I2: {was} became {now}"
                if was.data != now.data:  # g3 may have raised the resources
                    told = [{**each.content, "resources": None} for each in (was, now)]
                    assert told[0] == told[1], f"I2: {was} became {now}"
            if was.status in OWNED and same and job not in by_hand:
                assert now.status not in WAITING, f"I4: {was} came back as {now}"


def check_spool(spool: str) -> list[int]:
    """Every visible workflow is whole, and its id is reserved (I9); returns their ids."""
    ids = []
    for name in os.listdir(spool):
        if name.startswith("."):
            continue
        parsed = naming.parse_workflow(name)
        assert parsed is not None, f"{name} is no workflow"
        assert os.path.isdir(f"{spool}/.ids/{parsed[0]}"), f"I9: id {parsed[0]} is not reserved"
        check_invariants(f"{spool}/{name}")
        ids.append(parsed[0])
    assert len(ids) == len(set(ids)), f"I9: {ids}"
    return sorted(ids)


def owned_by(tree: Tree, name: str) -> set[str]:
    """The directories that are a runner's, whoever has them in his hands."""
    return {path for path in tree.owned if naming.owners(path.split("/")[1])[1] == name}  # type: ignore[index]


# -- a runner without processes


def offer(slots: int) -> Offer:
    return Offer.idle(Free(1, 1), slots=slots, ignore_resources=True)


def result(runner: str, attempt: int, outcome: Status, reason: str | None = None) -> Attempt:
    return Attempt(
        attempt=attempt,
        outcome=outcome,
        return_code=0 if outcome is Status.COMPLETED else 1,
        reason=reason,
        runner=runner,
        start_time=time.time(),
        end_time=time.time(),
    )


class Hand:
    """A runner that invents its jobs' results. It lives as long as this process does."""

    def __init__(
        self,
        store: Store,
        *,
        scheduler: str | None = None,
        any_scheduler: bool = False,
        record: RunnerRecord | None = None,
    ) -> None:
        self.record = record or identity(new_name(), scheduler=scheduler, any_scheduler=any_scheduler)
        self.store, self.name = store, self.record.name
        self.served = Served(store, self.record, directories=serve_directories(store, scheduler, any_scheduler))
        self.actor = self.served.owner()
        self.running: dict[int, tuple[str, JobName, Claimed]] = {}  # by the job's id

    def claim(self, slots: int = 1) -> list[Claimed]:
        """Claim from a fresh view."""
        self.served.refresh()
        return self.served.claim(offer(slots))

    def start(self, claimed: Claimed) -> bool:
        if obey_late_wish(self.served, claimed):
            return False
        started = self.actor.start(claimed.filename, claimed.name, claimed.content)
        if started is not None:
            self.running[started[1].id] = (*started, claimed)
        return started is not None

    def take(self, *names: str) -> None:
        """Claim all there is and start those of these names; the others stay pending."""
        for claimed in self.claim(1000):
            if claimed.content.job.name in names:
                assert self.start(claimed)

    def record_result(self, job: int, outcome: Status, **fields: Any) -> bool:
        """f1, f2."""
        filename, name, claimed = self.running[job]
        attempt = msgspec.structs.replace(result(self.name, name.attempt, outcome), **fields)
        return self.actor.record_result(filename, claimed.content, attempt)

    def show(self, job: int, outcome: Status) -> bool:
        """f3."""
        filename, name, _ = self.running.pop(job)
        shown = self.actor.show(filename, outcome)
        if shown:
            self.actor.note({"event": "end", "id": job, "attempt": name.attempt, "outcome": outcome})
        return shown

    def retry(self, job: int, rule: int = 1) -> Given | None:
        """f1, f2 and f3': its failure handler has it run again."""
        filename, name, claimed = self.running.pop(job)
        failed = msgspec.structs.replace(result(self.name, name.attempt, Status.FAILED), retry_rule=rule)
        assert self.actor.record_result(filename, claimed.content, failed)
        given = self.actor.give_back(filename, name, claimed.content.job)
        self.actor.note({"event": "retry", "id": job, "attempt": name.attempt, "outcome": Status.FAILED})
        return given

    def finish(self, job: int, outcome: Status, **fields: Any) -> None:
        """f1 to f3, and what follows from what this runner knows."""
        name = self.running[job][1]
        assert self.record_result(job, outcome, **fields)
        assert self.show(job, outcome)
        if outcome is Status.CANCELED:
            self.served.obeyed(naming.Request(job=Cause(job, name.attempt)))
        self.served.add(self.served.settler.after(job, name.attempt, outcome))

    def work(self, outcome_of: Callable[[Job, int], Status] = by_command) -> None:
        """Everything that it may run, until there is nothing more to do."""
        self.served.recover()
        self.served.settle()
        while True:
            for claimed in self.served.claim(offer(1000)):
                if self.start(claimed):
                    filename, name, _ = self.running[claimed.name.id]
                    assert filename == str(name)
                    wished = Cause(name.id, name.attempt) in self.served.wishes()[0]
                    self.finish(name.id, Status.CANCELED if wished else outcome_of(claimed.content.job, name.attempt))
            if self.served.recover() or self.served.settle():
                continue
            self.served.refresh()
            if not self.served.has_fitting(offer(1)):
                break
        self.served.outcomes()
        if self.served.finished:
            self.served.sweep_requests()

    def leave(self) -> None:
        self.served.close(0)


def drain(
    spool: str, workflow_id: int = 1, *, outcome_of: Callable[[Job, int], Status] = by_command
) -> dict[str, Status]:
    """What the next runner makes of a workflow: the state of each job by its name, when it has left."""
    hand = Hand(open_workflow(spool, workflow_id), any_scheduler=True)
    hand.work(outcome_of)
    hand.leave()
    return states(hand.store.layout.root)


def states(root: str) -> dict[str, Status]:
    """The state of each job by its name; those that were set aside are left out."""
    return {seen.content["name"]: seen.status for (seen,) in read(root).jobs.values()}


# -- processes that die


class Ending(NamedTuple):
    """How a forked child ended."""

    how: str  # "killed", "done", "refused" (StorageError), "fenced"
    calls: int  # how many calls through fsops the operation had made
    text: str = ""


class Fault:
    """What goes wrong in a child: `at` the n-th call that counts, by death or by an error of that call.

    `when` says which calls count; all do by default.
    """

    def __init__(
        self,
        at: int = 0,
        *,
        error: int | None = None,
        when: Callable[[str, str], bool] = lambda _operation, _path: True,
        after: bool = False,
    ) -> None:
        self._at, self._error, self._when, self._after = at, error, when, after
        self._armed = False
        self.calls = 0

    def __call__(self, operation: str, path: str) -> None:
        if self._armed:
            die()
        if not self._when(operation, path):
            return
        self.calls += 1
        if self.calls != self._at:
            return
        if self._error is not None:
            raise OSError(self._error, os.strerror(self._error), path)
        if not self._after:
            die()
        self._armed = True

    def end(self) -> None:
        """The operation is through: a death after its last call is due."""
        if self._armed:
            die()


class TornWrite(Fault):
    """The n-th content is written in half; then the child dies, or the disk is full."""

    def __call__(self, operation: str, path: str) -> None:
        return

    @contextmanager
    def in_writes(self) -> Iterator[None]:
        whole = fsops._write_all

        def torn(descriptor: int, data: bytes) -> None:
            self.calls += 1
            if self.calls != self._at:
                whole(descriptor, data)
                return
            os.write(descriptor, data[: len(data) // 2])
            if self._error is not None:
                raise OSError(self._error, os.strerror(self._error))
            die()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fsops, "_write_all", torn)
            yield


def die() -> None:
    """The death of this process, with nothing that it could still do."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(prepare: Callable[[], Any], act: Callable[[Any], Any], fault: Fault | None = None) -> Ending:
    """Run `act(prepare())` in a child, where the fault strikes during `act`. Fails when the child shows a traceback."""
    back, out = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while a test framework has threads
        pid = os.fork()
    if pid == 0:
        _be_child(out, prepare, act, fault)
    os.close(out)
    with open(back, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return Ending("killed", 0)
    how, calls, message = text.split("\n", 2)
    assert how in ("done", "refused", "fenced"), f"a child ended with\n{message}"
    return Ending(how, int(calls), message)


def _be_child(out: int, prepare: Callable[[], Any], act: Callable[[Any], Any], fault: Fault | None) -> None:
    how, message = "traceback", ""
    try:
        context = prepare()
        fsops.fault = fault
        if isinstance(fault, TornWrite):
            with fault.in_writes():
                act(context)
        else:
            act(context)
        if fault is not None:
            fault.end()
        how = "done"
    except StorageError as error:
        how, message = "refused", str(error)
    except Fenced as error:
        how, message = "fenced", str(error)
    except BaseException:
        message = traceback.format_exc()
    finally:
        os.write(out, f"{how}\n{fault.calls if fault else 0}\n{message}".encode())
        os._exit(0)


def dead_runner(spool: str, live: Callable[[Hand], None], *, workflow_id: int = 1, any_scheduler: bool = True) -> str:
    """A runner that lived in a child which was then killed; returns its name."""
    store = open_workflow(spool, workflow_id)
    earlier = set(os.listdir(store.layout.runners))

    def act(hand: Hand) -> None:
        live(hand)
        die()

    ending = in_child(lambda: Hand(open_workflow(spool, workflow_id), any_scheduler=any_scheduler), act)
    assert ending.how == "killed", ending
    (name,) = set(os.listdir(store.layout.runners)) - earlier
    return name


# -- quick stand-ins


@contextmanager
def directory_in_memory(otherwise: Path) -> Iterator[Path]:
    """A directory for many small files: on a filesystem in memory where there is one."""
    if not os.access(MEMORY, os.W_OK):
        yield otherwise
        return
    path = tempfile.mkdtemp(prefix="torc-spool-", dir=MEMORY)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


@contextmanager
def without_syncs_and_searches() -> Iterator[None]:
    """The calls that take their time and change nothing here: bringing data to the disk, looking for processes."""

    def call(operation: str, path: str) -> None:
        with fsops.translated("sync", path):
            fsops.about_to(operation, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsops, "sync_filesystem", lambda path: call("sync", path))
        patch.setattr(fsops, "sync_directory", lambda path: call("fsync", path))
        patch.setattr(processes, "kill_marked", lambda *_arguments, **_options: 0)
        yield


def copy_tree(source: str, target: str) -> None:
    """A copy of directories and regular files; cheaper than `shutil.copytree`."""
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir():
                copy_tree(entry.path, f"{target}/{entry.name}")
            else:
                with open(f"{target}/{entry.name}", "xb") as file:
                    file.write(_bytes(entry.path))


def damage(path: str) -> None:
    """What a power loss may leave: a file cut short."""
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def find(root: str, job: str) -> str:
    """The path of a job's file, by the job's name."""
    for directory, _, files in os.walk(root):
        for filename in files:
            key = naming.job_id(filename)
            if key is not None and naming.parse_job(filename).slug == job:
                return f"{directory}/{filename}"
    raise AssertionError(f"no file of job {job} below {root}")
