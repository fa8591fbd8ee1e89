"""Reads a workflow's directory once, into a picture. Moves and writes nothing."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from torc_spool import actions, fsops, naming, userdata
from torc_spool.actor import decode_journal
from torc_spool.errors import BadName, DamagedFile, NotFound, StorageError
from torc_spool.known import known_of
from torc_spool.layout import ACTION_DIRECTORIES, FIXED_DIRECTORIES, IDS
from torc_spool.model import OUTCOMES, RAN, Allocation, RunnerEnd, RunnerRecord, Status
from torc_spool.picture import ActionFile, Event, JobFile, Odd, OwnerDirectory, Picture, Runner
from torc_spool.restore import LOST_AND_FOUND
from torc_spool.store import Store

T = TypeVar("T")

_FILES = re.compile(r"workflow\.json|jobs\.jsonl|spec\.[a-z0-9]+|commands\.txt|user_data\.jsonl|actions\.jsonl|lock")
_DIRECTORIES = {*(path for path in FIXED_DIRECTORIES if "/" not in path), "sick", "slurm", LOST_AND_FOUND}
_TEMPORARY = re.compile(r"\..*\.tmp", re.DOTALL)
_NOT_A_JOB = "is not the file of a job of this workflow"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOBODY = Runner("", None, False, frozenset())
_OF_A_RUNNER = ("runner.json", "heartbeat", "journal", "end.json")


def survey(store: Store) -> Picture:
    """What lies there now. Of a workflow that runners are at work in, some jobs may be seen twice or missed.

    Raises StorageError.
    """
    return _Survey(store).take()


class _Said(msgspec.Struct):
    id: int


class _Survey:
    """One walk through the tree."""

    def __init__(self, store: Store) -> None:
        self._store, self._root = store, store.layout.root
        known = known_of(store)
        self._picture = Picture(known, [], [], [], [], [], set(), [], {}, set(), set(), {}, [], [], set(), {}, [])
        self._top: list[str] = []  # the directories in the workflow's own

    def take(self) -> Picture:
        self._look_at_spool()
        self._look_at_root()
        self._look_at_records()
        # journals before jobs: what they tell is in the jobs' files already
        if self._is_directory("runners"):
            self._look_at_runners(self._store.layout.runners, "runners", taken=False)
        self._look_at_jobs()
        self._look_at_what_was_moved()
        for name in fsops.names(self._store.layout.requests) if self._is_directory("requests") else ():
            request = naming.parse_request(name)
            if request is None:
                self._foreign(f"requests/{name}", "is no request")
            else:
                self._picture.requests.append((f"requests/{name}", request))
        if self._store.workflow.num_actions:
            self._look_at_actions()
        self._look_at_user_data()
        self._look_at_allocations()
        return self._picture

    def _foreign(self, path: str, why: str) -> None:
        self._picture.foreign.append(Odd(path, why))

    # -- directories: through a symbolic link in the place of one nothing is looked at

    def _is_directory(self, path: str) -> bool:
        return path.split("/")[0] in self._top and path not in self._picture.missing

    def _listed(self, path: str) -> fsops.Listed:
        return fsops.listed(f"{self._root}/{path}")

    def _look_at_spool(self) -> None:
        """What of the spool itself is this workflow's."""
        spool, own = os.path.split(self._root)
        workflow = self._store.workflow
        if IDS not in _entries(spool):
            self._picture.missing.append(f"../{IDS}")
        if str(workflow.id) not in fsops.names(f"{spool}/{IDS}"):
            self._picture.missing.append(f"../{IDS}/{workflow.id}")
        for name in fsops.names(spool):
            parsed = naming.parse_workflow(name)
            if name != own and parsed is not None and parsed[0] == workflow.id:
                self._picture.astray.append(Odd(name, f"bears the id of this workflow too, which lies in {own}"))
        if own != naming.workflow_directory(workflow.id, workflow.name):
            self._picture.astray.append(Odd(own, f"is not the directory's name of workflow {workflow.name}"))

    def _look_at_records(self) -> None:
        """Those in the workflow's directory itself have been looked at with all that lies there."""
        for directory, wanted in self._picture.known.records.items():
            if directory:
                for found in self._listed(directory):
                    for name in set(found) - wanted:
                        self._foreign(f"{directory}/{name}", "is no record of a revision")

    def _look_at_root(self) -> None:
        workflow = self._store.workflow
        directories, files, links = self._listed("")
        self._top = directories
        wanted = [*FIXED_DIRECTORIES, *(ACTION_DIRECTORIES if workflow.num_actions else ())]
        wanted += [f"ready/{naming.scheduler_directory(each['name'])}" for each in workflow.schedulers]
        listed = {"": directories}
        for path in wanted:
            parent, _, name = path.rpartition("/")
            if parent not in listed:
                there = parent in directories
                listed[parent] = self._listed(parent).directories if there else []
            if name not in listed[parent]:
                self._picture.missing.append(path)
        if "lock" not in files:
            self._picture.missing.append("lock")
        known = {*_DIRECTORIES, *(("actions",) if workflow.num_actions else ()), "user_data"}
        for name in directories:
            if name not in known and naming.parse_revision(name) is None:
                self._foreign(name, "is no directory of a workflow")
        for name in (*files, *links):
            if _FILES.fullmatch(name) is None:
                self._foreign(name, "is a symbolic link" if name in links else "is no file of a workflow")

    def _directories(self, parent: str, why: str) -> list[str]:
        """The directories in one; all else there is foreign."""
        if not self._is_directory(parent):
            return []
        directories, files, links = self._listed(parent)
        for name in (*files, *links):
            self._foreign(f"{parent}/{name}", why)
        return directories

    # -- jobs

    def _look_at_jobs(self) -> None:
        workflow = self._store.workflow
        waiting = (("blocked", Status.BLOCKED), ("held", Status.HELD))
        places = [place for place in waiting if self._is_directory(place[0])]
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
        for filename in _entries(f"{self._root}/{directory}"):
            path = f"{directory}/{filename}"
            if filename.startswith("."):
                if not owned and _TEMPORARY.fullmatch(filename):
                    self._picture.temporaries.append(path)
                continue
            try:
                name = naming.parse_job(filename)
            except BadName:
                key = naming.aside_job_id(filename) if owned else None
                held = self._with_result(directory, filename, status) if status in RAN else None
                if held is not None:
                    self._picture.seen.add(held.name.id)
                    self._picture.files.append(held)
                elif key is None:
                    self._foreign(path, _NOT_A_JOB)
                else:
                    self._picture.aside.add(key[0])  # who makes a job anew holds the damaged file meanwhile
                continue
            if name.id > self._picture.known.num_jobs:
                self._foreign(path, f"is of job {name.id}, and the workflow has {self._picture.known.num_jobs}")
                continue
            self._picture.seen.add(name.id)
            try:
                content = self._store.look_at_job(f"{self._root}/{path}", name.id)
            except DamagedFile as damage:
                self._picture.files.append(JobFile(directory, filename, status, name, None, damage.why))
                continue
            if content is not None:
                self._picture.files.append(JobFile(directory, filename, status, name, content.job))

    def _with_result(self, directory: str, filename: str, status: Status) -> JobFile | None:
        """A file that has no name of a job, but is one, and holds the result that its directory shows."""
        path = f"{self._root}/{directory}/{filename}"
        try:
            found = fsops.look(path)
            said = None if found is None else msgspec.json.decode(found.data, type=_Said).id
            content = None if said is None else self._store.look_at_job(path, said)
            if content is None or not content.job.attempts:
                return None
            job, last = content.job, content.job.attempts[-1]
            if last.outcome != status or last.retry_rule is not None:
                return None
            needs = job.resources.needs
            name = naming.job_name(priority=job.priority, job=job.id, needs=needs, name=job.name, attempt=last.attempt)
            return JobFile(directory, filename, status, name, job)
        except (DamagedFile, BadName, *_UNREADABLE):
            return None

    # -- runners

    def _look_at_runners(self, directory: str, shown: str, *, taken: bool) -> None:
        names, files, links = fsops.listed(directory)
        takers = []
        for name in (*files, *links):
            self._foreign(f"{shown}/{name}", "is no runner's record")
        for name in sorted(names):
            path, what = f"{directory}/{name}", f"{shown}/{name}"
            if name in self._picture.runners:
                self._foreign(what, f"is there twice, and in {self._picture.runners[name].path}")
                continue
            if not naming.is_runner(name):
                self._foreign(what, "is no runner's record")
                continue
            record = self._record(path, what, "runner.json", RunnerRecord)
            if record is not None and record.name != name:
                self._foreign(what, "is the record of another runner")
                continue
            has = self._listed_of_runner(path, what)
            if "taken" in has.directories:
                takers.append(name)
            end = self._record(path, what, "end.json", RunnerEnd)
            lines = self._journal(path, what)
            if any(not isinstance(line.get("event"), str) for line in lines):
                self._foreign(f"{what}/journal", "has lines that are none of a journal")
            events = tuple(event for line in lines if (event := _event(line)) is not None)
            unsaid = {file for file, said in (("runner.json", record), ("end.json", end)) if said is None}
            there = {*has.files} & {*_OF_A_RUNNER} - unsaid
            said = taken or record is not None
            self._picture.runners[name] = Runner(what, end.state if end else None, said, frozenset(there), events)
            self._remember(lines)
        for name in takers:
            if self._picture.runners.get(name, _NOBODY).path == f"{shown}/{name}":
                self._look_at_runners(f"{directory}/{name}/taken", f"{shown}/{name}/taken", taken=True)

    def _listed_of_runner(self, path: str, shown: str) -> fsops.Listed:
        listed = fsops.listed(path)
        known = {*listed.directories} & {"taken", "revision"} | {*listed.files} & {*_OF_A_RUNNER}
        for name in {*listed.directories, *listed.files, *listed.links} - known:
            self._foreign(f"{shown}/{name}", "is nothing that a runner has")
        return listed

    def _journal(self, path: str, shown: str) -> list[dict[str, Any]]:
        try:
            return _lines(f"{path}/journal")
        except DamagedFile as damage:
            self._foreign(f"{shown}/journal", damage.why)
            return []

    def _record(self, path: str, shown: str, name: str, kind: type[T]) -> T | None:
        """None where it is not there, or cannot be read: then it is foreign."""
        try:
            content = fsops.look(f"{path}/{name}")
            return None if content is None else msgspec.json.decode(content.data, type=kind)
        except DamagedFile as damage:
            self._foreign(f"{shown}/{name}", damage.why)
        except _UNREADABLE as error:
            self._foreign(f"{shown}/{name}", f"cannot be read ({error})")
        return None

    def _remember(self, lines: list[dict[str, Any]]) -> None:
        """The attempts of which a journal tells, and the revisions."""
        for line in lines:
            event, number = _event(line), line.get("number")
            if event is not None:
                _raise(self._picture.kept, event.job, event.attempt)
            elif line.get("event") == "revision" and isinstance(number, int):
                self._picture.revisions.add(number)

    # -- what was moved out of the way

    def _look_at_what_was_moved(self) -> None:
        lost = f"{self._root}/{LOST_AND_FOUND}"
        moved: list[str] = []
        if self._is_directory("aside"):
            aside = fsops.names(self._store.layout.aside)
            self._picture.aside.update(key[0] for name in aside if (key := naming.aside_job_id(name)))
            actions_aside = (naming.aside_action(name) for name in aside)
            self._picture.actions_aside.update(name.number for name in actions_aside if name is not None)
            moved.append(self._store.layout.aside)
        if LOST_AND_FOUND in self._top:
            moved += [lost, *(f"{lost}/{name}" for name in self._listed(LOST_AND_FOUND).directories)]
        for directory in moved:
            for hidden in _entries(directory):
                name = hidden.lstrip(".")
                key = naming.aside_job_id(name) or naming.job_id(name)
                if key is not None:
                    _raise(self._picture.kept, *key)
                elif name.startswith("journal~"):
                    with suppress(DamagedFile):
                        self._remember(_lines(f"{directory}/{hidden}"))
                action = naming.aside_action(name)
                if action is not None:
                    _raise(self._picture.actions_kept, action.number, action.performance or 0)

    # -- actions and user data

    def _look_at_actions(self) -> None:
        for found in self._listed("actions") if self._is_directory("actions") else ():
            for stranger in {f"actions/{name}" for name in found} - {*ACTION_DIRECTORIES}:
                self._foreign(stranger, "is no directory of actions")
        is_broken = any(odd.path == "actions.jsonl" for odd in self._picture.known.broken)
        for where in ("waiting", "running", "done", "persistent"):
            if not self._is_directory(f"actions/{where}"):
                continue
            directory = actions.directory(self._store, where)
            for filename in _entries(directory):
                path = f"actions/{where}/{filename}"
                if filename.startswith("."):
                    if _TEMPORARY.fullmatch(filename):
                        self._picture.temporaries.append(path)
                    continue
                name = naming.parse_action(filename)
                known = self._picture.known.actions.get(name.number) if name else None
                if known is None and name is not None and is_broken:
                    continue  # nothing can be told of it
                if name is None or known is None or not actions.belongs(name, where) or name.trigger != known.trigger:
                    self._foreign(path, "is not the file of an action of this workflow in this place")
                    continue
                try:
                    if self._store.read_action(f"{directory}/{filename}", name.number, read=fsops.look) is not None:
                        self._picture.actions.append(ActionFile(where, filename, name))
                except DamagedFile as damage:
                    self._foreign(path, damage.why)

    def _look_at_allocations(self) -> None:
        directory = self._store.layout.slurm
        for name in fsops.names(directory) if "slurm" in self._top else ():
            record = self._record(directory, "slurm", name, Allocation)
            if record is not None and record.job_id != naming.parse_allocation(name):
                self._foreign(f"slurm/{name}", "is the record of another allocation")

    def _look_at_user_data(self) -> None:
        try:
            known = userdata.known(self._store)
        except DamagedFile as damage:
            if all(odd.path != "user_data.jsonl" for odd in self._picture.known.broken):
                self._picture.known.broken.append(Odd("user_data.jsonl", damage.why))
            return
        for datum in known:
            try:
                if "user_data" not in self._top:
                    raise NotFound(datum.file)
                userdata.read(self._store, datum)
            except NotFound:
                self._picture.user_data.append(Odd(f"user_data/{datum.file}", "is gone"))
            except DamagedFile as damage:
                self._picture.user_data.append(Odd(f"user_data/{datum.file}", damage.why))


def _raise(highest: dict[int, int], key: int, number: int) -> None:
    highest[key] = max(highest.get(key, 0), number)


def _entries(path: str) -> list[str]:
    """All names, also hidden ones, in order; none where a file lies in the place of the directory."""
    try:
        return sorted(fsops.entries(path) or ())
    except StorageError as error:
        if error.errno != errno.ENOTDIR:
            raise
        return []


def _lines(journal: str) -> list[dict[str, Any]]:
    """Raises DamagedFile."""
    content = fsops.look(journal)
    return decode_journal(content.data) if content else []


def _event(line: dict[str, Any]) -> Event | None:
    job, attempt, outcome = line.get("id"), line.get("attempt"), line.get("outcome")
    if not (isinstance(job, int) and isinstance(attempt, int)):
        return None
    return Event(str(line.get("event")), job, attempt, outcome if isinstance(outcome, str) else None)
