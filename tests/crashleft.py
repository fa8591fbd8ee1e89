"""What each row of the crash table of `docs/spool-format.md` says is left behind, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import spooltools as tools
from crashactions import action
from crashrecovery import MEMORY
from crashtools import (
    AFTER_BAD,
    ALONE,
    ANYWAY,
    BAD,
    CANCELED,
    COMPLETED,
    FAILED,
    FIRST,
    SECOND,
    all_of,
    attempts,
    job,
    lies,
    root,
)

from torc_spool import sickhosts
from torc_spool.model import Status


class Row(NamedTuple):
    """A row of the crash table: killed after this call of a scenario, this is left, and this comes of it."""

    row: str
    step: str
    scenario: str
    call: tuple[str, str]  # the operation, and a pattern of the path
    left: Callable[[str], None]
    then: Callable[[str], None] = lambda _spool: None


def _unseen(spool: str) -> None:
    assert tools.check_spool(spool) == [1]
    assert len(os.listdir(f"{spool}/.staging")) == 1


def _published(spool: str) -> None:
    assert len(tools.check_spool(spool)) == 2


def _no_jobs_held(spool: str) -> None:
    assert len(os.listdir(f"{root(spool)}/runners")) == 1
    assert not {seen.status for (seen,) in tools.read(root(spool)).jobs.values()} & {*tools.OWNED}


def _closed(spool: str) -> None:
    """Nothing is left in a dead runner's name."""
    owned = {path.split("/")[1] for path in tools.read(root(spool)).owned}
    assert owned == set()


def _half_a_content(spool: str) -> None:
    (temporary,) = tools.read(root(spool)).temporaries
    assert temporary.startswith(f"{root(spool)}/running/")


def _requests(*expected: str) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert sorted(tools.read(root(spool)).requests) == [*expected]

    return check


def _in_a_dead_takers_hands(spool: str) -> None:
    """The record of the one lies in that of the other, who is dead too."""
    tree = tools.read(root(spool))
    (taker,) = os.listdir(f"{root(spool)}/runners")
    assert len(tree.runners) == 2
    assert any(path.startswith(f"{root(spool)}/runners/{taker}/taken/") for path in tree.runners.values())


def _before_the_taking(spool: str) -> None:
    assert len(os.listdir(f"{root(spool)}/runners")) == 2


def _some_jobs_in_its_hands(spool: str) -> None:
    _in_a_dead_takers_hands(spool)
    (taker,) = os.listdir(f"{root(spool)}/runners")
    tree = tools.read(root(spool))
    assert {seen.detail for (seen,) in tree.jobs.values() if seen.status in tools.OWNED} == {taker}
    assert tree.owned == {f"pending/{taker}", f"running/{taker}"}, "I8"


def _aside(spool: str) -> None:
    tree = tools.read(root(spool))
    assert ALONE not in tree.jobs
    assert tree.evidence == {ALONE}


def _deleted(spool: str) -> None:
    assert not os.path.exists(root(spool))
    assert os.listdir(f"{spool}/.trash") == ["1-deleted"]


def _action_is(*expected: object) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert action(spool) == expected

    return check


def _outcome_in_dead_hands(spool: str) -> None:
    seen = job(spool, FIRST)
    assert (seen.status, seen.attempts) == (Status.RUNNING, [(1, COMPLETED)])


def _failure_in_dead_hands(memory_bytes: int) -> Callable[[str], None]:
    def check(spool: str) -> None:
        seen = job(spool, FIRST)
        assert (seen.status, seen.attempts) == (Status.RUNNING, [(1, FAILED)])
        assert seen.content["resources"]["memory_bytes"] == memory_bytes
        assert seen.name.needs.memory_mib == 64

    return check


def _noted(*statuses: Status) -> Callable[[str], None]:
    """The note is there, and this has become of the two jobs that failed at once."""

    def check(spool: str) -> None:
        assert sickhosts.notes(tools.open_workflow(spool))
        assert sorted(job(spool, number).status for number in (1, 3)) == sorted(statuses)

    return check


def _asking(count: int) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert len(os.listdir(f"{root(spool)}/slurm")) == count

    return check


