"""The runners of a workflow, and what is known of their lives: by their records, this host, Slurm, and their silence.

Unknown means alive. What follows from a death is `recovery`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from torc_spool import causes, crowd, evidence, fsops, naming, processes
from torc_spool.actor import Actor
from torc_spool.errors import DamagedFile, StorageError
from torc_spool.evidence import Death, Here
from torc_spool.fate import Loss
from torc_spool.model import RunnerEnd, RunnerRecord
from torc_spool.squeue import INQUIRY, WALLTIME, Inquiry, Seen
from torc_spool.store import Store

SAID = "a person said so"


class Owner(NamedTuple):
    """A runner as a scan found it."""

    name: str
    directory: str  # of its record
    record: RunnerRecord | None
    end: RunnerEnd | None
    heartbeat_age_s: float | None
    holds: bool  # whether directories below pending/ or running/ are in its name
    evidence: str | None  # that it is dead
    walltime: str | None = None  # why its running jobs are terminated, where its allocation ended so
    cause: str = causes.RUNNER_DIED  # what its death says of its running jobs

    @property
    def loss(self) -> Loss:
        host = self.record.host if self.record else None
        return Loss(self.name, host, self.evidence, self.walltime, self.cause)

    @property
    def state(self) -> str:
        if self.end is not None and not self.holds:
            return self.end.state
        if self.evidence is not None:
            return "dead"
        if not self.holds:
            return "ended"
        lease = self.record.lease_s if self.record else 0.0
        silent = self.heartbeat_age_s is not None and self.heartbeat_age_s > lease
        return "silent" if silent else "alive"


class Around:
    """Where a runner stands in a crowd, and what it remembers of the others. `scan` keeps it up to date."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.holders: set[str] = set()  # those that hold directories, itself too
        self.records: dict[str, RunnerRecord] = {}  # they never change


def look(store: Store, name: str, mine: Actor | None = None) -> Owner:
    """One runner that holds something, without what Slurm says."""
    here, now = Here.now(), _Now(store, mine)
    owner = _look_at(store, name, here, now, holds=True, is_said=False, known={})
    return _heed_silence(owner, here) if now.is_sure else owner


def scan(
    store: Store,
    *,
    said_dead: Collection[str] = (),
    here: Here | None = None,
    only_holders: bool = False,
    silent_s: float = 0.0,
    inquiry: Inquiry = INQUIRY,
    mine: Actor | None = None,
    around: Around | None = None,
) -> list[Owner]:
    """The runners of a workflow and what is known of their lives. Changes nothing but the time of the lock file.

    `only_holders` leaves out those that hold no directory: they have ended, and there may be many. Slurm is asked of
    the allocations of those that hold something and were silent for `silent_s`. `mine` is the actor of this process,
    where it has one: its heartbeat is touched in place of the lock, and while it cannot judge the silence of others
    they count as alive.

    `around`: only of those that hold something and whom this runner watches in a crowd. Each watches the next ones in a
    ring of all names until it has seen some that live, so that each that dies is seen by some, and after those that
    were taken back come others. What died on this host is seen by all who are here.
    """
    here = here or Here.now()
    holders = {owners[0] for name in store.owner_directories() if (owners := naming.owners(name))}
    now = _Now(store, mine)
    if around is not None:
        around.holders = holders
        found = list(_look_around(store, around, here, now))
    else:
        found = []
        for name in fsops.names(store.layout.runners):
            if not naming.is_runner(name) or (only_holders and name not in holders):
                continue
            found.append(_look_at(store, name, here, now, holds=name in holders, is_said=name in said_dead))
        for name in sorted(holders - {owner.name for owner in found}):
            said = SAID if name in said_dead else None
            found.append(Owner(name, store.layout.runner(name), None, None, None, True, said))
    found = _ask_slurm(found, here, silent_s, inquiry, knows_silence=now.is_sure)
    if now.is_sure:
        found = [_heed_silence(owner, here) for owner in found]
    return sorted(found, key=lambda owner: ((owner.record and owner.record.started) or 0.0, owner.name))


def _look_around(store: Store, around: Around, here: Here, now: _Now) -> Iterator[Owner]:
    living, host = 0, naming.runner_host(here.host)
    for name in crowd.ring(around.holders, around.own):
        if living < crowd.WATCHED or _is_gone(name, host):
            owner = _look_at(store, name, here, now, holds=True, is_said=False, known=around.records)
            age, lease_s = owner.heartbeat_age_s, owner.record.lease_s if owner.record else 0.0
            living += owner.evidence is None and (not now.is_sure or (age is not None and age <= lease_s))
            yield owner


def _is_gone(name: str, here: str) -> bool:
    """Whether a name tells of a process of this host that is not there: no proof, but reason to look."""
    if not name.startswith(here):
        return False  # in a crowd nearly all are of other hosts
    host, pid, _ = name.rsplit("-", 2)
    return host == here and processes.start_time(int(pid)) is None


