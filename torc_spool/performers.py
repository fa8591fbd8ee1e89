"""All that a runner performs of the actions of the workflows that it serves."""

from __future__ import annotations

import math
from collections.abc import Collection

from torc_spool.performing import Performer


class Performers:
    """The performers of all workflows that a runner serves, of those that have actions. Others cost nothing."""

    def __init__(self) -> None:
        self._all: dict[int, Performer] = {}

    def add(self, workflow_id: int, performer: Performer) -> None:
        self._all[workflow_id] = performer

    def remove(self, workflow_id: int) -> None:
        performer = self._all.pop(workflow_id, None)
        if performer is not None:
            performer.close()

    @property
    def any_waits(self) -> bool:
        """Whether jobs of some workflow may be claimed when another runner has done what comes before."""
        return any(performer.waits for performer in self._all.values())

    def may_claim(self, workflow_id: int) -> bool:
        return workflow_id not in self._all or self._all[workflow_id].may_claim()

    def hold_back(self, workflow_id: int) -> bool:
        return workflow_id in self._all and self._all[workflow_id].holds_back

    def look(self, workflow_id: int) -> bool:
        return workflow_id in self._all and self._all[workflow_id].look_idly()

    def heed(self, changed: Collection[str]) -> None:
        """Take in in which directories something has appeared."""
        for performer in self._all.values():
            performer.stale = performer.stale or any(path in changed for path in performer.watched())

    def watched(self) -> list[str]:
        return [path for performer in self._all.values() for path in performer.watched()]

    def leave(self, *, stopped: bool, within_s: float) -> bool:
        """What has to be performed before the runner leaves; True while that has not ended."""
        begun = False
        for performer in self._all.values():
            if not stopped and performer.look_idly():
                begun = True
            else:
                begun = performer.leave(within_s=within_s if stopped else math.inf) or begun
        return begun
