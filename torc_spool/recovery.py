"""Taking back the work of the dead: scan, a plan (pure), then apply. A dry run is the plan.

Unknown means alive. The steps are numbered as in `docs/spool-format.md`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torc_spool import fate, fsops, naming, processes
from torc_spool.actor import Actor, Taking, decode_journal
from torc_spool.contents import Content, encode
from torc_spool.crowd import RUNNER_VARIABLE as RUNNER_VARIABLE
from torc_spool.errors import DamagedFile, NotFound, StorageError
from torc_spool.model import OUTCOMES, Decision, RunnerEnd, RunnerRecord, Status
from torc_spool.naming import Cause
from torc_spool.owners import SAID as SAID
from torc_spool.owners import Around
from torc_spool.owners import Owner as Owner
from torc_spool.owners import dead as dead
from torc_spool.owners import scan as scan
from torc_spool.owners import taken_owners as taken_owners
from torc_spool.store import Place, Store

WORKFLOW_VARIABLE = "TORC_WORKFLOW_ID"  # the same


ENDS = {"terminate": Status.TERMINATED, "fail": Status.FAILED}  # what becomes of a job by its runner's death


class Recovered(NamedTuple):
    """What a recovery did, or would do, with one job."""

    job: int
    filename: str
    runner: str
    action: str  # "requeue", "keep result", "cancel", "terminate", "fail", "set aside"


def plan(store: Store, owner: Owner) -> list[Recovered]:
    """What taking back an owner's work would do now: for a dry run."""
    names = {owner.name, *_family(store, owner.directory)}
    wishes = _wishes(store)
    steps: list[Recovered] = []
    for place in store.held_by_owners():
        parts = naming.owners(place.detail or "")
        if parts is None or not {*parts} & names:
            continue
        steps.append(Recovered(place.name.id, place.filename, owner.name, fate.of(store, place, wishes, owner.loss)))
    return sorted(steps)


def take_back(actor: Actor, owner: Owner) -> list[Recovered] | None:
    """Fence a dead owner and give its work away (v2 to v11). None when another taker was faster.

    Raises StorageError; then the actor must not retire: whoever takes over from it finishes the work.
    """
    store = actor.store
    actor.taking[owner.name] = Taking(owner.evidence, owner.walltime, owner.cause, {}, [])
    taken = store.layout.taken(actor.name)
    fsops.make_directory(taken, store.directory_mode)
    record = f"{taken}/{owner.name}"
    if not fsops.rename_directory(owner.directory, record) and owner.name not in fsops.names(taken):
        if owner.record is not None or owner.name not in store.owner_directories():
            del actor.taking[owner.name]
            return None
        fsops.make_directory(record, store.directory_mode)  # no record was ever there: a person says it is dead
    return finish_taking(actor, owner)


def finish_taking(actor: Actor, owner: Owner) -> list[Recovered]:
    """The rest of taking back, once this actor has won it. Where it was cut short, it is done again from its start."""
    store = actor.store
    record = f"{store.layout.taken(actor.name)}/{owner.name}"
    family = {owner.name: owner.record, **_family(store, record)}
    taking = actor.taking[owner.name]
    places = taking.places
    for status in (Status.RUNNING, Status.PENDING):
        _fence(actor, status, family, places)
    # only now: a runner that lives after all would take its killed jobs for failed ones, and record that
    _kill_left(family, store.workflow.id)
    steps = _give_away(actor, owner, taking, _started(store, record))
    for path in reversed(_unended(store, record)):  # the innermost first: an end hides those inside from who comes next
        taker = path.split("/")[-3]
        _write_end(actor, path, f"{taker} had taken it for dead, and died before it was through")
    _write_end(actor, record, owner.evidence, tuple(taking.decided))
    fsops.remove_file(f"{store.layout.requests}/{naming.Request(runner=owner.name)}")
    del actor.taking[owner.name]
    return steps


def _write_end(actor: Actor, record: str, evidence: str | None, decided: tuple[Decision, ...] = ()) -> None:
    """v11."""
    end = RunnerEnd(state="dead", time=time.time(), evidence=evidence, recovered_by=actor.name, decisions=decided)
    if not fsops.replace(record, "end.json", encode(end), actor.store.file_mode):
        actor.check_owned(Status.RUNNING)
        raise StorageError("write", f"{record}/end.json", errno.ESTALE)


