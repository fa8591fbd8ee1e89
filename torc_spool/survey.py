"""Reads a workflow's directory once, into a picture. Moves and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from torc_spool import actions, fsops, naming, userdata
from torc_spool.actor import decode_journal
from torc_spool.errors import BadName, DamagedFile, NotFound
from torc_spool.layout import ACTION_DIRECTORIES, FIXED_DIRECTORIES
from torc_spool.model import OUTCOMES, Job, Needs, Status
from torc_spool.picture import ActionFile, Event, JobFile, Known, Odd, OwnerDirectory, Picture, Runner
from torc_spool.store import Store

LOST_AND_FOUND = "lost+found"
_FILES = re.compile(r"workflow\.json|jobs\.jsonl|spec\.[a-z0-9]+|commands\.txt|user_data\.jsonl|actions\.jsonl|lock")
_DIRECTORIES = {*(path for path in FIXED_DIRECTORIES if "/" not in path), "slurm", LOST_AND_FOUND}
_TEMPORARY = re.compile(r"\..*\.tmp", re.DOTALL)
_NOT_A_JOB = "is not the file of a job of this workflow"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


def survey(store: Store) -> Picture:
    """What lies there now. Of a workflow that runners are at work in, some jobs may be seen twice or missed.

    Raises StorageError.
    """
    return _Survey(store).take()


class _Survey:
    """One walk through the tree."""

    def __init__(self, store: Store) -> None:
        self._store, self._root = store, store.layout.root
        known = known_of(store)
        self._picture = Picture(known, [], [], [], [], set(), [], {}, set(), {}, [], [], set(), {}, [])

    def take(self) -> Picture:
        self._look_at_root()
        # journals before jobs: what they tell is in the jobs' files already
        self._look_at_runners(self._store.layout.runners, "runners", taken=False)
        self._look_at_jobs()
        self._look_at_what_was_moved()
        for name in fsops.names(self._store.layout.requests):
            request = naming.parse_request(name)
            if request is None:
                self._foreign(f"requests/{name}", "is no request")
            else:
                self._picture.requests.append((f"requests/{name}", request))
        if self._store.workflow.num_actions:
            self._look_at_actions()
        self._look_at_user_data()
        return self._picture

    def _foreign(self, path: str, why: str) -> None:
        self._picture.foreign.append(Odd(path, why))

    # -- directories

    def _look_at_root(self) -> None:
        workflow = self._store.workflow
        directories, files = fsops.directories_and_files(self._root)
        wanted = [*FIXED_DIRECTORIES, *(ACTION_DIRECTORIES if workflow.num_actions else ())]
        wanted += [f"ready/{naming.scheduler_directory(each['name'])}" for each in workflow.schedulers]
        listed = {"": directories}
        for path in wanted:
            parent, _, name = path.rpartition("/")
            if parent not in listed:
                there = parent in directories
                listed[parent] = fsops.directories_and_files(f"{self._root}/{parent}")[0] if there else []
            if name not in listed[parent]:
                self._picture.missing.append(path)
        if "lock" not in files:
            self._picture.missing.append("lock")
        known = {*_DIRECTORIES, *(("actions",) if workflow.num_actions else ()), "user_data"}
        for name in directories:
            if name not in known and naming.parse_revision(name) is None:
                self._foreign(name, "is no directory of a workflow")
        for name in files:
            if _FILES.fullmatch(name) is None:
                self._foreign(name, "is no file of a workflow")

    def _directories(self, parent: str, why: str) -> list[str]:
        """The directories in one; files there are foreign."""
        directories, files = fsops.directories_and_files(f"{self._root}/{parent}")
        for name in files:
            self._foreign(f"{parent}/{name}", why)
        return directories

    # -- jobs

    def _look_at_jobs(self) -> None:
        workflow = self._store.workflow
        places: list[tuple[str, Status]] = [("blocked", Status.BLOCKED), ("held", Status.HELD)]
        schedulers = {naming.scheduler_directory(each["name"]) for each in workflow.schedulers} | {naming.ANY_SCHEDULER}
        for name in self._directories("ready", _NOT_A_JOB):
            if name in schedulers:
                places.append((f"ready/{name}", Status.READY))
            else:
                self._foreign(f"ready/{name}", "is the directory of no scheduler of this workflow")
        for status in (Status.PENDING, Status.RUNNING):
            for name in self._directories(str(status), _NOT_A_JOB):
                parts = naming.owners(name)
                if parts is None:
                    self._foreign(f"{status}/{name}", "is the directory of no runner")
                else:
                    self._picture.owners.append(OwnerDirectory(f"{status}/{name}", *parts))
                    places.append((f"{status}/{name}", status))
        for name in self._directories("done", _NOT_A_JOB):
            if name in OUTCOMES:
                places.append((f"done/{name}", Status(name)))
            else:
                self._foreign(f"done/{name}", "is the directory of no outcome")
        for directory, status in places:
            self._look_at_place(directory, status)

    def _look_at_place(self, directory: str, status: Status) -> None:
        owned = status in (Status.PENDING, Status.RUNNING)
        for filename in sorted(fsops.entries(f"{self._root}/{directory}") or ()):
            path = f"{directory}/{filename}"
            if filename.startswith("."):
                if not owned and _TEMPORARY.fullmatch(filename):
                    self._picture.temporaries.append(path)
                continue
            try:
                name = naming.parse_job(filename)
            except BadName:
                key = naming.aside_job_id(filename) if owned else None
                if key is None:
                    self._foreign(path, _NOT_A_JOB)
                else:
                    self._picture.aside.add(key[0])  # who makes a job anew holds the damaged file meanwhile
                continue
            if name.id > self._picture.known.num_jobs:
                self._foreign(path, f"is of job {name.id}, and the workflow has {self._picture.known.num_jobs}")
                continue
            self._picture.seen.add(name.id)
            try:
                content = self._store.read_job(f"{self._root}/{path}", name.id)
            except DamagedFile as damage:
                self._picture.files.append(JobFile(directory, filename, status, name, None, damage.why))
                continue
            if content is not None:
                self._picture.files.append(JobFile(directory, filename, status, name, content.job))

    # -- runners

    def _look_at_runners(self, directory: str, shown: str, *, taken: bool) -> None:
        for name in fsops.names(directory):
            if not naming.is_runner(name):
                self._foreign(f"{shown}/{name}", "is no runner's record")
                continue
            path = f"{directory}/{name}"
            end = self._store.runner_end(path)
            said = taken or self._store.runner_record(path) is not None
            runner = Runner(f"{shown}/{name}", end.state if end else None, said, _events(f"{path}/journal"))
            self._picture.runners[name] = runner
            for event in runner.journal:
                _raise(self._picture.kept, event.job, event.attempt)
            self._look_at_runners(f"{path}/taken", f"{shown}/{name}/taken", taken=True)

    # -- what was moved out of the way

    def _look_at_what_was_moved(self) -> None:
        layout = self._store.layout
        self._picture.aside.update(key[0] for name in fsops.names(layout.aside) if (key := naming.aside_job_id(name)))
        actions_aside = (naming.aside_action(name) for name in fsops.names(layout.aside))
        self._picture.actions_aside.update(name.number for name in actions_aside if name is not None)
        lost = f"{self._root}/{LOST_AND_FOUND}"
        inside = [f"{lost}/{name}" for name in fsops.directories_and_files(lost)[0]]
        for directory in (layout.aside, lost, *inside):
            for hidden in fsops.entries(directory) or ():
                name = hidden.lstrip(".")
                key = naming.aside_job_id(name) or naming.job_id(name)
                if key is not None:
                    _raise(self._picture.kept, *key)
                action = naming.aside_action(name)
                if action is not None:
                    _raise(self._picture.actions_kept, action.number, action.performance or 0)

    # -- actions and user data

    def _look_at_actions(self) -> None:
        for where in ("waiting", "running", "done", "persistent"):
            directory = actions.directory(self._store, where)
            for filename in sorted(fsops.entries(directory) or ()):
                path = f"actions/{where}/{filename}"
                if filename.startswith("."):
                    if _TEMPORARY.fullmatch(filename):
                        self._picture.temporaries.append(path)
                    continue
                name = naming.parse_action(filename)
                known = self._picture.known.actions.get(name.number) if name else None
                if name is None or known is None or not actions.belongs(name, where) or name.trigger != known.trigger:
                    self._foreign(path, "is not the file of an action of this workflow in this place")
                    continue
                try:
                    if self._store.read_action(f"{directory}/{filename}", name.number) is not None:
                        self._picture.actions.append(ActionFile(where, filename, name))
                except DamagedFile as damage:
                    self._foreign(path, damage.why)

    def _look_at_user_data(self) -> None:
        try:
            known = userdata.known(self._store)
        except DamagedFile as damage:
            self._picture.known.broken.append(Odd("user_data.jsonl", damage.why))
            return
        for datum in known:
            try:
                userdata.read(self._store, datum)
            except NotFound:
                self._picture.user_data.append(Odd(f"user_data/{datum.file}", "is gone"))
            except DamagedFile as damage:
                self._picture.user_data.append(Odd(f"user_data/{datum.file}", damage.why))


def _raise(highest: dict[int, int], key: int, number: int) -> None:
    highest[key] = max(highest.get(key, 0), number)


def _events(path: str) -> tuple[Event, ...]:
    try:
        content = fsops.read(path)
    except DamagedFile:
        return ()
    lines = decode_journal(content.data) if content else []
    return tuple(event for line in lines if (event := _event(line)) is not None)


def _event(line: dict[str, Any]) -> Event | None:
    job, attempt, outcome = line.get("id"), line.get("attempt"), line.get("outcome")
    if not (isinstance(job, int) and isinstance(attempt, int)):
        return None
    return Event(str(line.get("event")), job, attempt, outcome if isinstance(outcome, str) else None)


def known_of(store: Store) -> Known:
    """What the records say that never change; those that cannot be read are named."""
    workflow, layout = store.workflow, store.layout
    broken: list[Odd] = []
    needs: dict[int, set[Needs]] = {}
    jobs: dict[int, Job] = {}
    for number in range(store.revisions.number + 1):
        path = layout.jobs_file_of(number)
        jobs = {}
        for job in _lines(path, path.removeprefix(f"{layout.root}/"), Job, broken):
            jobs[job.id] = job
            needs.setdefault(job.id, set()).add(job.resources.needs)
    try:
        acts = {action.number: action for action in store.action_records()}
    except (DamagedFile, NotFound) as error:
        broken.append(Odd("actions.jsonl", getattr(error, "why", "is missing")))
        acts = {}
    return Known(
        workflow.num_jobs,
        workflow.num_edges,
        workflow.num_actions,
        workflow.jobs_sort_method,
        jobs,
        needs,
        acts,
        broken,
    )


def _lines(path: str, shown: str, kind: type[T], broken: list[Odd]) -> Iterable[T]:
    try:
        content = fsops.read(path)
        if content is not None:
            return msgspec.json.Decoder(kind).decode_lines(content.data)
        broken.append(Odd(shown, "is missing"))
    except DamagedFile as damage:
        broken.append(Odd(shown, damage.why))
    except _UNREADABLE as error:
        broken.append(Odd(shown, f"has a line that is no job ({error})"))
    return ()
