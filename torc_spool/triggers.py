"""When an action is to be performed: what its trigger still waits for, from listings alone. No file is touched here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torc_spool.model import Action, Trigger

OF_JOBS = (Trigger.JOBS_READY, Trigger.JOBS_COMPLETE)
AT_START = (Trigger.WORKFLOW_START, Trigger.WORKER_START)
BEFORE_JOBS = (*AT_START, Trigger.JOBS_READY)  # who performs such an action claims no job meanwhile


class View(NamedTuple):
    """What one look at the directories says of the jobs."""

    ended: Collection[int]  # that have an outcome
    came: Collection[int] = ()  # that have become ready, whatever became of them since
    num_jobs: int = 0


def missing(action: Action, view: View) -> set[int]:
    """The jobs for which a trigger still waits. None for the triggers of a start, which wait for a runner alone."""
    if action.trigger is Trigger.JOBS_READY:
        return set(action.jobs).difference(view.came)
    if action.trigger is Trigger.JOBS_COMPLETE:
        return set(action.jobs).difference(view.ended)
    if action.trigger is Trigger.WORKFLOW_COMPLETE:
        return set(range(1, view.num_jobs + 1)).difference(view.ended)
    return set()


class Watch:
    """The jobs that are missed by actions that wait, kept up by what a runner itself does. It only says when it is
    worth while to look: what is done is decided on a fresh listing."""

    def __init__(self) -> None:
        self.due = True  # whether something may hold that a listing would show
        self.urgent = False  # whether, for all that is known here, something holds
        self.ended_some = False  # whether an outcome has come since the last look
        self._missing: dict[int, set[int]] = {}  # by number of the action
        self._for_ready: dict[int, set[int]] = {}  # numbers of the actions by job
        self._for_end: dict[int, set[int]] = {}

    def look(self, waiting: Mapping[int, Action], view: View) -> list[int]:
        """Take in a fresh view; returns the numbers of the actions whose triggers hold, in order."""
        self.due = self.urgent = self.ended_some = False
        self._missing, self._for_ready, self._for_end = {}, {}, {}
        held = []
        for number, action in sorted(waiting.items()):
            if action.trigger in OF_JOBS:
                missed = missing(action, view)
                holds = not missed
                self._await(number, action, missed)
            else:
                wanted = Trigger.WORKFLOW_COMPLETE if len(view.ended) >= view.num_jobs else Trigger.WORKFLOW_START
                holds = action.trigger is wanted
            if holds:
                held.append(number)
        return held

    def _await(self, number: int, action: Action, missed: set[int]) -> None:
        if not missed:
            return
        self._missing[number] = missed
        index = self._for_ready if action.trigger is Trigger.JOBS_READY else self._for_end
        for job in missed:
            index.setdefault(job, set()).add(number)

    def became_ready(self, job: int, *, alone: bool) -> None:
        """This runner released a job. `alone`: no other runner can do so."""
        self._strike(self._for_ready.pop(job, ()), job, alone)

    def ended(self, job: int, *, alone: bool, was_ready: bool = True) -> None:
        """A job came to its outcome by this runner. It has been ready, too, unless another's outcome canceled it."""
        self.ended_some = True
        if was_ready:
            self.became_ready(job, alone=alone)
        self._strike(self._for_end.pop(job, ()), job, alone)

    def _strike(self, numbers: Iterable[int], job: int, alone: bool) -> None:
        for number in numbers:
            self._missing[number].discard(job)
            self.urgent = self.urgent or not self._missing[number]
            # the others may have come to it by other runners, and each of us knows only of itself
            self.due = self.due or self.urgent or not alone
