"""Death and refusal at every call: each operation of `docs/spool-format.md` is stopped at each of its calls.

A child does the operation and is killed there, so that nothing that it could still have done is done. Then the
invariants hold, and the next runner carries on to the end that the workflow would have had anyway (I11).
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import crashtools
import inmemory
import pytest
import spooltools as tools
from crashrecovery import taken_back
from crashscenarios import SCENARIOS
from crashtools import THE_END, changes_something, root, run_for_real, stop_at_every_call
from spooltools import BROKEN, FULL, Fault, TornWrite, check_invariants

from torc_spool import changes

base, made, memory, quick = crashtools.base, crashtools.made, inmemory.memory, inmemory.quick


LONG = {name for name in SCENARIOS if name.startswith(("recovery ", "reinitialize", "reset", "first submit"))}
"""Those with very many calls, which are tried out with the slow tests: there each is also killed before every call."""


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LONG])
def test_killed_before_each_call_that_changes_something(name: str, made: Callable[[str], str], base: Path) -> None:
    """Between two of these calls the disk stays as it is, so that this is death at any moment."""
    calls = stop_at_every_call(name, made(name), base, lambda n: Fault(n, when=changes_something))
    assert calls >= 1


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each in LONG)) for each in SCENARIOS])
def test_refused_each_call_that_changes_something_by_a_full_disk(
    name: str, made: Callable[[str], str], base: Path
) -> None:
    """It comes out as a StorageError, if at all, and nothing is done by halves."""
    stop_at_every_call(name, made(name), base, lambda n: Fault(n, error=FULL, when=changes_something))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_each_call(name: str, made: Callable[[str], str], base: Path) -> None:
    stop_at_every_call(name, made(name), base, Fault)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_refused_each_call_by_a_broken_disk(name: str, made: Callable[[str], str], base: Path) -> None:
    stop_at_every_call(name, made(name), base, lambda n: Fault(n, error=BROKEN))


@pytest.mark.parametrize("error", [None, FULL], ids=["killed", "full"])
@pytest.mark.parametrize(
    "name", ["first submit", "birth", "finish", "recovery", "make anew", "make action anew", "end of a runner"]
)
def test_stopped_in_the_middle_of_each_content(
    name: str, error: int | None, made: Callable[[str], str], base: Path
) -> None:
    calls = stop_at_every_call(name, made(name), base, lambda n: TornWrite(n, error=error))
    assert calls >= 1


# -- recovery, again and again


def _recover_and_die(spool: str, n: int) -> bool:
    """A taker that is killed before its n-th change; False when it lived to the end."""
    fault = Fault(n, when=changes_something)
    return tools.in_child(lambda: tools.open_workflow(spool), changes.recover, fault).how == "killed"


def takers_that_die(made: str, spool: str, deaths: tuple[int, ...]) -> bool:
    tools.copy_tree(made, spool)
    tree = check_invariants(root(spool))
    all_died = True
    for n in deaths:
        all_died = _recover_and_die(spool, n) and all_died
        tree = check_invariants(root(spool), tree)
    taken_back(spool)
    check_invariants(root(spool), tree)
    for record in Path(root(spool), "runners").rglob("taken/*"):
        assert json.loads((record / "end.json").read_bytes())["evidence"], record  # v11, of those inside too
    shutil.rmtree(spool)
    return all_died


@pytest.mark.parametrize("deaths", [(12, 12), (20, 13), (30, 21), (14, 26, 21), (22, 22, 22, 22)], ids=str)
def test_takers_die_one_after_the_other(deaths: tuple[int, ...], made: Callable[[str], str], base: Path) -> None:
    """X16, X17: whoever takes the last of them takes all."""
    takers_that_die(made("recovery"), str(base / "spool"), deaths)


@pytest.mark.slow
def test_takers_die_one_after_the_other_anywhere(made: Callable[[str], str], base: Path) -> None:
    for first in itertools.count(1):
        results = [
            takers_that_die(made("recovery"), str(base / f"{first}-{second}"), (first, second))
            for second in range(1 + first % 5, 50, 5)
        ]
        if not any(results):
            break
    assert first > 40


@pytest.mark.slow
def test_a_real_runner_is_killed_before_each_change(made: Callable[[str], str], base: Path) -> None:
    """Whatever it was about to do, the next one brings the workflow to its end."""
    for n in itertools.count(1):
        spool = str(base / f"n{n}")
        tools.copy_tree(made("claim"), spool)
        fault = Fault(n, when=changes_something)
        ending = tools.in_child(lambda spool=spool: spool, run_for_real, fault)  # type: ignore[misc]
        tree = check_invariants(root(spool))
        if ending.how != "killed":
            break
        assert tools.in_child(lambda spool=spool: spool, run_for_real).how == "done"  # type: ignore[misc]
        check_invariants(root(spool), tree)
        assert tools.states(root(spool)) == THE_END
        shutil.rmtree(spool)
    assert n > 30
