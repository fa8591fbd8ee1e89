"""One workflow as a runner serves it: its view of the ready jobs, its claims, and why it leaves jobs alone."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

from torc_spool import actor as actors
from torc_spool import crowd, fsops, naming, recovery, select
from torc_spool.actor import Actor
from torc_spool.contents import Content
from torc_spool.errors import BadName, DamagedFile, StorageError
from torc_spool.lifecycle import Move
from torc_spool.locking import ClaimLock
from torc_spool.model import RunnerRecord, Status
from torc_spool.naming import Cause, JobName
from torc_spool.owners import Around
from torc_spool.prospects import Left as Left
from torc_spool.prospects import Prospects
from torc_spool.select import Entry, Offer, Pick, ReadyQueue
from torc_spool.settle import Settler
from torc_spool.store import Place, Store

LISTING_SHARE = 20  # listings may cost a twentieth of the time
VIEW_AGE_S = 1.0
FINISHED_AGE_S = 300.0  # only a retry makes work again; an event tells of it where it is made on this host
_MOMENT_S = 0.1


class Claimed(NamedTuple):
    """A job of ours that has not been started."""

    filename: str
    name: JobName
    content: Content
    pick: Pick


class Served:
    """A workflow and this runner's part in it."""

    def __init__(
        self,
        store: Store,
        record: RunnerRecord,
        *,
        directories: list[str] | None,
        calls_per_s: float = crowd.CALLS_PER_S,
    ) -> None:
        self.store, self.record, self._calls_per_s = store, record, calls_per_s
        self.lock = ClaimLock(store.layout.lock)
        self.settler = Settler(store)
        self.actor: Actor | None = None
        self._is_announced = False  # whether its name is known there, though it may have come no further
        self.leftover: list[Pick] = []  # claimed, but the filesystem would not let us start them yet
        self.unread: dict[int, str] = {}  # the jobs among these whose file cannot be read now, and why
        self._unsure: list[Pick] = []  # perhaps claimed: the filesystem refused, and did not say what it had done
        self.set_aside: list[str] = []  # what was set aside here, as sentences
        self._swept = False  # whether strays have been looked for
        self._outcomes: tuple[float, dict[int, Status]] = (-math.inf, {})  # as they were listed last, and when
        self.finished = False  # whether every job had an outcome when we last looked
        self._directories = directories  # of the schedulers that it may claim from; None: all
        self._queue = ReadyQueue()
        self._viewed = 0.0
        self._view_cost = 0.0
        self._settled = 0.0
        self.others = 0  # runners that hold directories here, when we last looked
        self.around = Around(record.name)
        self.prospects = Prospects(store, self.settler, self.around, directories)
        self.stale = True  # whether the view is known to be behind
        self.is_outdated = False  # whether the jobs have been defined anew since this workflow was opened

    @property
    def id(self) -> int:
        return self.store.workflow.id

    def owner(self) -> Actor:
        """This runner's directories in the workflow, made when they are first needed."""
        if self.actor is None:
            if not self._is_announced:
                actors.announce(self.store, self.record)
                self._is_announced = True
            self.actor = Actor.begin(self.store, self.record)
        return self.actor

    def close(self, exit_code: int | None, *, retire: bool = True) -> None:
        """The runner leaves this workflow. Without `retire`, what it holds is left for a recovery."""
        self.lock.close()
        if self.actor is not None and retire:
            self._give_leftover_back(self.actor)
            self.actor.retire(exit_code)
        self.actor = None

    def _give_leftover_back(self, actor: Actor) -> None:
        """What was claimed and never started goes back, if the filesystem lets us now; else a recovery does it."""
        for pick in (*self.leftover, *self._unsure):
            name = naming.parse_job(pick.entry.name)
            place = Place(Status.PENDING, actor.name, pick.entry.name, name)
            with suppress(StorageError):
                self.store.move(Move.GIVE, place, Status.READY, pick.entry.directory, new_attempt=True)
        self.leftover.clear()

    # -- the view -------------------------------------------------------------------------------------------

    def ready_directories(self) -> list[str]:
        """The directories below `ready/` that this runner may claim from."""
        return self.store.ready_directories() if self._directories is None else self._directories

    def watched(self) -> list[str]:
        """Directories in which an arrival concerns this runner."""
        ready = [f"{self.store.layout.ready}/{directory}" for directory in self.ready_directories()]
        return [*ready, self.store.layout.requests]

    def due(self, now: float) -> bool:
        """Whether the view is to be refreshed: it is old or known to be behind, and listings do not cost too much."""
        age = now - self._viewed
        if not len(self._queue):
            return self.stale or age >= (FINISHED_AGE_S if self.finished else VIEW_AGE_S)
        return age >= LISTING_SHARE * self._view_cost and (self.stale or age >= VIEW_AGE_S)

    def look(self) -> None:
        """Refresh the view, unless that was done this very moment; that of a finished workflow only rarely."""
        if self.stale or time.monotonic() - self._viewed > (FINISHED_AGE_S if self.finished else _MOMENT_S):
            self.refresh()

    def refresh(self) -> None:
        """Look at the ready jobs anew, set aside what is none, and see whether anybody else is here."""
        started = time.monotonic()
        self.stale = False
        self._queue = ReadyQueue(self.store.ready_entries(self.ready_directories()))
        for entry in self._queue.foreign:
            self.set_aside_file(f"{self.store.layout.ready}/{entry.directory}", entry.name, "is not a job's file")
        if len(self._queue):
            self.is_outdated = self.actor is None and self.store.is_outdated()
            self.finished = False
            self._see(fsops.names(self.store.layout.pending))
        self._viewed = time.monotonic()
        self._view_cost = self._viewed - started

    def _see(self, owners: Collection[str]) -> None:
        """Take in who else has directories here."""
        self.others = len(owners) - (self.record.name in owners)
        self.settler.is_alone = not self.others
        self.lock.spread_s = self.others / self._calls_per_s

    def least_pause_s(self) -> float:
        """How long an idle runner leaves the filesystem alone, at least."""
        return crowd.least_pause_s(self.others, self._calls_per_s)

    def leaving_s(self) -> float:
        """How long a runner waits before it leaves where all others may leave as well."""
        return crowd.leaving_s(self.others, self._calls_per_s)

    def add(self, released: Iterable[Entry]) -> None:
        """Jobs that this runner itself made ready."""
        mine = None if self._directories is None else set(self._directories)
        for entry in released:
            if mine is None or entry.directory in mine:
                self._queue.insert(entry)

    # -- claims ---------------------------------------------------------------------------------------------

    def has_fitting(self, offer: Offer) -> bool:
        """Whether the view shows a job that this offer could claim."""
        return bool(len(self._queue)) and bool(select.select(self._queue, offer))

    def claim(self, offer: Offer) -> list[Claimed]:
        """Claim what fits in the offer. Raises Fenced, StorageError."""
        if self._unsure:
            own = self.owner().holds()
            self.leftover += [pick for pick in self._unsure if pick.entry.name in own]
            self._unsure.clear()
        won, offer = self._again(offer) if self.leftover else ([], offer)
        try:
            if not offer.is_used_up and self.due(time.monotonic()):
                self.refresh()
            if self.is_outdated:
                return []
            picks = select.select(self._queue, offer) if len(self._queue) else []
            if picks and not self.others:
                won += self._claim(picks, offer)
            elif picks:
                with self.lock.held() as is_ours:
                    won += self._claim(picks, offer, in_turn=is_ours)
        except StorageError:
            self.leftover += won
            raise
        if not won:
            return []
        actor = self.owner()
        return [claimed for pick in won if (claimed := self._load(actor, pick)) is not None]

    def _again(self, offer: Offer) -> tuple[list[Pick], Offer]:
        """What was claimed before and could not be started then, as far as it fits now."""
        waiting, self.leftover = self.leftover, []
        ready: list[Pick] = []
        for pick in waiting:
            placed = select.place(pick.needs, list(offer.nodes), offer)
            if placed is None or offer.slots == 0:
                self.leftover.append(pick)
                continue
            ready.append(pick._replace(nodes=placed))
            offer = select.after(offer, ready[-1:])
        return ready, offer

    def _claim(self, picks: list[Pick], offer: Offer, *, in_turn: bool = True) -> list[Pick]:
        """Claim what was picked, and walk on past what others were faster to take.

        In a crowd that would be a walk past all that everybody else has taken since this view was made: who has the
        lock looks once more, and others begin somewhere among the jobs that the crowd is after.
        """
        actor = self.owner()
        won: list[Pick] = []
        is_fresh = not self.others
        while picks:
            self._queue.discard(picks)
            try:
                lost = [pick for pick in picks if not actor.claim(pick.entry)]
            except StorageError:
                self.stale = True
                self.leftover += won
                self._unsure += picks
                raise
            self.stale = self.stale or bool(lost)
            really_lost = actor.not_claimed([pick.entry for pick in lost]) if lost else set()
            got = [pick for pick in picks if pick.entry not in really_lost]
            won += got
            offer = select.after(offer, got)
            if really_lost and in_turn and not is_fresh:
                self.refresh()
                is_fresh = True
            picks = select.select(self._queue, offer) if lost else []
            if really_lost and not in_turn:
                picks = self._further(picks, offer)
        return won

    def _further(self, picks: list[Pick], offer: Offer) -> list[Pick]:
        """What fits behind a random number of jobs: at most as many as there are others, and half of the view."""
        steps = random.randint(0, min(self.others, len(self._queue) // 2))
        while picks and steps > 0:
            steps -= len(picks)
            self._queue.discard(picks)
            picks = select.select(self._queue, offer)
        return picks

    def _load(self, actor: Actor, pick: Pick) -> Claimed | None:
        """t1. What cannot be run is set aside, and said."""
        filename = pick.entry.name
        try:
            name = naming.parse_job(filename)
            content = actor.load(filename, name.id)
            if content is None:  # its start was refused, and happened all the same
                content = actor.load(filename, name.id, Status.RUNNING)
            else:
                content = self._as_claimed(actor, content, pick)
        except StorageError as error:
            self.leftover.append(pick)
            self.unread[name.id] = str(error)
            self.stale = True
            return None
        except DamagedFile as damage:
            self.set_aside_file(actor.pending, filename, damage.why)
            return None
        except BadName:
            self.set_aside_file(actor.pending, filename, "is not a job's file")
            return None
        self.unread.pop(name.id, None)
        if content is None:
            self.stale = True
            if filename in actor.holds():
                self.leftover.append(pick)  # a reply was lost
            return None
        return Claimed(filename, name, content, pick)

    def _as_claimed(self, actor: Actor, content: Content, pick: Pick) -> Content:
        """By the latest revision. The path holds for the scheduler: a job that was bound to another one by hand stays
        so on a return."""
        current = self.store.current(content)
        said = naming.scheduler_directory(current.job.scheduler)
        if said == pick.entry.directory:
            if current is not content:
                fsops.replace(actor.pending, pick.entry.name, current.data, self.store.file_mode)
            return current
        scheduler = None if pick.entry.directory == naming.ANY_SCHEDULER else pick.entry.directory
        for known in self.store.workflow.schedulers:
            if naming.scheduler_directory(known["name"]) == pick.entry.directory:
                scheduler = known["name"]
        rebound = current.rebound(scheduler)
        fsops.replace(actor.pending, pick.entry.name, rebound.data, self.store.file_mode)
        return rebound

    def set_aside_file(self, directory: str, name: str, why: str) -> None:
        """Set aside what cannot be understood, and keep a sentence about it."""
        if self.store.set_aside(directory, name):
            self.set_aside.append(f"{name} {why}; it is in {self.store.layout.aside}")

    # -- requests -------------------------------------------------------------------------------------------

    def wishes(self) -> tuple[set[Cause], bool]:
        """Attempts that somebody wants canceled, and whether this runner is asked to stop."""
        cancels: set[Cause] = set()
        stop = False
        for name in fsops.names(self.store.layout.requests):
            request = naming.parse_request(name)
            if request is not None and request.job is not None:
                cancels.add(request.job)
            elif request is not None and request.runner == self.record.name:
                stop = True
        return cancels, stop

    def obeyed(self, request: naming.Request) -> None:
        fsops.remove_file(f"{self.store.layout.requests}/{request}")

    # -- what is left ---------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """A full settling pass; True when something became ready that this runner may claim."""
        released = self.settler.settle()
        self._settled = time.monotonic()
        self.add(released)
        return bool(released)

    def has_missed(self) -> None:
        """Something of what must follow an outcome may have been left undone: only listings can tell."""
        self.stale = True
        self.settler.missed()

    def settle_if_due(self) -> None:
        """A full pass when there may be something that only a listing can tell, and the last was long enough ago."""
        if self.settler.due and time.monotonic() - self._settled >= LISTING_SHARE * self.settler.cost_s:
            self.settle()

    def recover(self, *, silent_s: float = 0.0) -> bool:
        """Take back the work of runners that are known to be dead; True when something came back.

        Slurm is asked only of those that were silent for `silent_s`.
        """
        steps = self._resume_taking(self.actor) if self.actor is not None and self.actor.taking else []
        taken = True
        while taken:  # behind those that were taken back there may be others
            around, mine = self.around, self.actor
            found, owners = recovery.recover(self.store, self.owner, silent_s=silent_s, mine=mine, around=around)
            steps, taken = steps + found, bool(owners)
        self._see(self.around.holders)
        self.stale = self.stale or bool(steps)
        self.settler.due = self.settler.due or (bool(steps) and self.settler.ledger is not None)
        return bool(steps)

    def _resume_taking(self, actor: Actor) -> list[recovery.Recovered]:
        """Go on with what the filesystem has cut short."""
        self.store.exists()  # it may be away: then what is not to be seen is not gone
        dead = {owner.name: owner for owner in recovery.taken_owners(self.store)}
        steps: list[recovery.Recovered] = []
        for name, taking in list(actor.taking.items()):
            if name in dead:
                owner = dead[name]._replace(evidence=taking.evidence, walltime=taking.walltime, cause=taking.cause)
                steps += recovery.finish_taking(actor, owner)
            else:
                del actor.taking[name]  # it was not won
        return steps

    def outcomes(self) -> dict[int, Status]:
        """The outcomes so far; `finished` is set by the way, and what is no job is set aside."""
        listed = self.store.outcomes()
        strays, self._swept = listed.foreign if self._swept else [*listed.foreign, *self.store.strays()], True
        for directory, name in strays:
            self.set_aside_file(directory, name, "is not a job's file")
        found = {job: ended.outcome for job, ended in listed.ended.items()}
        self.finished = len(found) >= self.store.workflow.num_jobs
        self._outcomes = (time.monotonic(), found)
        return found

    def recent_outcomes(self) -> dict[int, Status]:
        """Those of a moment ago, where they were listed then: `done/` may be the longest of all listings."""
        listed, found = self._outcomes
        return found if time.monotonic() - listed < VIEW_AGE_S else self.outcomes()

    def sweep_requests(self) -> None:
        """Every job has its outcome: wishes to cancel one are settled (X13)."""
        cancels = self.wishes()[0]
        ended = self.store.outcomes().ended if cancels else {}
        for cause in cancels:
            if cause.id in ended and ended[cause.id].attempt >= cause.attempt:
                self.obeyed(naming.Request(job=cause))


def serve_directories(store: Store, scheduler: str | None, any_scheduler: bool) -> list[str] | None:
    """The directories below `ready/` for a runner's options; None: all. A scheduler is named or numbered from 1.

    Raises NotFound when the workflow has no such scheduler.
    """
    if any_scheduler:
        return None
    if scheduler is None:
        return [naming.ANY_SCHEDULER]
    return [naming.scheduler_directory(store.scheduler(scheduler)["name"]), naming.ANY_SCHEDULER]
