"""The files of a workflow's actions: where they lie, who performs them, and how they are put back to be done again.

`docs/spool-format.md` has the steps (x1 to x3). A workflow without actions has none of these directories.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torc_spool import fsops, naming, recovery, triggers
from torc_spool.contents import encode
from torc_spool.errors import NotFound, UsageError
from torc_spool.model import Action, Status, Trigger
from torc_spool.naming import ActionName
from torc_spool.store import Store
from torc_spool.triggers import View

_TRIES = 20
_FILES = ("waiting", "running", "done")

RUN_COMMANDS = "run_commands"
SCHEDULE_NODES = "schedule_nodes"


class Lying(NamedTuple):
    """An action's file, and where it was seen."""

    where: str  # "waiting", "running", "done" or "persistent"
    name: ActionName

    def path(self, store: Store) -> str:
        return f"{directory(store, self.where)}/{self.name}"


def directory(store: Store, where: str) -> str:
    layout = store.layout
    known = {
        "waiting": layout.actions_waiting,
        "running": layout.actions_running,
        "done": layout.actions_done,
        "persistent": layout.actions_persistent,
    }
    return known[where]


# -- looking


def listed(store: Store, where: str) -> tuple[dict[int, ActionName], list[str]]:
    """The actions in one of the directories, by number, the latest performance of each; and foreign names."""
    found: dict[int, ActionName] = {}
    foreign: list[str] = []
    for filename in fsops.names(directory(store, where)):
        name = naming.parse_action(filename)
        if name is None or not belongs(name, where) or name.number > store.workflow.num_actions:
            foreign.append(filename)
        elif name.number not in found or (found[name.number].performance or 0) < (name.performance or 0):
            found[name.number] = name
    return found, foreign


def belongs(name: ActionName, where: str) -> bool:
    """Whether an action of this name may lie there."""
    if where == "persistent":
        return name.performance is None
    parts = {"waiting": (False, False), "running": (True, False), "done": (True, True)}[where]
    return name.performance is not None and (name.runner is not None, name.code is not None) == parts


def lying(store: Store) -> dict[int, Lying]:
    """Where each one-time action is. One that moves meanwhile is shown in one of the places where it was."""
    found: dict[int, Lying] = {}
    for where in _FILES:
        for number, name in listed(store, where)[0].items():
            if number not in found or (found[number].name.performance or 0) <= (name.performance or 0):
                found[number] = Lying(where, name)
    return found


def living(store: Store) -> dict[str, str]:
    """The states ("alive", "silent") of the runners that may live."""
    owners = recovery.scan(store, only_holders=True)
    return {owner.name: owner.state for owner in owners if owner.state in ("alive", "silent")}


def view(store: Store, *, with_ready: bool) -> View:
    """What the directories say of the jobs. A job that is missed for the moment is found by the next look."""
    total = store.workflow.num_jobs
    if not with_ready:
        return View(store.outcomes().ended, (), total)
    places = store.snapshot()
    ended = {job for job, place in places.items() if place.status in _OUTCOMES}
    came = {job for job, place in places.items() if place.status in _CAME and place.name.cause is None}
    return View(ended, came, total)


_OUTCOMES = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TERMINATED})
_CAME = _OUTCOMES | {Status.READY, Status.PENDING, Status.RUNNING}  # a held job is not ready to run


# -- moves


def claim(store: Store, name: ActionName, runner: str) -> ActionName | None:
    """x1: from waiting into a name of the claimer's own. None when another was faster."""
    mine = name._replace(runner=runner)
    source = Lying("waiting", name).path(store)
    won = fsops.rename_to_own(source, store.layout.actions_running, str(mine))
    return mine if won else None


def take_over(store: Store, name: ActionName, runner: str) -> ActionName | None:
    """x4: what a dead performer has begun goes on in the taker's name. None when another was faster.

    Only for what can be gone on with: the allocations of `schedule_nodes` are found in Slurm.
    """
    mine = name._replace(runner=runner)
    won = fsops.rename_to_own(Lying("running", name).path(store), store.layout.actions_running, str(mine))
    return mine if won else None


def finish(store: Store, name: ActionName, code: int) -> bool:
    """x2: performed. False when the file is gone: somebody has put the action back meanwhile."""
    source = Lying("running", name).path(store)
    return fsops.rename_to_own(source, store.layout.actions_done, str(name._replace(code=code)))


def put_back(store: Store, place: Lying) -> bool:
    """x3: back to waiting, as the next performance. False when the file is gone."""
    again = str(place.name.again())
    return fsops.rename_to_own(place.path(store), store.layout.actions_waiting, again)


def repeat(store: Store, number: int, *, force: bool = False) -> ActionName:
    """Have an action performed once more, whatever came of it. Raises NotFound, UsageError."""
    action = _known(store, number)
    for _ in range(_TRIES):
        place = lying(store).get(number)
        if place is None:
            made = _make_anew(store, action)
            if made is not None:
                return made
            continue
        if place.where == "waiting":
            raise UsageError(f"action {number} waits already, as its performance {place.name.performance}")
        if place.where == "running" and not force and place.name.runner in living(store):
            raise UsageError(
                f"action {number} is being performed by runner {place.name.runner}, which may live; "
                "wait for its end, or pass --force to have it performed once more beside it"
            )
        if put_back(store, place):
            return place.name.again()
    raise NotFound(f"action {number} was not found; see {store.layout.aside}")


