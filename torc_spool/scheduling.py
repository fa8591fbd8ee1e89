"""`schedule_nodes` actions: ask Slurm for what an action wants, exactly once.

An allocation of an action bears the action's key in its comment. So whoever goes on after a dead performer finds in
Slurm what that one had asked for, and asks for the rest only. A runner does this in a process beside its jobs; from a
login node a person does (`perform_due`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence

from torc_spool import actions, allocations, fsops, processes, slurm, triggers
from torc_spool.actions import Lying
from torc_spool.actor import Actor, identity, new_name
from torc_spool.allocations import Wish
from torc_spool.errors import NotFound, SlurmError, StorageError, TorcSpoolError
from torc_spool.model import Action, Allocation, Trigger
from torc_spool.naming import ActionName
from torc_spool.recovery import RUNNER_VARIABLE, WORKFLOW_VARIABLE
from torc_spool.store import Store

START = frozenset({Trigger.WORKFLOW_START})
_ASKING = ".asking~"  # before the name of who asks for nodes


def key(store: Store, name: ActionName) -> str:
    """By what the allocations of one performance are found in Slurm, whoever goes on with it.

    The same for all who perform it in turn, and another for each runner where each performs it.
    """
    return f"{tag(store)}-a{name.number}.{name.performance or name.runner}"


def tag(store: Store) -> str:
    """What tells this workflow from others of its number, in other spools."""
    workflow = store.workflow
    submit = f"{workflow.id} {workflow.submitted!r} {workflow.submitted_on} {workflow.cwd}"
    return hashlib.sha256(submit.encode(errors="surrogateescape")).hexdigest()[:8]


def perform(
    store: Store,
    number: int,
    mark: str,
    *,
    again: bool,
    tell: Callable[[Allocation], None] = lambda _allocation: None,
    program: Sequence[str] | None = None,
) -> None:
    """Ask for the allocations of an action that we have claimed, less those that are recorded already.

    `mark` is its key. `again`: somebody has begun it before us, so Slurm is asked first what there is. Raises
    SlurmError and what `allocations.prepare` raises: those that were told have been submitted nevertheless.
    """
    action = _record(store, number)
    wish = Wish(
        scheduler=action.scheduler,
        one_runner_per_node=action.start_one_worker_per_node,
        max_parallel_jobs=action.max_parallel_jobs,
    )
    prepared = allocations.prepare(store, wish, program or allocations.program(), mark)
    ask_for(store, prepared, action.num_allocations, again=again, tell=tell)


def ask_for(
    store: Store, prepared: allocations.Prepared, count: int, *, again: bool, tell: Callable[[Allocation], None]
) -> None:
    """Ask for so many allocations of one key, less those that are recorded, or (`again`) that Slurm has already.

    Raises SlurmError, StorageError: those that were told have been submitted nevertheless.
    """

    def missing() -> int:
        return count - sum(each.key == prepared.launch.key for each in allocations.recorded(store))

    def take_in() -> None:
        known = {each.job_id for each in allocations.recorded(store)}
        for job_id in slurm.submitted(prepared.launch.job_name, prepared.launch.mark):
            if job_id not in known:
                tell(allocations.record(store, prepared, job_id))

    allocations.make_directory(store)
    if again:
        take_in()
    try:
        for allocation in allocations.submit(store, prepared, missing()):
            tell(allocation)
    except SlurmError:
        take_in_quietly(take_in)  # no answer does not mean that nothing was given
        if missing() > 0:
            raise


@contextlib.contextmanager
def turn(store: Store) -> Iterator[bool]:
    """Whether nobody else is about to ask for nodes of whom nobody's directories tell that they are wanted (j1 to j3).

    Of two at once both may hear no, never both yes: each says so first, and then looks. Raises StorageError.
    """
    allocations.make_directory(store)
    directory = store.layout.slurm
    actor = Actor.born(store, identity(new_name(), kind="schedule-nodes"))
    mine = f"{_ASKING}{actor.name}"
    try:
        fsops.create(f"{directory}/{mine}", b"", store.file_mode)
        asking = [name for name in fsops.entries(directory) or () if name.startswith(_ASKING) and name != mine]
        alive = actions.living(store) if asking else {}  # by a look after that: who asks has directories before it asks
        dead = [name for name in asking if name.removeprefix(_ASKING) not in alive]
        is_ours = len(dead) == len(asking)
        for name in dead if is_ours else ():
            fsops.remove_file(f"{directory}/{name}")
        yield is_ours
    finally:
        with contextlib.suppress(StorageError):
            fsops.remove_file(f"{directory}/{mine}")
        actor.retire()


def take_in_quietly(take_in: Callable[[], None]) -> None:
    """Where Slurm does not answer this either, what it has said before is what counts."""
    try:
        take_in()
    except SlurmError:
        return


def _record(store: Store, number: int) -> Action:
    records = store.action_records()
    if not 1 <= number <= len(records) or records[number - 1].kind != actions.SCHEDULE_NODES:
        raise NotFound(f"workflow {store.workflow.id} has no action {number} that schedules nodes")
    return records[number - 1]


def bury(store: Store, name: ActionName) -> None:
    """Kill what a dead performer has left on this host, before others go on: it might still ask for more.

    Only this workflow's: the performer may live, and serve others.
    """
    if name.runner is not None:
        workflow = (WORKFLOW_VARIABLE, str(store.workflow.id))
        processes.kill_marked(RUNNER_VARIABLE, name.runner, also=workflow)


def perform_due(
    store: Store, tell: Callable[[Allocation], None], only: Collection[Trigger] = frozenset(Trigger)
) -> list[int]:
    """Perform the actions that schedule nodes, once each, whose time has come or that were interrupted.

    Returns their numbers. Raises SlurmError for the first that is refused: when nothing was given for it, it waits
    again; otherwise it is interrupted, and who goes on with it asks for the rest.
    """
    records = {each.number: each for each in store.action_records() if each.kind == actions.SCHEDULE_NODES}
    wanted = {number: each for number, each in records.items() if each.trigger in only and not each.is_of_each_runner}
    if not wanted:
        return []
    if not slurm.is_here():
        raise SlurmError("sbatch", "is not installed here, or not on the PATH", "call this on a login node")
    due = _due(store, wanted)
    if not due:
        return []
    performed = []
    actor = Actor.born(store, identity(new_name(), kind="schedule-nodes"))
    try:
        for name, again in due:
            mine = (actions.take_over if again else actions.claim)(store, name, actor.name)
            if mine is not None:
                _perform_one(store, mine, tell, again=again)
                performed.append(name.number)
    finally:
        actor.retire()
    return performed


def _due(store: Store, wanted: dict[int, Action]) -> list[tuple[ActionName, bool]]:
    """Those that wait and whose trigger holds, and the interrupted ones (True)."""
    view = actions.view(store, with_ready=any(each.trigger is Trigger.JOBS_READY for each in wanted.values()))
    alive = actions.living(store)
    due = []
    for number, place in sorted(actions.lying(store).items()):
        if number not in wanted:
            continue
        if place.where == "waiting" and not triggers.missing(wanted[number], view):
            due.append((place.name, False))
        elif place.where == "running" and place.name.runner not in alive:
            bury(store, place.name)
            due.append((place.name, True))
    return due


def _perform_one(store: Store, name: ActionName, tell: Callable[[Allocation], None], *, again: bool) -> None:
    given: list[Allocation] = []

    def note(allocation: Allocation) -> None:
        given.append(allocation)
        tell(allocation)

    try:
        perform(store, name.number, key(store, name), again=again, tell=note)
    except TorcSpoolError:
        if not given and not again:
            actions.put_back(store, Lying("running", name))
        raise
    actions.finish(store, name, 0)
