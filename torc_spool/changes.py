"""What a person changes: cancel, hold, release, retry, priority, stop, recover. All safe while runners run.

Each change of a job is one rename; one that loses its race against a runner looks again where the job is now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from graphlib import TopologicalSorter
from typing import NamedTuple

from torc_spool import fsops, naming, recovery, sortkeys
from torc_spool.actor import Actor, identity, new_name
from torc_spool.contents import encode
from torc_spool.errors import DamagedFile, NotFound, StorageError, UsageError
from torc_spool.lifecycle import Move
from torc_spool.model import MAX_PRIORITY, UNSUCCESSFUL, Job, Status
from torc_spool.naming import Cause, Request, parse_request
from torc_spool.recovery import Owner, Recovered
from torc_spool.settle import Settler
from torc_spool.store import Place, Store

_TRIES = 20
_WAITING = (Status.BLOCKED, Status.READY, Status.HELD)
_OWNED = (Status.PENDING, Status.RUNNING)


class Changed(NamedTuple):
    """What became of one job."""

    id: int
    name: str
    done: bool  # False: it was left as it is, `what` says why
    what: str


def find_jobs(store: Store, wanted: Collection[str]) -> list[Job]:
    """Jobs by their names, or by id where no job has that name; all of them when none is wanted.

    Raises NotFound with the names that no job has.
    """
    records = list(store.records())
    if not wanted:
        return records
    by_name = {record.name: record for record in records}
    found: dict[int, Job] = {}
    missing: list[str] = []
    for word in wanted:
        record = by_name.get(word)
        number = naming.whole(word)
        if record is None and number is not None and 1 <= number <= len(records):
            record = records[number - 1]
        if record is None:
            missing.append(word)
        else:
            found[record.id] = record
    if missing:
        import difflib

        near = difflib.get_close_matches(missing[0], by_name, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise NotFound(f"workflow {store.workflow.id} has no job {', '.join(map(repr, missing))}{hint}")
    return list(found.values())


def cancel(store: Store, wanted: Collection[str] = ()) -> list[Changed]:
    """Cancel jobs: those that wait at once, those that a runner holds by a request that it obeys."""
    settler = Settler(store)
    asked: dict[int, int] = {}  # the attempts that their holders are asked to cancel
    jobs = find_jobs(store, wanted)
    changed = {one.id: one for one in _each(store, jobs, lambda job, place: _cancel_one(store, job, place, asked))}
    looked: dict[int, int] = {}
    while asked != looked:
        # one that was given back before its holder could see the wish has a later attempt by now
        looked, places = dict(asked), store.snapshot()
        back = [job for job in jobs if job.id in looked and job.id in places]
        back = [job for job in back if places[job.id].name.attempt > looked[job.id]]
        again = _each(store, back, lambda job, place: _cancel_one(store, job, place, asked))
        changed |= {one.id: one for one in again}
    settler.settle()
    return list(changed.values())


def _cancel_one(store: Store, job: Job, place: Place, asked: dict[int, int]) -> Changed | None:
    if place.status in _WAITING:
        if store.move(Move.CANCEL, place, Status.CANCELED) is None:
            return None
        return Changed(job.id, job.name, True, "canceled")
    if place.status in _OWNED:
        request = Request(job=Cause(job.id, place.name.attempt))
        fsops.create(f"{store.layout.requests}/{request}", b"", store.file_mode)
        asked[job.id] = place.name.attempt
        return Changed(job.id, job.name, True, f"{place.status}: runner {place.detail} is asked to cancel it")
    return Changed(job.id, job.name, False, f"is {place.status} already")


class Answered:
    """Wishes to cancel jobs that have their outcomes: left by who died just after he had obeyed them (X13)."""

    def __init__(self, store: Store) -> None:
        self._requests = store.layout.requests
        found = map(parse_request, fsops.names(self._requests))
        self._wishes = [request.job for request in found if request is not None and request.job is not None]

    def drop(self, job: int, attempt: int) -> None:
        """Remove those about a job and its attempts so far: whoever has it run again does not mean them any more."""
        for wish in self._wishes:
            if wish.id == job and wish.attempt <= attempt:
                fsops.remove_file(f"{self._requests}/{Request(job=wish)}")


def hold(store: Store, wanted: Collection[str] = ()) -> list[Changed]:
    """Park waiting jobs until `release`."""

    def one(job: Job, place: Place) -> Changed | None:
        if place.status in (Status.BLOCKED, Status.READY):
            moved = store.move(Move.HOLD, place, Status.HELD)
            return None if moved is None else Changed(job.id, job.name, True, "held")
        return Changed(job.id, job.name, False, f"is {place.status}; only blocked and ready jobs can be held")

    return _each(store, find_jobs(store, wanted), one)


def release(store: Store, wanted: Collection[str] = ()) -> list[Changed]:
    """Let held jobs go: to ready when what they wait for allows, else to blocked."""
    settler = Settler(store)
    settler.settle()

    def one(job: Job, place: Place) -> Changed | None:
        if place.status is not Status.HELD:
            return Changed(job.id, job.name, False, f"is {place.status}, not held")
        status, detail = return_to(store, settler, job, place)
        moved = store.move(Move.UNHOLD, place, status, detail)
        return None if moved is None else Changed(job.id, job.name, True, str(status))

    changed = _each(store, find_jobs(store, wanted), one)
    settler.settle()
    return changed


def retry(store: Store, wanted: Collection[str] = ()) -> list[Changed]:
    """Run jobs again as a new attempt: those named, else all that failed or were terminated.

    Jobs that were canceled because of one that is retried come back with it, and not without it.
    """
    settler = Settler(store)
    jobs = find_jobs(store, wanted)
    names = {job.id: job.name for job in jobs}
    if not wanted:
        again = {
            job for job, ended in store.outcomes().ended.items() if ended.outcome in (Status.FAILED, Status.TERMINATED)
        }
        jobs = [job for job in jobs if job.id in again]
    settler.settle()
    asked = {job.id for job in jobs}
    roots = _forget(store, settler, asked)
    answered = Answered(store)

    def waits_for(root: int) -> str:
        name = names.get(root) or next((each.name for each in store.records() if each.id == root), str(root))
        return f"waits for {name!r}, which did not complete; retry that one: this one comes back with it"

    def one(job: Job, place: Place) -> Changed | None:
        if place.status not in UNSUCCESSFUL:
            return Changed(job.id, job.name, False, f"is {place.status}; nothing to retry")
        root = roots.get(job.id) if place.name.cause is not None else None
        if root in asked:
            return Changed(job.id, job.name, True, f"comes back with {names[root]!r}")
        if root is not None:
            return Changed(job.id, job.name, False, waits_for(root))
        answered.drop(job.id, place.name.attempt)
        status, detail = return_to(store, settler, job, place)
        moved = store.move(Move.RETRY, place, status, detail, new_attempt=True)
        if moved is None:
            return None
        settler.came_back(job.id)
        return Changed(job.id, job.name, True, f"{status}, attempt {moved.name.attempt}")

    in_order = _awaited_first(jobs)
    changed = _each(store, in_order, one, lost=lambda job: _rebuild(store, settler, job) if wanted else None)
    settler.settle()
    if settler.ledger is not None:
        # one that came back, and waits for yet another that did not complete, has been canceled again
        roots = _roots(store.snapshot())
        changed = [
            each._replace(done=False, what=waits_for(roots[each.id]))
            if each.done and each.id in roots and roots[each.id] not in asked
            else each
            for each in changed
        ]
    said = {each.id: each for each in changed}
    return [said[job.id] for job in jobs]


def _forget(store: Store, settler: Settler, asked: Collection[int]) -> dict[int, int]:
    """Forget the outcomes of all that will come back, so that what waits for them waits; returns `_roots`."""
    if settler.ledger is None:
        return {}
    places = store.snapshot()
    roots = _roots(places)
    for job, place in places.items():
        if place.status in UNSUCCESSFUL and roots.get(job, job) in asked:
            settler.ledger.forget(job)
    return roots


def _roots(places: Mapping[int, Place]) -> dict[int, int]:
    """Of each job that was canceled because of another: the one with which it began."""
    because = {
        job: place.name.cause.id
        for job, place in places.items()
        if place.status is Status.CANCELED and place.name.cause is not None
    }
    roots: dict[int, int] = {}
    for job in because:
        path = dict.fromkeys([job])  # names made by hand may go round in a circle
        while (cause := because.get(job)) is not None and job not in roots and cause not in path:
            path[cause] = None
            job = cause
        root = roots.get(job, job)
        roots |= dict.fromkeys((each for each in path if each in because and each != root), root)
    return roots


def _awaited_first(jobs: Iterable[Job]) -> list[Job]:
    """Each behind those that it waits for, so that no runner finds it waiting for an outcome of old."""
    by_id = {job.id: job for job in jobs}
    order = TopologicalSorter({job.id: [each for each in job.depends_on if each in by_id] for job in by_id.values()})
    return [by_id[job] for job in order.static_order()]


def set_priority(store: Store, wanted: Collection[str], priority: int) -> list[Changed]:
    """Give waiting jobs another priority."""
    if not 0 <= priority <= MAX_PRIORITY:
        raise UsageError(f"priority {priority} is outside 0..{MAX_PRIORITY}")

    def one(job: Job, place: Place) -> Changed | None:
        if place.status not in _WAITING:
            return Changed(job.id, job.name, False, f"is {place.status}; its priority no longer matters")
        moved = store.move(Move.PRIORITY, place, place.status, place.detail, rank=MAX_PRIORITY - priority)
        return None if moved is None else Changed(job.id, job.name, True, f"priority {priority}")

    return _each(store, find_jobs(store, wanted), one)


def stop_runner(store: Store, runner: str) -> str:
    """Ask a runner, wherever it is, to finish what it runs and end; returns its name. Raises NotFound."""
    owners = [owner for owner in recovery.scan(store, only_holders=True) if owner.state in ("alive", "silent")]
    match = [owner.name for owner in owners if owner.name == runner]
    match = match or [owner.name for owner in owners if owner.name.startswith(runner)]
    if len(match) != 1:
        has = ", ".join(owner.name for owner in owners) or "none"
        what = "has no running runner" if not match else "has more than one runner that begins with"
        raise NotFound(f"workflow {store.workflow.id} {what} {runner!r}; running: {has}")
    fsops.create(f"{store.layout.requests}/{Request(runner=match[0])}", b"", store.file_mode)
    return match[0]


def recover(
    store: Store, *, said_dead: Collection[str] = (), dry_run: bool = False
) -> tuple[list[Recovered], list[Owner]]:
    """Take back the work of runners that are known to be dead, then settle."""
    if dry_run:
        found = recovery.scan(store, said_dead=said_dead)
        recovery.check_known(store, found, said_dead)
        owners = recovery.dead(found)
        return [step for owner in owners for step in recovery.plan(store, owner)], owners
    with_actor = Once(store, "recover")
    steps, owners = recovery.recover(store, with_actor.born, said_dead=said_dead)
    with_actor.retire()
    Settler(store).settle()
    return steps, owners


class Once:
    """An actor that is only born when there is something to own."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store, self._kind = store, kind
        self._actor: Actor | None = None

    def born(self) -> Actor:
        if self._actor is None:
            self._actor = Actor.born(self._store, identity(new_name(), kind=self._kind))
        return self._actor

    def retire(self) -> None:
        if self._actor is not None:
            self._actor.retire()