def _started(store: Store, record: str) -> dict[tuple[int, int], dict[str, Any]]:
    """What the journals of the dead say of the attempts that they had started: who, when, and where the output is."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    stack = [record]
    while stack:
        directory = stack.pop()
        with suppress(DamagedFile):
            content = fsops.read(f"{directory}/journal")
            for event in decode_journal(content.data) if content else ():
                job, attempt = event.get("id"), event.get("attempt")
                if event.get("event") == "start" and isinstance(job, int) and isinstance(attempt, int):
                    found[job, attempt] = event | {
                        "runner": os.path.basename(directory),
                        "host": _host(store, directory),
                    }
        stack += [f"{directory}/taken/{name}" for name in fsops.names(f"{directory}/taken")]
    return found


def _host(store: Store, directory: str) -> str | None:
    record = store.runner_record(directory)
    return None if record is None else record.host


def _family(store: Store, directory: str) -> dict[str, RunnerRecord | None]:
    """All whose work an owner had taken itself, at any depth, and not yet given away."""
    return {path.rsplit("/", 1)[-1]: store.runner_record(path) for path in _unended(store, directory)}


def _unended(store: Store, directory: str) -> list[str]:
    """Their directories; those whom others of them had taken come after these."""
    found: list[str] = []
    stack = [f"{directory}/taken"]
    while stack:
        taken = stack.pop()
        for name in filter(naming.is_runner, fsops.names(taken)):
            path = f"{taken}/{name}"
            if store.runner_end(path) is None:
                found.append(path)
                stack.append(f"{path}/taken")
    return found


def _kill_left(family: Mapping[str, RunnerRecord | None], workflow: int) -> int:
    """v4: processes that the dead left on this host. Only this workflow's: in others they are not fenced."""
    here = processes.host_name()
    return sum(
        processes.kill_marked(RUNNER_VARIABLE, name, also=(WORKFLOW_VARIABLE, str(workflow)))
        for name, record in family.items()
        if record is None or record.host == here
    )


def _fence(actor: Actor, status: Status, family: Collection[str], moved: dict[str, Place]) -> None:
    """v5 to v7 for `running` or `pending`: all jobs into the actor's own directory, the old directories removed.

    And again until a fresh listing shows none: a taker that was declared dead in the middle of this, but lives, may
    have renamed one of them meanwhile.
    """
    store = actor.store
    parent = store.layout.directory_of(status)
    own = store.layout.owned(status, actor.name)
    while directories := _directories_of(family, _names(parent)):
        # first those that have their new name already: no other can have it while they hold anything
        for directory, owner in sorted(directories.items(), key=lambda item: not item[0].startswith(f"{actor.name}~")):
            held = f"{parent}/{naming.taken_directory(actor.name, owner)}"
            if f"{parent}/{directory}" != held:
                fsops.rename_directory(f"{parent}/{directory}", held)
            while True:
                for name in fsops.entries(held) or ():
                    actor.keep()
                    _collect(store, held, own, name, status, moved)
                if fsops.remove_directory(held):
                    break
                actor.check_owned(status)  # else a taker who was fenced himself would try for ever


def _names(path: str) -> list[str]:
    """Of a directory that is there: whose listing fails has not been seen to be empty. Raises StorageError."""
    found = fsops.entries(path)
    if found is None:
        raise StorageError("list", path, errno.ESTALE)
    return found


def _directories_of(family: Collection[str], names: Iterable[str]) -> dict[str, str]:
    """Whose each of these directories was, where it was one of the family's."""
    owners = {name: naming.owners(name) for name in names}
    return {name: found[1] for name, found in owners.items() if found is not None and found[1] in family}


def _collect(store: Store, held: str, own: str, name: str, status: Status, moved: dict[str, Place]) -> None:
    if name.startswith("."):
        fsops.remove_file(f"{held}/{name}")
    elif naming.job_id(name) is None:
        store.park(held, name)
    elif fsops.rename_to_own(f"{held}/{name}", own, name):
        moved[name] = Place(status, own.rsplit("/", 1)[1], name, naming.parse_job(name))


def _wishes(store: Store) -> set[Cause]:
    requests = (naming.parse_request(name) for name in fsops.names(store.layout.requests))
    return {request.job for request in requests if request is not None and request.job is not None}


def _give_away(
    actor: Actor, owner: Owner, taking: Taking, started: Mapping[tuple[int, int], dict[str, Any]]
) -> list[Recovered]:
    """v8 to v10. What has been dealt with is taken out of `taking.places`.

    Raises StorageError for the first job that the filesystem refuses, once all others have been given.
    """
    store, places = actor.store, taking.places
    arrived = _arrived(store) if places else {}
    wishes = _wishes(store)
    done: dict[str, str] = {}
    refused: StorageError | None = None
    for filename, place in sorted(places.items()):
        actor.keep()
        try:
            done[filename] = _deal_with(actor, owner, place, arrived, wishes, started)
        except StorageError as error:
            refused = refused or error
    steps: list[Recovered] = []
    here = _still_here(actor) if done else ()
    for filename, action in done.items():
        place = places[filename]
        if filename in here:  # the filesystem said that it was gone
            refused = refused or StorageError("move", store.path(place), errno.ESTALE)
            continue
        steps.append(Recovered(place.name.id, place.filename, owner.name, action))
        taking.decided.append(Decision(id=place.name.id, attempt=place.name.attempt, action=action))
        del places[filename]
    if refused is not None:
        raise refused
    return steps


def _still_here(actor: Actor) -> set[str]:
    layout = actor.store.layout
    return {
        name for status in (Status.RUNNING, Status.PENDING) for name in fsops.names(layout.owned(status, actor.name))
    }


