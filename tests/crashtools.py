"""Operations of `docs/spool-format.md` that are stopped at one of their calls: how, and what must hold then."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import spooltools as tools
from spooltools import READS, Do, Fault, Hand, Wanted, check_invariants

from torc_spool import processes
from torc_spool.capacity import Capacity
from torc_spool.model import Status, Trigger
from torc_spool.repair import look
from torc_spool.runner import Options, Runner
from torc_spool.spool import Spool

COMPLETED, FAILED, CANCELED, TERMINATED = Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TERMINATED

GRAPH = tools.workflow(
    {
        "first": Wanted(),
        "second": Wanted(after=("first",)),
        "bad": Wanted("false"),
        "after_bad": Wanted(after=("bad",)),
        "anyway": Wanted(after=("bad",), anyway=True),
        "alone": Wanted(),
    }
)
FIRST, SECOND, BAD, AFTER_BAD, ANYWAY, ALONE = range(1, 7)
THE_END = {
    "first": COMPLETED,
    "second": COMPLETED,
    "bad": FAILED,
    "after_bad": CANCELED,
    "anyway": COMPLETED,
    "alone": COMPLETED,
}
SMALL = tools.workflow(
    {"first": Wanted(), "second": Wanted(after=("first",)), "alone": Wanted()},
    actions=(Do(Trigger.WORKFLOW_COMPLETE), Do(Trigger.WORKER_START)),
)
ONCE = tools.workflow(
    {
        "bad": Wanted("once"),
        "after_bad": Wanted(after=("bad",)),
        "last": Wanted(after=("after_bad",)),
        "slow": Wanted(),
        "anyway": Wanted(after=("bad", "slow"), anyway=True),
    }
)


def root(spool: str) -> str:
    return f"{spool}/1-test"


class Scenario(NamedTuple):
    """An operation to be stopped, on a spool that was made so, and what must come of it in the end."""

    make: Callable[[str], object]  # the spool, once
    prepare: Callable[[str], Any]  # in the child, undisturbed
    act: Callable[[Any], object]  # in the child, until it is stopped
    carry_on: Callable[[str], object]  # by those who live


SCENARIOS: dict[str, Scenario] = {}


# -- what is stopped, and how it goes on


def make_graph(spool: str) -> None:
    tools.submit(spool, GRAPH)


def to_the_end(spool: str) -> None:
    assert tools.drain(spool) == THE_END


def hand_of(spool: str) -> Hand:
    return Hand(tools.open_workflow(spool))


def scenario(
    name: str,
    act: Callable[[Any], object],
    *,
    make: Callable[[str], object] = make_graph,
    prepare: Callable[[str], Any] = hand_of,
    carry_on: Callable[[str], object] = to_the_end,
) -> None:
    SCENARIOS[name] = Scenario(make, prepare, act, carry_on)


def command(
    name: str,
    act: Callable[[Any], object],
    once: dict[str, Status],
    *,
    make: Callable[[str], object] = make_graph,
    unless: dict[str, Status] = THE_END,
) -> None:
    """A command of a person: stopped, it may have done a part; said again, it leads to the end `once` it is done."""

    def partly(spool: str) -> None:
        final = tools.drain(spool)
        assert all(state in (once[job], unless[job]) for job, state in final.items()), final

    def again(spool: str) -> None:
        act(tools.open_workflow(spool))
        assert tools.drain(spool) == once

    SCENARIOS[name] = Scenario(make, tools.open_workflow, act, partly)
    SCENARIOS[f"{name} repeated"] = Scenario(make, tools.open_workflow, act, again)


# -- stopped at a call


@pytest.fixture
def base(memory: Path) -> Path:
    """A directory of the test's own."""
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture(scope="module")
def made(memory: Path) -> Callable[[str], str]:
    """The spool of a scenario before anything is stopped, made once."""
    base = Path(tempfile.mkdtemp(dir=memory))
    known: dict[Callable[[str], object], str] = {}

    def make(name: str) -> str:
        recipe = SCENARIOS[name].make
        if recipe not in known:
            known[recipe] = str(base / str(len(known)))
            with tools.without_syncs_and_searches():
                recipe(known[recipe])
        return known[recipe]

    return make


def stop_at_every_call(name: str, made: str, base: Path, fault: Callable[[int], Fault]) -> int:
    """Stop an operation at its n-th call for each n; how many calls that were."""
    for n in itertools.count(1):
        ending = stop_once(name, made, str(base / f"n{n}"), fault(n))
        if ending.how != "killed" and ending.calls < n:
            return n - 1
    raise AssertionError


def stop_once(name: str, made: str, spool: str, fault: Fault) -> tools.Ending:
    stopped = SCENARIOS[name]
    tools.copy_tree(made, spool)
    before = tools.read(root(spool))
    ending = tools.in_child(lambda: stopped.prepare(spool), stopped.act, fault)
    assert ending.how != "fenced", ending
    tree = check_invariants(root(spool), before, damaged=damaged(name))
    assert odd(spool) <= ODD.get(name, set()), "what a crash leaves is no damage"
    stopped.carry_on(spool)
    check_invariants(root(spool), tree, damaged=damaged(name))
    assert not odd(spool)
    shutil.rmtree(spool)
    return ending


ODD = {"set aside": {"damaged"}, "make anew": {"damaged"}, "make action anew": {"temporary"}}


def odd(spool: str) -> set[str]:
    """The kinds of what a check finds, where there is a whole workflow."""
    if not os.path.exists(f"{root(spool)}/workflow.json"):
        return set()
    return {finding.kind for finding in look(Spool(spool).open(1))}


def damaged(name: str) -> tuple[int, ...]:
    return (ALONE,) if name in ("set aside", "make anew") else ()


def changes_something(operation: str, _path: str) -> bool:
    return operation not in READS


def job(spool: str, number: int) -> tools.Seen:
    return tools.read(root(spool)).one(number)


def lies(number: int, status: Status, attempt: int = 1) -> Callable[[str], None]:
    def check(spool: str) -> None:
        seen = job(spool, number)
        assert (seen.status, seen.name.attempt) == (status, attempt)

    return check


def attempts(number: int, *expected: tuple[int, Status | None]) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert job(spool, number).attempts == [*expected]

    return check


def all_of(*checks: Callable[[str], None]) -> Callable[[str], None]:
    def check(spool: str) -> None:
        for one in checks:
            one(spool)

    return check


KILL_MARKED = processes.kill_marked  # the real one


def run_for_real(spool: str) -> None:
    """A runner with its loop, its threads and the processes of its jobs."""
    processes.kill_marked = KILL_MARKED  # in the child only
    options = Options(Capacity(num_cpus=2, memory_mib=100), grace_s=1.0)
    Runner(Spool(spool), options, workflow_id=1).run()
