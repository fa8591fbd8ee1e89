"""What the model of the protocol knows of a spool and its actors, and what one call does to it."""

from __future__ import annotations

from typing import NamedTuple

RUNNING, PENDING = "R", "P"
CANCELED = 100
WAITING = ("ready", "blocked", "held")


class Rules(NamedTuple):
    """What the protocol relies on. All True is the protocol; each False is a mutation that must be found out."""

    fence: bool = True  # v7: give nothing away before the old directories are removed
    both_first: bool = True  # running and pending are fenced before anything is given
    new_attempt: bool = True  # I4: a return raises the attempt in the name
    own_place: bool = True  # c1: a claim goes to a place of the claimer's own
    result_counts: bool = True  # v9: a file that holds its attempt's result is moved to its outcome
    look_in_done: bool = True  # v8: what arrived in done/ counts
    enoent_looks: bool = True  # after ENOENT the own directory is listed
    release_waits: bool = True  # r1: only when what is awaited is in done/
    result_before: bool = True  # f2 before f3: the result is in the file before it is shown
    looks_again: bool = True  # v7: a taker that was overruled may have renamed a directory meanwhile
    look_everywhere: bool = True  # v8: a later attempt that arrived in ready/ (f3') counts
    retries_are_given: bool = True  # v9: a result that bears retry_rule is not shown, but the job given back
    own_content: bool = True  # nobody writes over a job's file that is not in his own directory
    takes_family: bool = True  # v3: what the dead had taken themselves is taken back with them
    made_once: bool = True  # nobody makes a missing directory again: who finds his gone is fenced
    fresh_names: bool = True  # a runner's name is never used again
    unknown_is_alive: bool = True  # v1: nobody is taken back without evidence
    kill_after_fence: bool = True  # v4: processes of the dead are killed when they cannot record that any more
    blocked_first: bool = True  # r1: the names that wait are listed before the outcomes
    wait_anew: bool = True  # w2: what waits for what is run again gets a new name
    cancel_is_revived: bool = True  # w1: a cancellation holds only while the attempt that it names does
    wish_passes_on: bool = True  # who takes over the work of the dead obeys what was wished of them
    start_looks: bool = True  # X21: before a job is run again, for a wish about an attempt after which it came back
    asker_looks: bool = True  # q1: after a wish, whether the job has a later attempt by now


class Faults(NamedTuple):
    """How many of each may still happen."""

    crashes: int = 0
    declared: int = 0  # runners that are declared dead while they live
    lost_replies: int = 0
    stale_paths: bool = False  # a renamed directory is reached by its old path until it is removed
    retries: int = 0  # results that a failure handler has run again
    returns: int = 0  # jobs that are given back without having run: no process could be started
    commands: int = 0  # of a person: cancel, hold, release, retry


class File(NamedTuple):
    """One file of a job: where it lies, the attempt in its name, the attempts whose results it holds.

    A result that bears a retry_rule is noted as minus its attempt, one that is canceled as CANCELED more than it.
    """

    job: int
    place: str
    attempt: int
    results: tuple[int, ...] = ()


class Actor(NamedTuple):
    """A process: where it is in its program, and what it has in hand."""

    at: str = "idle"
    job: int = -1
    attempt: int = 0
    taking: tuple[int, ...] = ()  # whose work it takes back
    alive: bool = True
    unfit: bool = False  # was declared dead while alive: may be taken
    killed: bool = False  # the process of its job was


class State(NamedTuple):
    """The spool and its actors."""

    files: frozenset[File]
    directories: frozenset[str]  # P1, R1, R2~1 ...
    spares: frozenset[tuple[str, int]]  # (directory, job): a result written aside, before f2
    records: tuple[int, ...]  # of each actor: who has its record; itself while nobody took it
    actors: tuple[Actor, ...]
    ever_ready: frozenset[tuple[int, int]]
    started: frozenset[tuple[int, int, int]]  # (job, attempt, actor) that were executed
    shown: frozenset[int]  # jobs with an outcome that nobody has taken back
    faults: Faults
    seen: frozenset[tuple[int, str]] = frozenset()  # what listings said of a name in blocked/: its attempt, where to
    wishes: frozenset[tuple[int, int]] = frozenset()  # (job, attempt) that are to be canceled
    retried: bool = False  # a person is between y1 and w2
    asking: tuple[str, int, int] | None = None  # a person's cancel is under way


class Broken(Exception):
    """An invariant does not hold."""


def reach(state: State, kind: str, who: int) -> list[str]:
    """The directories that an owner's path leads to: its own, or where a renamed one is now (a stale client)."""
    own = f"{kind}{who}"
    if own in state.directories:
        return [own]
    if not state.faults.stale_paths:
        return []
    return [name for name in state.directories if name[0] == kind and "~" in name and owner_of(name) == who]


def owner_of(directory: str) -> int:
    return int(directory[1:].rpartition("~")[2])


def find(state: State, job: int, place: str, attempt: int) -> File | None:
    return next((file for file in state.files if file[:3] == (job, place, attempt)), None)


def move(state: State, file: File, place: str) -> State:
    return replace_file(state, file, file._replace(place=place))


def replace_file(state: State, old: File, new: File) -> State:
    """A rename: it replaces what has the new name."""
    files = {each for each in state.files if each != old and each[:3] != new[:3]} | {new}
    ready = state.ever_ready | ({(new.job, new.attempt)} if new.place == "ready" else set())
    return state._replace(files=frozenset(files), ever_ready=ready)


def record(state: State, directory: str, job: int, attempt: int, result: int) -> State:
    """f2: the file that was written aside takes the job's name, whether that is still there or not."""
    there = find(state, job, directory, attempt)
    results = (*(there.results if there else ()), result)
    files = (state.files - {there}) if there else state.files
    return state._replace(
        files=files | {File(job, directory, attempt, results)}, spares=state.spares - {(directory, job)}
    )


def rename_directory(state: State, old: str, new: str) -> State:
    return state._replace(
        directories=(state.directories - {old}) | {new},
        files=frozenset(file._replace(place=new) if file.place == old else file for file in state.files),
        spares=frozenset((new, job) if place == old else (place, job) for place, job in state.spares),
    )


def put(state: State, who: int, actor: Actor) -> State:
    return state._replace(actors=(*state.actors[:who], actor, *state.actors[who + 1 :]))


def go(state: State, who: int, at: str, job: int = -1, attempt: int = 0) -> State:
    return put(state, who, state.actors[who]._replace(at=at, job=job, attempt=attempt))