def _each(
    store: Store,
    jobs: Iterable[Job],
    change: Callable[[Job, Place], Changed | None],
    *,
    lost: Callable[[Job], Changed | None] = lambda _job: None,
) -> list[Changed]:
    """Change each job where it is; one that has moved meanwhile is looked up again."""
    snapshot = store.snapshot()
    changed: list[Changed] = []
    for job in jobs:
        place = snapshot.get(job.id) or store.locate(job.id)
        result: Changed | None = None
        for _ in range(_TRIES):
            if place is None:
                result = lost(job)
                break
            result = change(job, place)
            if result is not None:
                break
            place = store.locate(job.id)
        changed.append(result or Changed(job.id, job.name, False, f"was not found; see {store.layout.aside}"))
    return changed


def return_to(store: Store, settler: Settler, job: Job, place: Place) -> tuple[Status, str | None]:
    """Where a job goes that is to wait or run again."""
    if _has_to_wait(settler, job):
        return Status.BLOCKED, None
    scheduler = job.scheduler
    try:
        content = store.read_job(store.path(place), job.id)
        scheduler = content.job.scheduler if content is not None else scheduler
    except DamagedFile:
        pass  # the claim will find out, and set it aside
    return Status.READY, naming.scheduler_directory(scheduler)


def _has_to_wait(settler: Settler, job: Job) -> bool:
    if settler.ledger is None:
        return False
    verdict = settler.ledger.verdict(job.id)
    return verdict is None or verdict.cause is not None