def _deal_with(
    actor: Actor,
    owner: Owner,
    place: Place,
    arrived: Mapping[int, int],
    wishes: Collection[Cause],
    started: Mapping[tuple[int, int], dict[str, Any]],
) -> str:
    if arrived.get(place.name.id, 0) >= place.name.attempt:
        actor.store.park(actor.store.layout.owned(place.status, actor.name), place.filename)
        return "set aside"
    return _give_one(actor, owner, place, wishes, started.get((place.name.id, place.name.attempt), {}))


def _arrived(store: Store) -> dict[int, int]:
    """v8: the attempts of the jobs that are where the old owner could still have moved them."""
    arrived = {job: ended.attempt for job, ended in store.outcomes().ended.items()}
    if store.workflow.failure_handlers:
        # or to ready, as a later attempt, that others may have claimed since; what we hold ourselves is of this one
        for job, place in store.snapshot().items():
            arrived[job] = place.name.attempt if place.status in OUTCOMES else place.name.attempt - 1
    return arrived


def _give_one(actor: Actor, owner: Owner, place: Place, wishes: Collection[Cause], started: Mapping[str, Any]) -> str:
    store = actor.store
    action = fate.of(store, place, wishes, owner.loss)
    if action == "set aside":
        store.park(store.layout.owned(place.status, actor.name), place.filename)
        return action
    content = store.read_job(store.path(place), place.name.id)
    if content is None:
        return "gone"
    result = fate.result(content, place.name.attempt)
    if action == "keep result" and result is not None and result.outcome is not None:
        actor.show(place.filename, result.outcome, place.status)
    elif action == "cancel" and (result is None or place.status is Status.PENDING):
        if place.status is Status.RUNNING:
            _write_lost(actor, place, content, owner, started, Status.CANCELED)
        actor.show(place.filename, Status.CANCELED, place.status)
        fsops.remove_file(_wish_path(store, place.name))
    elif action in ENDS:
        _write_lost(actor, place, content, owner, started, ENDS[action])
        actor.show(place.filename, ENDS[action], place.status)
        fsops.remove_file(_wish_path(store, place.name))  # it came too late, as for any job that has ended
    else:
        if place.status is Status.RUNNING:
            _write_lost(actor, place, content, owner, started, None)  # but not where it was to be retried
        actor.give(place.filename, place.name, content.job, place.status)
        if action == "cancel":  # its result is recorded, and not to be shown: so it is the retry that is canceled
            actor.cancel_given(place.name, content.job)
            fsops.remove_file(_wish_path(store, place.name))
        elif fsops.remove_file(_wish_path(store, place.name)):
            action = "cancel"  # the wish was made after we had looked
            actor.cancel_given(place.name, content.job)
    return action


def _wish_path(store: Store, name: naming.JobName) -> str:
    return f"{store.layout.requests}/{naming.Request(job=Cause(name.id, name.attempt))}"


def _write_lost(
    actor: Actor, place: Place, content: Content, owner: Owner, started: Mapping[str, Any], outcome: Status | None
) -> None:
    attempt = fate.lost(place, content, owner.loss, started, outcome, by=actor.name)
    if attempt is not None:
        actor.record_lost(place, content, attempt)


def check_known(store: Store, owners: Iterable[Owner], named: Collection[str]) -> None:
    """Whoever is said to be dead has been here. Raises NotFound."""
    unknown = set(named) - {owner.name for owner in owners}
    if unknown:
        raise NotFound(f"workflow {store.workflow.id} has no runner {', '.join(sorted(unknown))}")


def recover(
    store: Store,
    born: Callable[[], Actor],
    *,
    said_dead: Collection[str] = (),
    only_holders: bool = False,
    silent_s: float = 0.0,
    mine: Actor | None = None,
    around: Around | None = None,
) -> tuple[list[Recovered], list[Owner]]:
    """Take back the work of all who are known to be dead. `born` makes the actor when there is something to do.

    Raises NotFound; StorageError for the first of them with whom the filesystem refuses something, once all others
    have been dealt with.
    """
    owners = scan(store, said_dead=said_dead, only_holders=only_holders, silent_s=silent_s, mine=mine, around=around)
    check_known(store, owners, said_dead)
    steps: list[Recovered] = []
    taken: list[Owner] = []
    refused: StorageError | None = None
    for owner in dead(owners):
        try:
            result = take_back(born(), owner)
        except StorageError as error:
            refused = refused or error
            continue
        if result is not None:
            steps += result
            taken.append(owner)
    if refused is not None:
        raise refused
    return steps, taken


def why_taken(store: Store, name: str) -> str | None:
    """Who has taken a runner's work back and on what evidence, as far as that is written already."""
    for owner in taken_owners(store):
        if owner.name == name:
            because = f" on the evidence: {owner.evidence}" if owner.evidence else ""
            return f"{owner.directory.split('/')[-3]} has taken it back{because}"
    return None
