"""What may still come to a runner that has nothing to do, and why the rest is left.

In a crowd no runner looks at all others: what it has not seen yet it waits for.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from torc_spool import crowd, naming, owners, select
from torc_spool.actor import Actor
from torc_spool.model import OUTCOMES, Status
from torc_spool.owners import Around
from torc_spool.select import Offer
from torc_spool.settle import Settler
from torc_spool.store import Place, Store


class Left(NamedTuple):
    """A job without an outcome, and why this runner leaves it so."""

    id: int
    name: str
    reason: str
    is_others: bool = False  # others run it, or may, or it waits for such


class Prospects:
    """Of one runner in one workflow."""

    def __init__(self, store: Store, settler: Settler, around: Around, directories: list[str] | None) -> None:
        self._store, self._settler, self._around = store, settler, around
        self._directories = directories  # of the schedulers that it may claim from; None: all
        self._holder: str | None = None  # who held something that we wait for, when we last looked
        self._unseen: list[str] | None = None  # at whom we have not looked since then; None: at nobody

    def may_follow(self, offer: Offer, mine: Actor | None) -> bool:
        """Whether a job in another runner's hands could still come to this one: released by it, or from its hands."""
        if owners.dead(owners.scan(self._store, mine=mine, around=self._around)):
            return True  # it has died since this runner looked, and is taken back when it looks again
        wanted = self._wanted(offer)
        return bool(wanted) and self._is_in_living_hands(wanted, mine)

    def _wanted(self, offer: Offer) -> set[int]:
        """The jobs without an outcome that something which this runner could run waits for, directly or not."""
        ledger = self._settler.ledger
        if ledger is None:
            return set()
        mine = None if self._directories is None else set(self._directories)
        found: set[int] = set()
        for job, filename in self._store.waiting(Status.BLOCKED).items():
            is_mine = mine is None or naming.scheduler_directory(ledger.scheduler(job)) in mine
            if is_mine and select.never_fits(naming.parse_job(filename).needs, offer) is None:
                found.update(ledger.awaited(job))
        stack = list(found)
        while stack:
            more = set(ledger.awaited(stack.pop())) - found
            found |= more
            stack += more
        return found - ledger.ended.keys()

    def _is_in_living_hands(self, wanted: set[int], mine: Actor | None) -> bool:
        """Whether a runner that lives holds one of these; true too while there are some at whom we have not looked."""
        holders = self._around.holders
        if self._holder in holders and self._lets_hope(self._holder, wanted, mine):
            return True
        self._holder = None
        if self._unseen is None:
            self._unseen = crowd.ring(holders, self._around.own)
        looked_at, rest = self._unseen[: crowd.LOOKED_AT], self._unseen[crowd.LOOKED_AT :]
        for name in looked_at:
            if name in holders and self._lets_hope(name, wanted, mine):
                self._holder, self._unseen = name, None
                return True
        self._unseen = rest or None
        return bool(rest)

    def _lets_hope(self, name: str, wanted: set[int], mine: Actor | None) -> bool:
        held = {place.name.id for place in self._store.held_by([name])}
        # one that has died since we looked around is taken back when we look again
        return bool(held & wanted) and owners.look(self._store, name, mine).state in ("alive", "dead")

    def left(self, offer: Offer, mine: Actor | None) -> list[Left]:
        """The jobs without an outcome, and why; those that only wait for others come last."""
        names = {record.id: record.name for record in self._store.records()}
        ring = crowd.ring(self._around.holders, self._around.own)
        is_all = len(ring) <= crowd.LOOKED_AT
        near = ring if is_all else ring[: crowd.WATCHED]
        snapshot = self._store.snapshot(owners=None if is_all else near)
        holding = {place.detail for place in snapshot.values() if place.status in (Status.PENDING, Status.RUNNING)}
        states = {name: owners.look(self._store, name, mine).state for name in holding if name}
        set_aside = self._store.set_aside_jobs()
        open_jobs = {
            job: name for job, name in names.items() if job not in snapshot or snapshot[job].status not in OUTCOMES
        }
        left = []
        for job, name in open_jobs.items():
            place = snapshot.get(job)
            if place is None and not is_all and job not in set_aside:
                left.append(Left(job, name, "is in the hands of another runner", is_others=True))
            else:
                why = self._why_left(job, place, offer, states, open_jobs)
                left.append(Left(job, name, why, self._is_others(place, states)))
        return sorted(left, key=lambda item: (item.reason.startswith("waits for"), item.id))

    def _why_left(
        self,
        job: int,
        place: Place | None,
        offer: Offer,
        states: dict[str, str],
        open_jobs: dict[int, str],
    ) -> str:
        workflow = self._store.workflow.id
        if place is None:
            return f"was set aside; see {self._store.layout.aside}"
        if place.status is Status.HELD:
            return f"is held; let it go with: torc-spool release {workflow} {_typed(job, open_jobs[job])}"
        if place.status is Status.BLOCKED:
            awaited = self._settler.ledger.awaited(job) if self._settler.ledger else ()
            waits = [open_jobs[other] for other in awaited if other in open_jobs]
            more = f" and {len(waits) - 3} more" if len(waits) > 3 else ""
            return "waits for " + (", ".join(waits[:3]) + more or "nothing any more")
        if place.status is Status.READY:
            return self._why_ready(place, offer)
        owner = place.detail or ""
        state = states.get(owner, "ended")
        hint = "" if state == "alive" else f"; if it is dead: torc-spool recover {workflow} --dead {owner}"
        return f"is {place.status} in the hands of runner {owner} ({state}){hint}"

    def _is_others(self, place: Place | None, states: dict[str, str]) -> bool:
        """Of one that waits that says nothing of what it waits for, which is left too."""
        if place is None or place.status is Status.HELD:
            return False
        if place.status is Status.READY:
            return self._directories is not None and place.detail not in self._directories
        return place.status is Status.BLOCKED or states.get(place.detail or "") == "alive"

    def _why_ready(self, place: Place, offer: Offer) -> str:
        if self._directories is not None and place.detail not in self._directories:
            return f"is bound to scheduler {place.detail}, which this runner does not serve"
        return select.never_fits(place.name.needs, offer) or "is ready"


def _typed(job: int, name: str) -> str:
    """How a person names a job in a shell: by its id, where the name is an option or cannot be typed."""
    return shlex.quote(name) if name.isprintable() and not name.startswith("-") else str(job)