def _rebuild(store: Store, settler: Settler, job: Job) -> Changed | None:
    """Make a job that was set aside anew, from the workflow's own record."""
    evidence = [
        (name, parsed[1])
        for name in store.aside()
        if (parsed := naming.aside_job_id(name)) is not None and parsed[0] == job.id
    ]
    if not evidence:
        return None
    old, attempt = max(evidence, key=lambda found: found[1])
    actor = Actor.born(store, identity(new_name(), kind="retry"))
    # of two who do this at once only one gets the damaged file
    if not fsops.rename(f"{store.layout.aside}/{old}", f"{actor.running}/{old}"):
        actor.retire()
        return Changed(job.id, job.name, False, "is being made anew by somebody else")
    waits = _has_to_wait(settler, job)
    status, detail = (Status.BLOCKED, None) if waits else (Status.READY, naming.scheduler_directory(job.scheduler))
    make_anew(actor, job, attempt, status, detail)
    for found, _ in evidence:
        lies = actor.running if found == old else store.layout.aside
        fsops.rename(f"{lies}/{found}", f"{store.layout.aside}/.{found}"[: len(store.layout.aside) + 256])
    actor.retire()
    return Changed(job.id, job.name, True, f"made anew from the record; {status}, attempt {attempt + 1}")


def make_anew(actor: Actor, job: Job, attempt: int, status: Status, detail: str | None = None) -> None:
    """Write a job from the workflow's own record into the actor's hands, and give it as the attempt after this one.

    Killed in between, recovery gives it. Raises StorageError.
    """
    store, needs = actor.store, job.resources.needs
    key = sortkeys.key(store.workflow.jobs_sort_method, needs)
    name = naming.job_name(priority=job.priority, job=job.id, needs=needs, name=job.name, attempt=attempt, key=key)
    data = encode(job)
    if not fsops.create(f"{actor.running}/{name}", data[:-2] + b',"attempts":[]}\n', store.file_mode):
        raise StorageError("create", f"{actor.running}/{name}", None)
    store.move(Move.GIVE, Place(Status.RUNNING, actor.name, str(name), name), status, detail, new_attempt=True)