class _Now:
    """The time by the clock of the spool's filesystem, asked for at most once."""

    def __init__(self, store: Store, mine: Actor | None) -> None:
        self._store, self._mine = store, mine
        self._time: float | None = None
        self.is_sure = True  # whether somebody can be taken for dead by it

    def age(self, name: str, directory: str) -> float | None:
        """Seconds since a runner's last sign of life; None where that is not known."""
        if self._mine is not None and self._mine.name == name:
            return 0.0
        if self._time is None:
            self._time = self._ask()
        return None if self._mine is not None and not self.is_sure else heartbeat_age(directory, self._time)

    def _ask(self) -> float:
        now = filesystem_now(self._store, self._mine)
        self.is_sure = now is not None and (self._mine is None or self._mine.lease.judges)
        return time.time() if now is None else now  # good enough to be shown, not to decide


def _look_at(
    store: Store,
    name: str,
    here: Here,
    now: _Now,
    *,
    holds: bool,
    is_said: bool,
    known: dict[str, RunnerRecord] | None = None,
) -> Owner:
    """What is known of a runner's life without Slurm, and without its silence. `known` are records that were read."""
    directory = store.layout.runner(name)
    record, end = None if known is None else known.get(name), None
    try:
        if record is None:
            record = store.runner_record(directory)
            # those that are known hold something, and whoever does has not ended
            end = store.runner_end(directory) if known is None else None
    except StorageError:  # of one alone: nothing is known of it, and the others are not to wait for that
        record, end = None, None
    if record is not None and known is not None:
        known[name] = record
    age = now.age(name, directory) if holds else None
    why, cause = None, causes.RUNNER_DIED
    if is_said:
        why = Death(SAID)
    elif record is not None and (holds or end is None):
        known_age = age if now.is_sure else None
        why = evidence.of_host(record, here, heartbeat_age_s=known_age, is_running=processes.is_same_process)
        requeued = evidence.of_own_allocation(record, here)
        why, cause = why or requeued, causes.ALLOCATION_ENDED if requeued else cause
    return Owner(name, directory, record, end, age, holds, None if why is None else why.evidence, cause=cause)


def _heed_silence(owner: Owner, here: Here) -> Owner:
    """Where nothing better is known of a runner that holds something."""
    if owner.evidence is not None or owner.record is None or not owner.holds:
        return owner
    age = owner.heartbeat_age_s
    death = evidence.of_lease(owner.record, here, heartbeat_age_s=age, is_stopped=processes.is_stopped)
    return owner if death is None else owner._replace(evidence=death.evidence)


def _ask_slurm(
    owners: list[Owner], here: Here, silent_s: float, inquiry: Inquiry, *, knows_silence: bool
) -> list[Owner]:
    """With what one call of Slurm says of those that hold something and may be dead.

    Also where the death is known already: the end of the allocation says what becomes of the jobs.
    """
    in_question = {}
    for owner in owners:
        silent = owner.heartbeat_age_s is None or owner.heartbeat_age_s >= silent_s
        if owner.record is not None and owner.holds and (owner.evidence is not None or silent):
            number = evidence.in_question(owner.record, here, is_dead=owner.evidence is not None)
            if number is not None:
                in_question[owner.name] = number
    answers = inquiry.about(set(in_question.values())) if in_question else {}
    told = []
    for owner in owners:
        seen = answers.get(in_question[owner.name]) if owner.name in in_question else None
        if seen is not None and owner.record is not None:
            age = owner.heartbeat_age_s if knows_silence else None
            death = evidence.of_allocation(owner.record, seen, heartbeat_age_s=age)
            if death is not None:
                cause = _said_by_slurm(owner.record, seen, death)
                known = owner.evidence or death.evidence
                owner = owner._replace(evidence=known, walltime=death.walltime, cause=cause)
        told.append(owner)
    return told


def _said_by_slurm(record: RunnerRecord, seen: Seen, death: Death) -> str:
    requeued = seen.restarts is not None and seen.restarts > record.slurm_restarts
    was_dead_before = seen.state == WALLTIME and death.walltime is None
    return causes.of_allocation(seen.state, is_requeued=requeued, was_dead_before=was_dead_before)


def taken_owners(store: Store) -> Iterator[Owner]:
    """The dead whose records lie in their takers' directories."""
    stack = [store.layout.taken(name) for name in fsops.names(store.layout.runners) if naming.is_runner(name)]
    while stack:
        directory = stack.pop()
        for name in filter(naming.is_runner, fsops.names(directory)):
            path = f"{directory}/{name}"
            end = store.runner_end(path) or RunnerEnd(state="dead")
            yield Owner(name, path, store.runner_record(path), end, None, False, end.evidence)
            stack.append(f"{path}/taken")


def filesystem_now(store: Store, mine: Actor | None = None) -> float | None:
    """The time by the clock of the spool's filesystem: that of a file just touched. None for who cannot write."""
    try:
        return fsops.touched(store.layout.lock) if mine is None else mine.filesystem_now()
    except (StorageError, DamagedFile):
        return None


def heartbeat_age(directory: str, now: float) -> float | None:
    """Seconds since a runner's last sign of life, in the filesystem's time; None where it cannot be read."""
    try:
        content = fsops.read(f"{directory}/heartbeat", limit=1)
    except (StorageError, DamagedFile):
        return None
    return None if content is None else max(0.0, now - content.mtime)


def dead(owners: Iterable[Owner]) -> list[Owner]:
    """Those whose work can be taken back, or whose record must be closed."""
    return [owner for owner in owners if owner.evidence is not None and (owner.holds or owner.end is None)]