def _lifted(spool: str) -> None:
    assert sickhosts.notes(tools.open_workflow(spool)) == []
    assert len(os.listdir(f"{root(spool)}/sick")) == 1  # as evidence


def _defined_anew(spool: str) -> None:
    _outcome_in_dead_hands(spool)
    assert tools.open_workflow(spool).revisions.number == 1


HELP = "help what did not complete"
J = r"/9[^/]*-"  # how the name of a job's file begins, before its slug
ROWS = [
    Row(
        "X28",
        "z2",
        "reinitialize repeated",
        ("rename", rf"/done/completed{J}first"),
        _outcome_in_dead_hands,
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X28",
        "z4",
        "reinitialize half way repeated",
        ("rename", rf"/(ready/any|blocked){J}second"),
        all_of(_outcome_in_dead_hands, lies(SECOND, Status.BLOCKED, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X28",
        "z5",
        "reinitialize repeated",
        ("create", r"/revision/workflow\.json$"),
        _outcome_in_dead_hands,
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X29",
        "z6",
        "reinitialize repeated",
        ("rename", r"/runners/[^/]+/revision$"),
        _defined_anew,
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X30",
        "z7",
        "reinitialize repeated",
        ("rename", rf"/done/canceled{J}after_bad"),
        all_of(_defined_anew, lies(AFTER_BAD, Status.BLOCKED, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X30",
        "z8",
        "reinitialize repeated",
        ("rename", rf"/running/[^/]+{J}second"),
        all_of(_defined_anew, lies(SECOND, Status.BLOCKED, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X31",
        "z9",
        "reinitialize half way repeated",
        ("rename", rf"/ready/any{J}alone"),
        all_of(lies(FIRST, Status.READY, 2), lies(ALONE, Status.READY, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row("X1", "s1", "submit", ("mkdir", r"/\.staging/[^/]+$"), _unseen),
    Row("X1", "s2", "submit", ("create", r"/owner\.json$"), _unseen),
    Row("X1", "s3", "submit", ("mkdir", r"/\.ids/\d+$"), _unseen),
    Row("X1", "s4", "submit", ("create", r"/jobs\.jsonl$"), _unseen),
    Row("X1", "s5", "submit", ("create", r"/workflow\.json$"), _unseen),
    Row("X1", "s6", "submit", ("sync", ""), _unseen),
    Row("X2", "s7", "submit", ("rename", r"/workflow$"), _published),
    Row("X2", "s8", "submit", ("fsync", ""), _published),
    Row("X3", "b1", "birth", ("mkdir", r"/runners/"), _no_jobs_held),
    Row("X3", "b2", "birth", ("rename", r"/\.runner\.json\.tmp$"), _no_jobs_held, _closed),
    Row("X3", "b3", "birth", ("create", r"/journal$"), _no_jobs_held, _closed),
    Row("X3", "b4", "birth", ("mkdir", r"/running/"), _no_jobs_held, _closed),
    Row("X3", "b5", "birth", ("mkdir", r"/pending/"), _no_jobs_held, _closed),
    Row("X3", "b6", "birth", ("utime", r"/heartbeat$"), _no_jobs_held, _closed),
    Row(
        "X4",
        "c1",
        "claim",
        ("rename", rf"/ready/any{J}first"),
        lies(FIRST, Status.PENDING),
        attempts(FIRST, (2, COMPLETED)),
    ),
    Row(
        "X5",
        "t2",
        "start",
        ("rename", rf"/pending/[^/]+{J}first"),
        lies(FIRST, Status.RUNNING),
        attempts(FIRST, (1, None), (2, COMPLETED)),
    ),
    Row(
        "X7",
        "f1 in a new file",
        "finish",
        ("create", r"/running/[^/]+/\.9[^/]*-first"),
        all_of(lies(FIRST, Status.RUNNING), attempts(FIRST)),
        attempts(FIRST, (1, None), (2, COMPLETED)),
    ),
    Row(
        "X7",
        "f1 in an old file",
        "finish",
        ("open", r"/running/[^/]+/\.spare"),
        all_of(lies(BAD, Status.RUNNING), attempts(BAD)),
        attempts(BAD, (1, None), (2, FAILED)),
    ),
    Row(
        "X8",
        "f2 of a new file",
        "finish",
        ("rename", r"/running/[^/]+/\.9[^/]*-first"),
        all_of(lies(FIRST, Status.RUNNING), attempts(FIRST, (1, COMPLETED))),
        attempts(FIRST, (1, COMPLETED)),
    ),
    Row(
        "X8",
        "f2 of an old file",
        "finish",
        ("rename", r"/running/[^/]+/\.spare"),
        all_of(lies(BAD, Status.RUNNING), attempts(BAD, (1, FAILED))),
        attempts(BAD, (1, FAILED)),
    ),
    Row(
        "X9",
        "f3",
        "finish",
        ("rename", rf"/running/[^/]+{J}first"),
        all_of(lies(FIRST, COMPLETED), lies(SECOND, Status.BLOCKED)),
        attempts(FIRST, (1, COMPLETED)),
    ),
    Row(
        "X10",
        "r1",
        "settle",
        ("rename", rf"/blocked{J}(second|anyway)"),
        lambda spool: _one_of(spool, Status.READY, SECOND, ANYWAY),
    ),
    Row("X10", "k1", "settle", ("rename", rf"/blocked{J}after_bad"), lies(AFTER_BAD, CANCELED)),
    Row(
        "X10",
        "w1",
        "retry repeated",
        ("rename", rf"/done/canceled{J}after_bad"),
        all_of(lies(2, Status.BLOCKED, 2), lies(3, CANCELED)),
    ),
    Row(
        "X11",
        "n1",
        "cancel waiting repeated",
        ("rename", rf"/ready/any{J}first"),
        all_of(lies(FIRST, CANCELED), lies(BAD, Status.READY)),
    ),
    Row(
        "X11",
        "h1 of hold",
        "hold repeated",
        ("rename", rf"/ready/any{J}first"),
        all_of(lies(FIRST, Status.HELD), lies(BAD, Status.READY)),
    ),
    Row(
        "X11",
        "h1 of release",
        "release",
        ("rename", rf"/held{J}first"),
        all_of(lies(FIRST, Status.READY), lies(BAD, Status.HELD)),
    ),
    Row(
        "X11",
        "h1 of a priority",
        "set priority",
        ("rename", rf"/ready/any{J}first"),
        lambda spool: _priorities(spool, {FIRST: 7, ALONE: 0}),
    ),
    Row(
        "X12",
        "q1",
        "cancel held by a runner repeated",
        ("create", r"/requests/"),
        all_of(lies(FIRST, Status.RUNNING), _requests("cancel-000000001.1")),
        _requests(),
    ),
    Row(
        "X13",
        "q2 not reached",
        "obey",
        ("rename", rf"/running/[^/]+{J}first"),
        all_of(lies(FIRST, CANCELED), _requests("cancel-000000001.1")),
    ),
    Row(
        "X14",
        "y1",
        "retry repeated",
        ("rename", r"/done/failed/"),
        all_of(lies(1, Status.READY, 2), lies(2, CANCELED)),
    ),
    Row("X15", "e1", "end of a runner", ("rmdir", r"/pending/"), _no_jobs_held, _closed),
    Row("X15", "e2", "end of a runner", ("rmdir", r"/running/"), all_of(_no_jobs_held, _closed)),
    Row("X16", "v2", "recovery", ("mkdir", r"/taken$"), _before_the_taking),
    Row("X16", "v3", "recovery", ("rename", r"/runners/[^/]+$"), _in_a_dead_takers_hands),
    Row("X16", "v5", "recovery", ("rename", r"/running/[^/~]+$"), _in_a_dead_takers_hands),
    Row("X16", "v6", "recovery", ("rename", r"/running/[^/]+~[^/]+/"), _in_a_dead_takers_hands),
    Row("X16", "v7", "recovery", ("rmdir", r"/running/[^/]+~"), _in_a_dead_takers_hands),
    Row("X16", "v5 of pending", "recovery", ("rename", r"/pending/[^/~]+$"), _in_a_dead_takers_hands),
    Row("X16", "v6 of pending", "recovery", ("rename", r"/pending/[^/]+~[^/]+/"), _in_a_dead_takers_hands),
    Row("X16", "v7 of pending", "recovery", ("rmdir", r"/pending/[^/]+~"), _some_jobs_in_its_hands),
    Row("X17", "v8", "recovery", ("list", r"/done/completed$"), _some_jobs_in_its_hands),
    Row("X17", "v9", "recovery", ("rename", rf"/running/[^/~]+{J}ended"), lies(3, FAILED)),
    Row("X17", "f1", "recovery", ("create", r"/running/[^/]+/\.9[^/]*-running"), _some_jobs_in_its_hands),
    Row("X17", "f2", "recovery", ("rename", r"/running/[^/]+/\.9[^/]*-running"), _some_jobs_in_its_hands),
    Row("X17", "v10", "recovery", ("rename", rf"/running/[^/~]+{J}running"), lies(2, Status.READY, 2)),
    Row("X17", "v10 of pending", "recovery", ("rename", rf"/pending/[^/~]+{J}claimed\."), lies(1, Status.READY, 2)),
    Row(
        "X20",
        "f2 with retry_rule",
        "retry by a handler",
        ("rename", r"/running/[^/]+/\.9[^/]*-bad"),
        all_of(lies(1, Status.RUNNING), attempts(1, (1, FAILED))),
        attempts(1, (1, FAILED), (2, COMPLETED)),
    ),
    Row(
        "X21",
        "f3' of one that is wanted",
        "retry by a handler",
        ("rename", rf"/running/[^/]+{J}bad"),
        all_of(lies(1, Status.READY, 2), attempts(1, (1, FAILED))),
        attempts(1, (1, FAILED), (2, COMPLETED)),
    ),
    Row(
        "X21",
        "f3' of one that is unwanted",
        "unwanted retry",
        ("rename", rf"/running/[^/]+{J}bad"),
        all_of(lies(1, Status.READY, 2), _requests("cancel-000000001.1")),
        all_of(lies(1, CANCELED, 2), attempts(1, (1, FAILED)), _requests()),
    ),
    Row(
        "X21",
        "give back of one that is unwanted",
        "unwanted give back",
        ("rename", rf"/running/[^/]+{J}bad"),
        all_of(lies(1, Status.READY, 2), attempts(1), _requests("cancel-000000001.1")),
        all_of(lies(1, CANCELED, 2), attempts(1), _requests()),
    ),
    Row("X18", "a1", "set aside", ("rename", rf"/pending/[^/]+{J}alone"), _aside),
    Row("X25", "x1", "perform", ("rename", r"/actions/waiting/"), _action_is("interrupted", 1)),
    Row("X26", "x2", "perform", ("rename", r"/actions/running/"), _action_is("done", 1), _action_is("done", 1)),
    Row("X27", "x3", "repeat action", ("rename", r"/actions/done/"), _action_is("waiting", 2), _action_is("done", 2)),
    Row("X27", "x3 by rearm", "rearm", ("rename", r"/actions/done/"), _action_is("waiting", 2), _action_is("done", 2)),
    Row("X36", "x4", "go on with an action", ("rename", r"/actions/running/"), _action_is("interrupted", 1)),
    Row("X37", "g2", HELP, ("rename", rf"/done/failed{J}first"), _failure_in_dead_hands(MEMORY)),
    Row("X38", "g3", HELP, ("rename", r"/running/[^/]+/\.[^/]*first"), _failure_in_dead_hands(96 << 20)),
    Row("X39", "g4", HELP, ("rename", rf"/running/[^/]+{J}first"), lies(FIRST, Status.READY, 2)),
    Row("X40", "o2", "note a sick host", ("create", r"/sick/"), _noted(Status.FAILED, Status.FAILED)),
    Row("X41", "o3", "note a sick host", ("rename", r"/done/failed/"), _noted(Status.FAILED, Status.READY)),
    Row("X42", "o4", "lift a note", ("rename", r"/sick/"), _lifted),
    Row("X43", "j1", "ask for nodes", ("create", r"/slurm/"), _asking(1), _asking(0)),
    Row("X19", "d1", "delete", ("rename", r"/1-test$"), _deleted),
]


def _one_of(spool: str, status: Status, *numbers: int) -> None:
    assert [job(spool, number).status for number in numbers].count(status) == 1


def _priorities(spool: str, expected: dict[int, int]) -> None:
    assert {number: job(spool, number).name.priority for number in expected} == expected
