"""Helping what did not complete: a look, a plan (pure, in `remedies`), then each job by itself. A dry run is the plan.

The steps are numbered as in `docs/spool-format.md`. Runners may be at work: what is moved is moved from where it was
seen, by its name of then, so that a job that has moved on since is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from torc_spool import ceilings, changes, fate, fsops, naming, recovery, remedies
from torc_spool.actor import Actor
from torc_spool.again import in_order
from torc_spool.contents import Content
from torc_spool.errors import DamagedFile, StorageError, TorcSpoolError
from torc_spool.fate import Loss
from torc_spool.lifecycle import Move
from torc_spool.model import OUTCOMES, Attempt, Job, Resources, RunnerRecord, Status
from torc_spool.recovery import Owner, Recovered
from torc_spool.remedies import Remedy, Terms
from torc_spool.settle import Settler
from torc_spool.store import Place, Store

HELPED = (Status.FAILED, Status.TERMINATED)


class Case(NamedTuple):
    """A job that did not complete, and what is to be done about it."""

    id: int
    name: str
    place: Place  # where its outcome is, or would be once the dead are taken back
    job: Job  # as it would run next
    remedy: Remedy

    def row(self) -> dict[str, object]:
        had, gets = self.job.resources, self.remedy.resources
        return {
            "job": self.id,
            "name": self.name,
            "status": str(self.place.status),
            "attempt": self.place.name.attempt,
            "cause": self.remedy.cause,
            "action": "retry" if self.remedy.is_retried else "leave",
            "memory_bytes": had.memory_bytes,
            "new_memory_bytes": gets.memory_bytes,
            "runtime_s": had.runtime_s,
            "new_runtime_s": gets.runtime_s,
            "why": self.remedy.why,
        }


class Recovery(NamedTuple):
    """What a recovery did, or would do."""

    steps: list[Recovered]  # with the work of the dead
    owners: list[Owner]  # who are dead
    cases: list[Case]  # what did not complete, in order of id


def recover(store: Store, terms: Terms | None, *, said_dead: tuple[str, ...] = (), dry_run: bool = False) -> Recovery:
    """Take back the work of the dead; then, with `terms`, have run again what did not complete and can be helped.

    Twice in a row changes nothing the second time. Raises UsageError, NotFound, StorageError.
    """
    if terms is not None:
        terms.check()
    steps, owners = changes.recover(store, said_dead=said_dead, dry_run=dry_run)
    if terms is None:
        return Recovery(steps, owners, [])
    ahead = _ahead(store, steps, owners) if dry_run else {}
    cases = look(store, terms, ahead)
    if not dry_run:
        cases = apply(store, cases)
    return Recovery(steps, owners, cases)


# -- looking


def look(store: Store, terms: Terms, ahead: Mapping[int, tuple[Place, Job]] | None = None) -> list[Case]:
    """Every job that did not complete, and what is to be done. `ahead`: where a recovery would put jobs of the dead."""
    places = {job: place for job, place in store.snapshot().items() if place.status in HELPED}
    places |= {job: place for job, (place, _) in (ahead or {}).items() if place.status in HELPED}
    if not places:
        return []
    runners = list(_runners(store))
    workflow = store.workflow
    known: dict[str | None, ceilings.Ceilings] = {}
    cases = []
    for job, place in sorted(places.items()):
        filed = ahead[job][1] if ahead and job in ahead else _filed(store, place)
        if filed is None:
            continue
        current = store.revisions.current(filed)
        if current.scheduler not in known:
            known[current.scheduler] = ceilings.of_job(
                current.scheduler, workflow.schedulers, workflow.slurm_defaults, workflow.settings, runners
            )
        result = _result(filed, place)
        remedy = remedies.of(current, result, known[current.scheduler], terms)
        cases.append(Case(job, current.name, place, current, remedy))
    return cases


def _filed(store: Store, place: Place) -> Job | None:
    try:
        content = store.read_job(store.path(place), place.name.id)
    except DamagedFile:
        return None  # a retry by a person sets it aside
    return None if content is None else content.job


def _result(job: Job, place: Place) -> Attempt | None:
    last = job.attempts[-1] if job.attempts else None
    return last if last is not None and last.attempt == place.name.attempt and last.outcome in OUTCOMES else None


def _runners(store: Store) -> Iterator[RunnerRecord]:
    """All that the workflow has had."""
    names = filter(naming.is_runner, fsops.names(store.layout.runners))
    found = [store.runner_record(store.layout.runner(name)) for name in names]
    found += [owner.record for owner in recovery.taken_owners(store)]
    yield from (record for record in found if record is not None and record.kind == "runner")


def _ahead(store: Store, steps: list[Recovered], owners: list[Owner]) -> dict[int, tuple[Place, Job]]:
    """Where taking back the dead would put jobs, and with what content: a dry run must look that far."""
    losses = {owner.name: owner.loss for owner in owners}
    by_file = {step.filename: step for step in steps}
    found = {}
    for place in store.held_by_owners():
        step = by_file.get(place.filename)
        if step is None:
            continue
        with suppress(DamagedFile):
            content = store.read_job(store.path(place), place.name.id)
            came = None if content is None else _comes_to(place, content, step, losses[step.runner])
            if came is not None:
                found[step.job] = (place._replace(status=came[0], detail=None), came[1])
    return found


def _comes_to(place: Place, content: Content, step: Recovered, loss: Loss) -> tuple[Status, Job] | None:
    outcome = recovery.ENDS.get(step.action)
    if outcome is None:
        shown = fate.result(content, place.name.attempt)
        return None if shown is None or shown.outcome is None else (shown.outcome, content.job)
    lost = fate.lost(place, content, loss, {}, outcome, by="")
    attempts = content.job.attempts if lost is None else (*content.job.attempts, lost)
    return outcome, msgspec.structs.replace(content.job, attempts=attempts)


# -- doing


def apply(store: Store, cases: list[Case]) -> list[Case]:
    """Have run again what is to be. Returns the cases, but those that have moved on meanwhile. Raises StorageError."""
    retried = {case.id: case for case in cases if case.remedy.is_retried}
    if not retried:
        return cases
    doing = _Apply(store, retried)
    gone = doing.run()
    return [case for case in cases if case.id not in gone]


class _Apply:
    """One plan, carried out: a job whose resources change is taken into this actor's hands for that."""

    def __init__(self, store: Store, cases: Mapping[int, Case]) -> None:
        self._store, self._cases = store, cases
        self._settler = Settler(store)
        self._once = changes.Once(store, "recover")
        self._hand: dict[int, tuple[Status, Place]] = {}  # what is in our hands, and the outcome that it had

    def run(self) -> set[int]:
        """The ids of those that were not where they had been seen."""
        gone: set[int] = set()
        self._settler.settle()
        if self._settler.ledger is not None:
            for job in self._cases:  # so that what waits for one of them waits
                self._settler.ledger.forget(job)
        try:
            for job in in_order(record for record in self._store.records() if record.id in self._cases):
                if job in self._cases and not self._one(self._cases[job]):
                    gone.add(job)
        except TorcSpoolError:
            self._put_back()
            raise
        finally:
            self._once.retire()
        self._settler.settle()
        return gone

    def _one(self, case: Case) -> bool:
        status, detail = changes.return_to(self._store, self._settler, case.job, case.place)
        if case.remedy.resources == self._filed_resources(case):
            # its name tells less than its content where somebody died between g3 and g4 (X38)
            needs = case.remedy.resources.needs
            moved = self._store.move(Move.RETRY, case.place, status, detail, new_attempt=True, needs=needs)
        else:
            moved = self._adjust(self._once.born(), case, status, detail)
        if moved is not None:
            self._settler.came_back(case.id)
        return moved is not None

    def _filed_resources(self, case: Case) -> Resources | None:
        filed = _filed(self._store, case.place)
        return None if filed is None else filed.resources

    def _adjust(self, actor: Actor, case: Case, status: Status, detail: str | None) -> Place | None:
        """g2 to g4."""
        store, place = self._store, case.place
        mine = place._replace(status=Status.RUNNING, detail=actor.name)
        moved = store.move(Move.RECALL, place, Status.RUNNING, actor.name)
        if moved is None and place.filename not in fsops.names(actor.running):  # ENOENT alone is no proof (NFS)
            return None
        self._hand[case.id] = (place.status, mine)
        content = actor.load(place.filename, case.id, Status.RUNNING)
        if content is None:
            raise StorageError("read", store.path(mine), None)
        data = content.redefined({"resources": case.remedy.resources}).data
        fsops.replace(actor.running, place.filename, data, store.file_mode)
        needs = case.remedy.resources.needs
        given = store.move(Move.GIVE, mine, status, detail, new_attempt=True, needs=needs)
        if given is None:
            actor.check_owned(Status.RUNNING)
            if place.filename in fsops.names(actor.running):
                raise StorageError("rename", store.path(mine), None)
        del self._hand[case.id]
        return given

    def _put_back(self) -> None:
        """Every job to the outcome that it had; where the disk refuses that too, a recovery does it."""
        for outcome, place in self._hand.values():
            with suppress(StorageError):
                self._store.move(Move.FINISH, place, outcome)
