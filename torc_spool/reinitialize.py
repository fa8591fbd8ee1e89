"""Running again what has to: looking at everything, a plan (pure), then all of it or nothing.

The steps are numbered as in `docs/spool-format.md`. What runs again is first taken out of `done/`, all of it, into this
actor's own directory: nobody can release what waits for it meanwhile, and each file still holds the result by which a
recovery, or we, put it back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torc_spool import actions, again, changes, fingerprints, fsops, recovery, revise, userdata
from torc_spool.actor import Actor, identity, new_name
from torc_spool.again import Fate, Files, Known, Plan
from torc_spool.errors import DamagedFile, StorageError, TorcSpoolError, UsageError
from torc_spool.lifecycle import Move
from torc_spool.model import MAX_PRIORITY, OUTCOMES, Job, Status, WorkflowSpec
from torc_spool.revise import Candidate
from torc_spool.settle import Settler
from torc_spool.spool import command
from torc_spool.store import Place, Store
from torc_spool.submission import Verbatim

_TRIES = 20
_SHOWN = 3
_WAITING = (Status.BLOCKED, Status.READY, Status.HELD)
_OWNED = (Status.PENDING, Status.RUNNING)
_CHANGED = "job {!r} has changed its state meanwhile; nothing was done, say it again"


class Row(NamedTuple):
    """One job of a plan, to be shown."""

    id: int
    name: str
    status: str  # before anything was done
    reasons: list[str]


def reinitialize(
    store: Store,
    wanted: tuple[WorkflowSpec, Verbatim] | None = None,
    *,
    by_content: bool = False,
    dry_run: bool = False,
) -> list[Row]:
    """Run again what no longer holds: outputs that are gone, inputs or definitions that have changed, what follows.

    Returns what runs again, or would. Raises UsageError, and then nothing was done.
    """
    if not dry_run:
        changes.recover(store)
    revision = None if wanted is None else revise.candidate(store, *wanted)
    if revision is not None:
        _refuse_runners(store)
    jobs = _look(store, revision)
    env = (revision.workflow if revision else store.workflow).env
    files = _files(store, jobs, by_content=by_content)
    plan = again.plan(jobs, lambda known: again.own_reasons(known, files, env), published=store.revisions.number)
    return _carry_out(store, jobs, plan, revision, dry_run=dry_run)


def reset_status(store: Store, *, failed: bool = False, dry_run: bool = False) -> list[Row]:
    """Run all jobs again, or those that failed, were terminated or canceled, and what follows from them.

    Raises UsageError, and then nothing was done.
    """
    if not dry_run:
        changes.recover(store)
    held = store.held_by_owners()
    if held and not failed:
        jobs_are = "1 job is" if len(held) == 1 else f"{len(held)} jobs are"
        raise UsageError(
            f"{jobs_are} in the hands of {held[0].detail}; wait until they have ended, or stop it first: {_stop(store)}"
        )
    jobs = _look(store, None)

    def own(known: Known) -> list[str]:
        status = known.place.status
        wanted = status in OUTCOMES and not (failed and status is Status.COMPLETED)
        return [f"it is {status}"] if wanted else []

    return _carry_out(store, jobs, again.plan(jobs, own), None, dry_run=dry_run)


def _carry_out(
    store: Store, jobs: Mapping[int, Known], plan: Plan, revision: Candidate | None, *, dry_run: bool
) -> list[Row]:
    if plan.refusals:
        more = f"; and {len(plan.refusals) - _SHOWN} more" if len(plan.refusals) > _SHOWN else ""
        raise UsageError(
            f"{'; '.join(plan.refusals[:_SHOWN])}{more}. Wait until it has ended, or stop its runner: {_stop(store)}"
        )
    _refuse_unreadable(store, plan)
    if not dry_run and (plan.steps or revision is not None):
        _Apply(store, jobs, plan).run(revision)
    return [
        Row(step.id, step.known.job.name, str(step.status), list(step.reasons)) for step in plan.steps if step.is_told
    ]


def _stop(store: Store) -> str:
    return command(store.layout.root.rsplit("/", 1)[0], f"stop {store.workflow.id} RUNNER")


def _refuse_runners(store: Store, but: str | None = None) -> None:
    owners = recovery.scan(store, only_holders=True)
    living = [owner.name for owner in owners if owner.state in ("alive", "silent") and owner.name != but]
    if living:
        raise UsageError(
            f"workflow {store.workflow.id} has runners that may live and know its jobs as they were: "
            f"{', '.join(living)}; wait until they have ended, or stop them first: {_stop(store)}"
        )


def _refuse_unreadable(store: Store, plan: Plan) -> None:
    """What is to leave its outcome must hold its result, so that it can be put back."""
    for step in plan.again:
        if step.status is Status.COMPLETED and step.known.result is None:
            why = f"is in done/{step.status} without a result of its attempt"
            raise _unreadable(store, store.path(step.known.place), why)


# -- looking


def _look(store: Store, revision: Candidate | None) -> dict[int, Known]:
    """Every job where it is; files are read where they may tell something. Raises DamagedFile."""
    revisions = store.revisions if revision is None else store.revisions.with_next(revision.changed)
    places = store.snapshot()
    known = {}
    for record in store.records() if revision is None else revision.jobs:
        place = places.get(record.id)
        if place is None:
            continue
        filed = _filed(store, place) if place.status in OUTCOMES or revisions.number else None
        known[record.id] = Known(revisions.current(filed) if filed is not None else record, place, filed)
    return known


def _filed(store: Store, place: Place) -> Job | None:
    try:
        content = store.read_job(store.path(place), place.name.id)
    except DamagedFile as damage:
        raise _unreadable(store, damage.path, damage.why) from damage
    return None if content is None else content.job


def _unreadable(store: Store, path: str, why: str) -> DamagedFile:
    """Of one job nobody knows what it ran with: all is left as it was."""
    mend = command(os.path.dirname(store.layout.root), f"fsck {store.workflow.id} --repair")
    return DamagedFile(path, f"{why}; nothing was done: mend it first with {mend}, then say it again")


def _files(store: Store, jobs: Mapping[int, Known], *, by_content: bool) -> Files:
    """The files that matter to a job with an outcome, as they are now."""
    user_data = userdata.paths(store)
    plain: set[str] = set()
    summed: set[str] = set()
    for known in jobs.values():
        result = known.result
        if known.place.status not in OUTCOMES:
            continue
        plain.update(fingerprints.input_paths(known.job, user_data))
        plain.update(known.job.output_files)
        if by_content and result is not None:
            summed.update(path for path, was in result.inputs.items() if was[2] is not None)
    cwd = store.workflow.cwd
    now = fingerprints.take(sorted(plain - summed), cwd, hashed=False)
    now |= fingerprints.take(sorted(summed), cwd, hashed=True)
    return Files(now, by_content=by_content, user_data=user_data)


# -- doing


class _Apply:
    """One plan, carried out."""

    def __init__(self, store: Store, jobs: Mapping[int, Known], plan: Plan) -> None:
        self._store, self._jobs, self._plan = store, jobs, plan
        self._again = {step.id for step in plan.again}
        self._hand: dict[int, tuple[Status, Place]] = {}  # what is in our hands, and the outcome it had
        self._actor = Actor.born(store, identity(new_name(), kind="reinitialize"))

    def run(self, revision: Candidate | None) -> None:
        """z1 to z7, then settling. Raises UsageError and StorageError, and what is in our hands is put back first."""
        try:
            self._recall()
            self._check()
            self._let_wait()
            if revision is not None:
                # a runner may have come while we looked at everything
                revise.publish(self._actor, revision, lambda: _refuse_runners(self._store, but=self._actor.name))
            if self._again:
                actions.rearm(self._store, self._again)  # before any job of theirs can run
            self._bring_back()
            self._give()
            self._redefine()
        except TorcSpoolError:
            with suppress(StorageError):  # then a recovery does it, once we have ended
                self._put_back()
                self._actor.retire()
            raise
        self._actor.retire()
        Settler(self._store).settle()

    def _recall(self) -> None:
        """z2: out of `done/`, those that others wait for first."""
        for step in self._plan.again:
            place, name = step.known.place, step.known.place.filename
            if step.known.result is None or place.status is Status.CANCELED:
                continue
            mine = Place(Status.RUNNING, self._actor.name, name, place.name)
            self._actor.keep()
            moved = self._store.move(Move.RECALL, place, Status.RUNNING, self._actor.name)
            if moved is None and name not in fsops.names(self._actor.running):  # ENOENT alone is no proof (NFS)
                raise UsageError(_CHANGED.format(step.known.job.name))
            self._hand[step.id] = (place.status, mine)

    def _check(self) -> None:
        """z3: while nobody can release what waits, is everything that the plan touches as it was?"""
        places = self._store.snapshot()
        for step in self._plan.steps:
            if step.id in self._hand:
                continue
            was, now = step.known.place, places.get(step.id)
            waits = now is not None and now.status in _WAITING
            # a runner may have brought back by itself what was canceled, or released what waited
            if now is None or not (waits or now == was):
                raise UsageError(_CHANGED.format(step.known.job.name))
        for job in self._dependents():
            now = places.get(job)
            if now is not None and now != self._jobs[job].place and now.status not in _WAITING:
                raise UsageError(_CHANGED.format(self._jobs[job].job.name))

    def _dependents(self) -> Iterator[int]:
        """Those outside of the plan that wait for a job that runs again."""
        planned = {step.id for step in self._plan.steps}
        for job, known in self._jobs.items():
            if job not in planned and self._again.intersection(known.job.depends_on):
                yield job

    def _let_wait(self) -> None:
        """z4: new names for all that waits for what runs again, so that nobody releases it by what he remembers."""
        for step in self._plan.steps:
            if step.fate is Fate.WAIT:
                self._change(step.known, self._waits_anew)

    def _waits_anew(self, known: Known, place: Place) -> Place | None:
        if place.status is Status.READY:
            return self._store.move(Move.WAIT_AGAIN, place, Status.BLOCKED, new_attempt=True, **self._named(known))
        if place.status not in _WAITING:
            raise UsageError(_CHANGED.format(known.job.name))
        return self._store.move(Move.WAIT_ANEW, place, place.status, new_attempt=True, **self._named(known))

    def _bring_back(self) -> None:
        """z7: what was canceled, or has no result: those that others wait for first."""
        answered = changes.Answered(self._store)
        for step in self._plan.again:
            if step.id not in self._hand:
                answered.drop(step.id, step.known.place.name.attempt)
                self._change(step.known, self._comes_back)

    def _comes_back(self, known: Known, place: Place) -> Place | None:
        if place.status not in OUTCOMES:
            return place  # somebody has brought it back
        status, detail = self._home(known)
        return self._store.move(Move.RETRY, place, status, detail, new_attempt=True, **self._named(known))

    def _give(self) -> None:
        """z8: those that nobody waits for first, so that whoever is shown waits for what is not."""
        for step in reversed(self._plan.again):
            if step.id not in self._hand:
                continue
            status, detail = self._home(step.known)
            _, place = self._hand[step.id]
            names = self._named(step.known)
            self._actor.keep()
            if self._store.move(Move.GIVE, place, status, detail, new_attempt=True, **names) is None:
                self._actor.check_owned(Status.RUNNING)
                if place.filename in fsops.names(self._actor.running):
                    raise StorageError("rename", self._store.path(place), None)
            del self._hand[step.id]

    def _redefine(self) -> None:
        """z9: names that tell the new needs."""
        for step in self._plan.steps:
            if step.fate is Fate.REDEFINE:
                self._change(step.known, self._is_named)

    def _is_named(self, known: Known, place: Place) -> Place | None:
        if place.status in _OWNED or (place.status in OUTCOMES and place.status is not Status.CANCELED):
            return place
        names, cause = self._named(known), place.name.cause
        if not any(names.values()):
            return place
        return self._store.move(Move.REDEFINE, place, place.status, place.detail, cause=cause, **names)

    def _put_back(self) -> None:
        """Every job to the outcome that it had."""
        for job, (outcome, place) in list(self._hand.items()):
            self._store.move(Move.FINISH, place, outcome)
            del self._hand[job]

    def _change(self, known: Known, change: Callable[[Known, Place], Place | None]) -> None:
        place: Place | None = known.place
        self._actor.keep()
        for _ in range(_TRIES):
            if place is None or change(known, place) is not None:
                return
            place = self._store.locate(known.job.id)

    def _home(self, known: Known) -> tuple[Status, str | None]:
        """Ready where nothing that it waits for is outstanding."""
        if all(self._has_ended(known.job, awaited) for awaited in known.job.depends_on):
            return Status.READY, self._store.ready_detail(known.job)
        return Status.BLOCKED, None

    def _has_ended(self, job: Job, awaited: int) -> bool:
        if awaited in self._again or awaited not in self._jobs:
            return False
        status = self._jobs[awaited].place.status
        return status is Status.COMPLETED or (status in OUTCOMES and not job.cancel_on_blocking_job_failure)

    @staticmethod
    def _named(known: Known) -> dict[str, Any]:
        """What of the name has changed with the definition; a priority that a person has set since stays."""
        filed, job = known.filed, known.job
        if filed is None or filed.revision == job.revision:
            return {}
        rank = MAX_PRIORITY - job.priority if filed.priority != job.priority else None
        needs = job.resources.needs if filed.resources.needs != job.resources.needs else None
        return {"rank": rank, "needs": needs}
