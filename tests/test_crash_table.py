"""The rows of the crash table of `docs/spool-format.md`, one by one: killed after this call, this is left."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crashtools
import inmemory
import msgspec
import pytest
import spooltools as tools
from crashjobs import gone_or_whole
from crashleft import ROWS, Row
from crashscenarios import SCENARIOS
from crashtools import (
    COMPLETED,
    KILL_MARKED,
    changes_something,
    job,
    make_graph,
    root,
    run_for_real,
    to_the_end,
)
from spooltools import FULL, Fault, Hand, Wanted, check_invariants

from torc_spool import changes, fsops, mounts, naming, processes, userdata
from torc_spool.arrival import await_turn
from torc_spool.model import Stdio, UserData
from torc_spool.recovery import RUNNER_VARIABLE, WORKFLOW_VARIABLE
from torc_spool.spool import Spool

base, made, memory, quick = crashtools.base, crashtools.made, inmemory.memory, inmemory.quick


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.row}-{row.step}".replace(" ", "_") for row in ROWS])
def test_the_crash_table(row: Row, made: Callable[[str], str], base: Path) -> None:
    spool, stopped = str(base / "spool"), SCENARIOS[row.scenario]
    tools.copy_tree(made(row.scenario), spool)
    operation, pattern = row.call

    def is_the_step(called: str, path: str) -> bool:
        return called == operation and re.search(pattern, path) is not None

    fault = Fault(1, when=is_the_step, after=True)
    ending = tools.in_child(lambda: stopped.prepare(spool), stopped.act, fault)
    assert ending.how == "killed", f"{row.step} was not reached"
    row.left(spool)
    stopped.carry_on(spool)
    row.then(spool)


def test_the_crash_table_x6_a_process_without_a_runner_is_killed_before_its_job_runs_again(base: Path) -> None:
    """X6."""
    spool, note = str(base / "spool"), base / "pid"
    make_graph(spool)

    def live(hand: Hand) -> None:
        hand.take("first")
        environ = os.environ | {RUNNER_VARIABLE: hand.name, WORKFLOW_VARIABLE: "1"}
        orphan = subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True)
        note.write_text(f"{orphan.pid} {processes.start_time(orphan.pid)}")

    tools.dead_runner(spool, live)
    pid, start = note.read_text().split()
    assert processes.is_same_process(int(pid), start)
    lived: list[bool] = []

    def watch(operation: str, path: str) -> None:
        if operation == "rename" and "/running/" in path and path.endswith("-first.json") and "~" not in path:
            lived.append(processes.is_same_process(int(pid), start))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "kill_marked", KILL_MARKED)
        patch.setattr(fsops, "fault", watch)
        changes.recover(tools.open_workflow(spool))
    assert lived == [False]
    to_the_end(spool)


def test_the_crash_table_x19_a_delete_that_was_cut_short_is_swept(base: Path) -> None:
    """X19, d2: the removal itself is one step of many calls."""
    spool = str(base / "spool")
    make_graph(spool)

    def delete_in_part(_context: object) -> None:
        removed = itertools.count(1)
        rmdir = os.rmdir

        def rmdir_twice(*arguments: Any, **options: Any) -> None:
            if next(removed) == 3:
                tools.die()
            rmdir(*arguments, **options)

        os.rmdir = rmdir_twice  # in the child only
        Spool(spool).delete(1)

    assert tools.in_child(lambda: None, delete_in_part).how == "killed"
    assert os.listdir(f"{spool}/.trash/1-deleted")
    gone_or_whole(spool)


def test_the_crash_table_x22_output_of_a_job_that_has_completed_is_left_and_its_outcome_is_shown(base: Path) -> None:
    """X22."""
    spool = str(base / "spool")
    spec = tools.workflow({"first": Wanted("echo said")})
    tools.submit(spool, msgspec.structs.replace(spec, stdio=Stdio(delete_on_success=True)))
    shown = Fault(1, when=lambda operation, path: operation == "unlink" and "/output/" in path)
    assert tools.in_child(lambda: spool, run_for_real, shown).how == "killed"
    assert len(os.listdir(f"{root(spool)}/output")) == 2
    seen = job(spool, 1)
    assert (seen.status, seen.attempts) == (COMPLETED, [(1, COMPLETED)])
    assert "stdout" not in seen.content["attempts"][0]
    assert tools.drain(spool) == {"first": COMPLETED}


@pytest.mark.parametrize("error", [None, FULL], ids=["killed", "full"])
def test_the_crash_table_x23_x24_user_data_is_the_old_value_or_the_new_one(error: int | None, base: Path) -> None:
    """X23, X24."""
    for n in itertools.count(1):
        spool = str(base / f"n{n}")
        spec = tools.workflow({"first": Wanted()})
        tools.submit(spool, msgspec.structs.replace(spec, user_data=(UserData(name="a b", data={"old": 1}),)))
        fault = Fault(n, error=error, when=changes_something)
        ending = tools.in_child(lambda spool=spool: tools.open_workflow(spool), _update, fault)  # type: ignore[misc]
        store = tools.open_workflow(spool)
        value = bytes(userdata.read(store, userdata.find(store, "a b")).data)
        assert value == (b'{"new":2}' if ending.how == "done" else b'{"old":1}')
        _update(store)
        assert bytes(userdata.read(store, userdata.find(store, "a b")).data) == b'{"new":2}'
        if ending.how == "done":
            break
    assert n > 2


def _update(store: Any) -> None:
    userdata.update(store, userdata.find(store, "a b"), b'{"new":2}')


def test_the_crash_table_x44_a_mark_of_one_that_came_and_died_holds_up_nobody_for_long(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X44, m1 to m3."""
    spool, now, slept = str(base / "spool"), time.time(), []
    make_graph(spool)
    monkeypatch.setattr(mounts, "is_network", lambda _path: True)
    come = Fault(1, when=lambda operation, path: operation == "create" and "/.arrived-" in path, after=True)
    assert tools.in_child(lambda: spool, lambda spool: await_turn(spool, lambda: 100, environ={}), come).how == "killed"
    (mark,) = (name for name in os.listdir(spool) if naming.parse_arrival(name))
    monkeypatch.setattr(time, "sleep", slept.append)
    for later, waits, left in ((60, 1, [mark]), (700, 0, [])):
        slept.clear()
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        await_turn(spool, lambda: 100, environ={})()
        assert len(slept) == waits
        assert [name for name in os.listdir(spool) if naming.parse_arrival(name)] == left
    check_invariants(root(spool))


def test_the_tests_name_every_row_and_every_invariant_of_the_document() -> None:
    here = Path(__file__).parent
    document = (here.parent / "docs" / "spool-format.md").read_text()
    rows = re.findall(r"^\| (X\d+) \|", document, re.MULTILINE)
    invariants = re.findall(r"\*\*(I\d+)\*\*", document)
    assert sorted(rows, key=lambda row: int(row[1:])) == [f"X{number}" for number in range(1, len(rows) + 1)]
    assert len(invariants) == 15
    tests = "".join(
        path.read_text() for path in [*here.glob("test_*.py"), *here.glob("crash*.py"), here / "spooltools.py"]
    )
    missing = [name for name in rows + invariants if not re.search(rf"\b{name}\b", tests)]
    assert not missing
    elsewhere = {"X6", "X22", "X23", "X24", "X32", "X33", "X34", "X35", "X44"}
    assert {row.row for row in ROWS} | elsewhere == set(rows)