def _known(store: Store, number: int) -> Action:
    records = store.action_records()
    if not 1 <= number <= len(records):
        has = f"actions 1 to {len(records)}" if records else "no actions"
        raise NotFound(f"workflow {store.workflow.id} has no action {number}; it has {has}")
    action = records[number - 1]
    if action.is_of_each_runner:
        raise UsageError(f"action {number} ({action.trigger}) is performed by each runner; there is none to repeat")
    return action


def _make_anew(store: Store, action: Action) -> ActionName | None:
    """From the workflow's own record, one whose file was set aside."""
    evidence = [
        (found.performance or 0, filename)
        for filename in store.aside()
        if (found := naming.aside_action(filename)) is not None and found.number == action.number
    ]
    if not evidence:
        return None
    name = ActionName(action.number, action.trigger, 1 + max(evidence)[0])
    fsops.replace(store.layout.actions_waiting, str(name), encode(action), store.file_mode)
    for _, filename in evidence:
        fsops.rename(f"{store.layout.aside}/{filename}", f"{store.layout.aside}/.{filename}")
    return name


def rearm(store: Store, touched_jobs: Collection[int]) -> list[int]:
    """Put one-time actions that were performed, or interrupted, back to waiting, where jobs of theirs are to run
    again: all of a workflow's start and end, and those that name a touched job. Returns their numbers."""
    records = {action.number: action for action in store.action_records()}
    if not records:
        return []
    touched = {
        number
        for number, action in records.items()
        if action.trigger not in triggers.OF_JOBS or set(action.jobs) & set(touched_jobs)
    }
    again: set[int] = set()
    for _ in range(_TRIES):
        places = {number: place for number, place in lying(store).items() if number in touched - again}
        performing = [place for place in places.values() if place.where == "running"]
        alive = living(store) if performing else {}
        performed = [place for place in places.values() if place.where != "waiting" and place.name.runner not in alive]
        moved = {place.name.number for place in performed if put_back(store, place)}
        again |= moved
        if len(moved) == len(performed):
            break  # else one was performed to its end while we looked
    return sorted(again)


# -- rows


def rows(store: Store) -> list[dict[str, Any]]:
    """A row for each action, in order of number."""
    records = store.action_records()
    if not records:
        return []
    places, alive = lying(store), living(store)
    once = {action.number for action in records if not action.is_of_each_runner}
    now = view(store, with_ready=any(action.trigger is Trigger.JOBS_READY for action in records))
    names: dict[int, str] = {}
    if any(action.jobs for action in records):
        names = {record.id: record.name for record in store.records()}
    return [_row(action, places.get(action.number), action.number in once, alive, now, names) for action in records]


def _row(
    action: Action, place: Lying | None, once: bool, alive: Collection[str], now: View, names: Mapping[int, str]
) -> dict[str, Any]:
    state = state_of(place, alive) if once else "each runner"
    waits = _waits_for(action, now, names) if state in ("waiting", "each runner") else None
    return {
        "number": action.number,
        "trigger": str(action.trigger),
        "kind": action.kind,
        "state": state,
        "performance": place.name.performance if place else None,
        "runner": place.name.runner if place else None,
        "return_code": place.name.code if place else None,
        "waits_for": waits,
        "jobs": [names.get(job, str(job)) for job in action.jobs],
        "commands": list(action.commands),
    }


def state_of(place: Lying | None, alive: Collection[str]) -> str:
    """The word for where a one-time action is."""
    if place is None:
        return "set_aside"
    if place.where == "done":
        return "failed" if place.name.code else "done"
    if place.where == "running":
        return "running" if place.name.runner in alive else "interrupted"
    return "waiting"


def _waits_for(action: Action, now: View, names: Mapping[int, str]) -> str:
    if action.trigger is Trigger.WORKER_COMPLETE:
        return "the end of each runner"
    missed = sorted(triggers.missing(action, now))
    if action.trigger is Trigger.WORKFLOW_START and len(now.ended) >= now.num_jobs:
        return "jobs to run: all have an outcome"
    if not missed:
        return "a runner where sbatch is" if action.kind == SCHEDULE_NODES else "a runner"
    if action.trigger is Trigger.WORKFLOW_COMPLETE:
        return f"the outcomes of {len(missed)} jobs" if len(missed) > 1 else "the outcome of 1 job"
    shown = ", ".join(names.get(job, str(job)) for job in missed[:3])
    more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
    return f"{shown}{more}"


def counts(store: Store) -> dict[str, int]:
    """How many one-time actions are in each state."""
    found = dict.fromkeys(("waiting", "running", "done", "failed", "interrupted"), 0)
    places = lying(store)
    alive = living(store) if any(place.where == "running" for place in places.values()) else ()
    for place in places.values():
        found[state_of(place, alive)] += 1
    return found


def interrupted(names: Iterable[ActionName], alive: Collection[str]) -> list[ActionName]:
    """Those of what lies in `running/` whose performer is not there any more."""
    return [name for name in names if name.runner not in alive]
