"""A process that owns jobs: a runner, or a command that takes work into its own hands.

Its directories are made once, at its birth. When they are gone, others hold its work: it is fenced, and records
nothing more.
"""

from __future__ import annotations

import errno
import os
import pwd
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from torc_spool import fsops, lease, naming, processes
from torc_spool.contents import Content, encode, with_attempt
from torc_spool.errors import Fenced, StorageError
from torc_spool.lifecycle import Move
from torc_spool.model import Attempt, Decision, Job, RunnerEnd, RunnerRecord, Status
from torc_spool.naming import Cause, JobName, Request
from torc_spool.scratch import Scratch
from torc_spool.select import Entry
from torc_spool.store import Place, Store

_MOMENT_S = 1.0  # for so long a sign of life tells the filesystem's time, too


def user_name() -> str:
    """Who runs this process, by name where it has one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def identity(name: str, *, lease_s: float = lease.DEFAULT_S, **what: Any) -> RunnerRecord:
    """The record by which others can tell whether this process lives."""
    pid = os.getpid()
    return RunnerRecord(
        name=name,
        host=processes.host_name(),
        pid=pid,
        pid_start=processes.start_time(pid) or "",
        boot_id=processes.boot_id(),
        pid_namespace=processes.pid_namespace(),
        lease_s=lease_s,
        heartbeat_s=lease.heartbeat_s(lease_s),
        started=time.time(),
        user=user_name(),
        **what,
    )


class Taking(NamedTuple):
    """The work of a dead runner that is being taken back."""

    evidence: str | None
    walltime: str | None  # as in `recovery.Owner`
    cause: str  # the same
    places: dict[str, Place]  # what is in hand, by file name, and not given away yet
    decided: list[Decision]  # what became of the rest


class Given(NamedTuple):
    """What became of a job that was given back."""

    entry: Entry | None  # where it is ready
    outcome: Status | None  # canceled, where somebody wanted that


def next_attempt(name: JobName) -> JobName:
    """The name under which a job that is given back can be claimed."""
    return name._replace(attempt=name.attempt + 1, cause=None)


class Actor:
    """An owner of `pending/<name>` and `running/<name>` in one workflow. Make one with `born`."""

    def __init__(self, store: Store, record: RunnerRecord, journal: int) -> None:
        self.store, self.record, self.name = store, record, record.name
        self.pending = store.layout.owned(Status.PENDING, record.name)
        self.running = store.layout.owned(Status.RUNNING, record.name)
        self.directory = store.layout.runner(record.name)
        self.lease = lease.Lease(record.lease_s)
        self._heartbeat = f"{self.directory}/heartbeat"
        self._filesystem_now: float | None = None  # at the last sign of life
        self._journal, self._unsaid = journal, b""
        self.taking: dict[str, Taking] = {}  # by name of the dead
        self._scratch = Scratch(self.running, store.file_mode)

    @classmethod
    def born(cls, store: Store, record: RunnerRecord) -> Actor:
        """Make the owner's directories (b1 to b6). Raises StorageError; Fenced when it was declared dead meanwhile."""
        announce(store, record)
        return cls.begin(store, record)

    @classmethod
    def begin(cls, store: Store, record: RunnerRecord) -> Actor:
        """b2 to b6, once it is announced. Where the filesystem refuses it, it can be tried again. Raises as `born`."""
        directory = store.layout.runner(record.name)
        if not fsops.replace(directory, "runner.json", encode(record), store.file_mode):
            raise _missing(store, record.name, directory)
        try:
            fsops.create(f"{directory}/heartbeat", b"", store.file_mode)
            journal = fsops.open_append(f"{directory}/journal", store.file_mode)
        except StorageError as error:
            if error.errno in fsops.GONE:
                raise _missing(store, record.name, directory) from error
            raise
        try:
            _make_own(store, record.name)
        except (Fenced, StorageError):
            fsops.close(journal, f"{directory}/journal")
            raise
        return cls(store, record, journal)

    # -- the life of a job ----------------------------------------------------------------------------------

    def claim(self, entry: Entry) -> bool:
        """c1: True when the job is this owner's now. False proves nothing yet: ask `not_claimed`. Raises Fenced."""
        self.assure()
        source = f"{self.store.layout.ready}/{entry.directory}/{entry.name}"
        return fsops.rename(source, f"{self.pending}/{entry.name}")

    def holds(self) -> set[str]:
        """The names of what it has claimed and not started, by a fresh listing. Raises Fenced."""
        return set(self._own(self.pending))

    def not_claimed(self, entries: list[Entry]) -> set[Entry]:
        """Which of these claims were lost, by a fresh listing of one's own directory. Raises Fenced."""
        own = set(self._own(self.pending))
        return {entry for entry in entries if entry.name not in own}

    def load(self, filename: str, job_id: int, status: Status = Status.PENDING) -> Content | None:
        """t1: the content of a job of one's own. Raises DamagedFile."""
        return self.store.read_job(f"{self._owned(status)}/{filename}", job_id)

    def start(self, filename: str, name: JobName, content: Content) -> tuple[str, JobName] | None:
        """t2: pending to running, with a higher attempt where the file already holds this one's result.

        None when the file is gone: somebody moved it by hand. Raises Fenced.
        """
        self.assure()
        recorded = content.job.attempts[-1].attempt if content.job.attempts else 0
        if recorded >= name.attempt:
            name = name._replace(attempt=recorded + 1)
        if name.cause is not None:
            name = name._replace(cause=None)
        target = str(name)
        try:
            if fsops.rename(f"{self.pending}/{filename}", f"{self.running}/{target}"):
                return target, name
        except StorageError:
            if target in self._own(self.running):
                return target, name  # it was refused, and happened all the same
            raise
        if target in self._own(self.running):
            return target, name
        self._check_gone(self.pending, filename)
        return None

    def record_result(self, filename: str, content: Content, attempt: Attempt) -> bool:
        """f1, f2: the result is in the file. False when the file is gone by hand. Raises Fenced, StorageError."""
        self.assure()
        data = with_attempt(content, attempt)
        if self._scratch.replace(filename, data):
            return True
        if filename not in self._own(self.running):
            return False
        # a reply was lost: if the result is not there it is written anew
        written = fsops.read(f"{self.running}/{filename}")
        if (written is not None and written.data == data) or self._scratch.replace(filename, data):
            return True
        self._check_gone(self.running, filename)
        return False

    def record_lost(self, place: Place, content: Content, attempt: Attempt) -> bool:
        """f1, f2 for a job of one's own that did not run here. Raises Fenced, StorageError."""
        self.assure()
        own, data = self._owned(place.status), with_attempt(content, attempt)
        if fsops.replace(own, place.filename, data, self.store.file_mode):
            return True
        self._check_gone(own, place.filename)
        return False

    def show(self, filename: str, outcome: Status, status: Status = Status.RUNNING) -> bool:
        """f3: the outcome is shown. False when the file is gone by hand. Raises Fenced."""
        self.assure()
        source, target = f"{self._owned(status)}/{filename}", f"{self.store.layout.outcome(outcome)}/{filename}"
        if fsops.rename(source, target):
            return True
        self._check_gone(self._owned(status), filename)
        return filename in fsops.names(self.store.layout.outcome(outcome))

    def give(self, filename: str, name: JobName, job: Job, status: Status) -> bool:
        """Back to ready, as the next attempt. Raises Fenced."""
        self.assure()
        ready = self.store.layout.ready_for(job.scheduler)
        if fsops.rename(f"{self._owned(status)}/{filename}", f"{ready}/{next_attempt(name)}"):
            return True
        self._check_gone(self._owned(status), filename)
        return False

    def give_back(self, filename: str, name: JobName, job: Job) -> Given | None:
        """Give back a job that runs here, and heed a wish to cancel it that was made in that very instant.

        None when its file is gone by hand. Raises Fenced, StorageError.
        """
        given = Given(Entry(str(next_attempt(name)), self.store.ready_detail(job)), None)
        if not self.give(filename, name, job, Status.RUNNING) and str(next_attempt(name)) not in fsops.names(
            self.store.layout.ready_for(job.scheduler)
        ):
            return None  # else a reply was lost
        wish = str(Request(job=Cause(name.id, name.attempt)))
        with suppress(StorageError):  # the job is given: who asked looks again himself, if he lives
            if wish in fsops.names(self.store.layout.requests):
                given = Given(None, Status.CANCELED if self.cancel_given(name, job) else None)
                fsops.remove_file(f"{self.store.layout.requests}/{wish}")
        return given

    def cancel_given(self, name: JobName, job: Job) -> bool:
        """Cancel a job that was just given back. False when somebody has it already: he is asked to."""
        given = next_attempt(name)
        place = Place(Status.READY, self.store.ready_detail(job), str(given), given)
        if self.store.move(Move.CANCEL, place, Status.CANCELED) is not None:
            return True
        request = Request(job=Cause(given.id, given.attempt))
        fsops.create(f"{self.store.layout.requests}/{request}", b"", self.store.file_mode)
        return False

    def check_owned(self, status: Status) -> None:
        """Raises Fenced when this owner's directory is gone."""
        self._own(self._owned(status))

    # -- the life of the owner ------------------------------------------------------------------------------

    def beat(self) -> None:
        """A sign of life, and a look whether this owner has been fenced. Raises Fenced, StorageError."""
        if self._sign():
            self._own(self.running)
        else:
            self._look_whether_fenced()

    def keep(self) -> None:
        """A sign of life, if one is due: for work that may take long. Raises Fenced, StorageError."""
        if self.lease.age_s >= lease.heartbeat_s(self.record.lease_s):
            self.beat()

    def assure(self) -> None:
        """Before anything is claimed, recorded or given: whose lease has lapsed looks whether others hold his work.

        Raises Fenced; StorageError, and then nothing may be moved.
        """
        if self.lease.lapsed:
            self._look_whether_fenced()

    def filesystem_now(self) -> float | None:
        """The time by the clock of the spool's filesystem: that of a sign of life. None when it could not be given."""
        if self.lease.age_s >= _MOMENT_S or self._filesystem_now is None:
            self._sign()
        return self._filesystem_now

    def _sign(self) -> bool:
        """Touch the heartbeat; False when the one before was too long ago, or the file is gone. Raises StorageError."""
        began = self.lease.now()
        self._filesystem_now = fsops.touched(self._heartbeat)
        return self._filesystem_now is not None and self.lease.beat(began, self._filesystem_now)

    def _look_whether_fenced(self) -> None:
        """By fresh listings of what its directories lie in: the old path of a directory that was renamed may still
        lead to it for half a minute (NFS). Raises Fenced, StorageError."""
        layout = self.store.layout
        for parent, own in ((layout.running, self.running), (layout.pending, self.pending)):
            self._look_for(parent, own)
        self._look_for(layout.runners, self.directory)

    def _look_for(self, parent: str, own: str) -> None:
        found = fsops.entries(parent)
        if found is None:
            raise self._lost(own)
        if self.name not in found:
            raise Fenced(self.name, own)

    def _lost(self, directory: str) -> Fenced | StorageError:
        """What it means that a directory of one's own cannot be listed. While the lease lasts nobody else can have it:
        then a filesystem that is away for a moment is waited for."""
        return Fenced(self.name, directory) if self.lease.lapsed else _missing(self.store, self.name, directory)

    def note(self, event: dict[str, Any]) -> None:
        """A line in the journal. A journal decides nothing: what a full disk refuses waits for the next line."""
        self._unsaid += encode(event)
        self._say()

    def _say(self) -> None:
        with suppress(OSError):
            while self._unsaid:
                self._unsaid = self._unsaid[os.write(self._journal, self._unsaid) :]

    def retire(self, exit_code: int | None = None, *, clock: Callable[[], float] = time.time) -> bool:
        """e1 to e3. False when jobs are left in its directories, or work of the dead in its hands: for a recovery."""
        self._say()
        try:
            os.close(self._journal)
        except OSError:  # a network filesystem may say only here that it is full
            self._unsaid = self._unsaid or b"\n"
        if self.taking:
            return False
        self._scratch.clear()
        gone = fsops.remove_directory(self.pending)
        gone = fsops.remove_directory(self.running) and gone
        if gone and not self._unsaid:  # who says that it has ended says that its journal is whole
            end = RunnerEnd(state="ended", time=clock(), exit_code=exit_code)
            try:
                fsops.replace(self.directory, "end.json", encode(end), self.store.file_mode)
            except StorageError:
                return gone  # without directories it has ended, whatever else there is
        return gone

    def _owned(self, status: Status) -> str:
        return self.pending if status is Status.PENDING else self.running

    def _check_gone(self, directory: str, filename: str) -> None:
        """After an answer that a file of one's own is gone. Raises Fenced when the directory is; StorageError when the
        file is there all the same: a server that has just come back may say of anything that it is gone (ESTALE)."""
        if filename in self._own(directory):
            raise StorageError("move", f"{directory}/{filename}", errno.ESTALE)

    def _own(self, directory: str) -> list[str]:
        found = fsops.entries(directory)
        if found is None:
            raise self._lost(directory)
        return found


def announce(store: Store, record: RunnerRecord) -> None:
    """b1: from now on the name is known, and is nobody else's. Once for each name. Raises StorageError."""
    directory = store.layout.runner(record.name)
    if not fsops.make_directory(directory, store.directory_mode):
        raise StorageError("make directory", directory, None)


def _make_own(store: Store, name: str) -> None:
    """b4 to b6. Who was declared dead before these directories were there must not keep them: nobody would look."""
    own = [store.layout.owned(status, name) for status in (Status.RUNNING, Status.PENDING)]
    for path in own:
        fsops.make_directory(path, store.directory_mode)
    directory = store.layout.runner(name)
    if not fsops.touch(f"{directory}/heartbeat"):
        error = _missing(store, name, directory)
        if isinstance(error, StorageError):
            raise error
        for path in reversed(own):
            fsops.remove_directory(path)
        raise error


def _missing(store: Store, name: str, directory: str) -> Fenced | StorageError:
    """Who is missing from a fresh listing of what its directory lies in is fenced; if that is not to be had either, it
    is a refusal of the filesystem like any other."""
    return Fenced(name, directory) if store.lacks(directory) else StorageError("list", directory, errno.ESTALE)


def decode_journal(data: bytes) -> list[dict[str, Any]]:
    """The lines of a journal that can be read; a torn last line is left out."""
    events = []
    for line in data.splitlines():
        try:
            event = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def new_name() -> str:
    return naming.new_runner_name(processes.host_name(), os.getpid())
