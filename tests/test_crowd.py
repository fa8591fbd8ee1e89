"""Many runners on one filesystem: whom each watches, when each looks, and what all of them together ask. No timing here
is a measure: clocks are computed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spooltools import directory_in_memory
from storetools import Tree, job, watched

from torc_spool import arrival, crowd, mounts, naming, owners, processes, select
from torc_spool.contents import encode
from torc_spool.model import RunnerRecord
from torc_spool.owners import Around
from torc_spool.pace import Pace
from torc_spool.select import Free, Offer

SIMULATE = Path(__file__).parent.parent / "scripts" / "simulating" / "main.py"
NAMES = st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=30)


@given(NAMES, st.data())
def test_each_that_dies_is_watched_by_each_that_lives_near_before_it(names: set[str], data: st.DataObject) -> None:
    dead = data.draw(st.sets(st.sampled_from(sorted(names)), max_size=len(names) - 1))
    watched_by: dict[str, int] = dict.fromkeys(dead, 0)
    for own in names - dead:
        living = 0
        for name in crowd.ring(names, own):
            if name in dead:
                watched_by[name] += 1
            else:
                living += 1
            if living == crowd.WATCHED:
                break
    assert all(count >= min(crowd.WATCHED, len(names - dead)) for count in watched_by.values())


def test_a_ring_has_all_others_once() -> None:
    assert crowd.ring({"a", "b", "c", "d"}, "b") == ["c", "d", "a"]
    assert crowd.ring({"a", "c"}, "b") == ["c", "a"]
    assert crowd.ring({"a"}, "a") == []


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"SLURM_PROCID": "0"}, 0.0),
        ({"SLURM_PROCID": "100"}, crowd.turn_s(100, 500)),
        ({"SLURM_PROCID": "100", "TORC_RUNNER": "a job is no task of the step"}, 0.0),
        ({"SLURM_PROCID": "9" * 5000}, 0.0),
        ({"SLURM_PROCID": "-1"}, 0.0),
        ({"SLURM_PROCID": "\u0661"}, 0.0),
    ],
)
def test_tasks_of_one_step_begin_one_after_the_other(environ: dict[str, str], seconds: float) -> None:
    assert crowd.turn_s(crowd.rank(environ), 500) == seconds


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long runners that come to a spool on a network filesystem have waited."""
    waits: list[float] = []
    monkeypatch.setattr(mounts, "is_network", lambda _path: True)
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(time, "time", lambda: NOW)
    return waits


NOW = 1e9


def came(spool: Path, seconds: float) -> str:
    mark = naming.new_arrival(NOW + seconds)
    (spool / mark).touch()
    return mark


def never() -> float:
    pytest.fail("who does not wait has no need of the budget")


def test_who_comes_alone_waits_for_nobody(tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as calls:
        begun = arrival.await_turn(str(tmp_path), never, environ={})
        assert (slept, len(os.listdir(tmp_path))) == ([], 1)
        begun()
        begun()
    assert os.listdir(tmp_path) == []
    assert [operation for operation, _ in calls.made] == ["create", "list", "unlink"]


def test_a_mark_counts_until_its_runner_has_begun(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = arrival.await_turn(str(tmp_path), never, environ={})
    monkeypatch.setattr(time, "time", lambda: NOW + 0.1)
    second = arrival.await_turn(str(tmp_path), lambda: 500, environ={})
    assert slept == [crowd.turn_s(1, 500)]
    first()
    second()
    arrival.await_turn(str(tmp_path), never, environ={})
    assert slept == [crowd.turn_s(1, 500)]


def test_who_is_stopped_while_it_waits_leaves_no_mark(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    came(tmp_path, -1)

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        arrival.await_turn(str(tmp_path), lambda: 500, environ={})
    assert len(os.listdir(tmp_path)) == 1


def test_whom_nobody_watches_comes_at_a_random_moment(tmp_path: Path, slept: list[float]) -> None:
    told: list[str] = []
    for number in range(30):
        arrival.await_turn(str(tmp_path), lambda: 2000, environ={}, is_watched=False, tell=told.append)()
        assert len(slept) == number + 1
    assert len(set(slept)) == 30
    assert all(0 <= seconds <= crowd.marking_s(2000) for seconds in slept)
    assert crowd.SHARE * crowd.marking_s(2000) * 2000 + 1 >= crowd.CROWD * crowd.MARK_CALLS
    slept.clear()
    arrival.await_turn(str(tmp_path), lambda: 2000, environ={"SLURM_PROCID": "3"}, is_watched=False)
    assert slept == [crowd.turn_s(3, 2000)]  # the step has spread them


def test_in_a_crowd_only_the_first_begin_while_the_others_leave_their_marks(tmp_path: Path, slept: list[float]) -> None:
    for before in range(crowd.HANDFUL + 1):
        slept.clear()
        arrival.await_turn(str(tmp_path), lambda: 500, environ={}, is_watched=False)()
        held = crowd.marking_s(500) if before >= crowd.HANDFUL else 0.0
        assert slept[1:] == ([held + crowd.turn_s(before, 500)] if before else [])
        came(tmp_path, -1)


def test_who_comes_with_others_lets_those_begin_that_came_before(tmp_path: Path, slept: list[float]) -> None:
    others = {came(tmp_path, seconds) for seconds in (-500, -9, -0.5, 0.5, 60)}
    told: list[str] = []
    for budget in (500, 50):
        arrival.await_turn(str(tmp_path), lambda budget=budget: budget, environ={}, tell=told.append)()
    assert slept == [crowd.turn_s(3, 500), crowd.turn_s(3, 50)]
    assert told == [f"3 runners start just before this one, which begins in {crowd.turn_s(3, 50):.0f} s"]
    assert set(os.listdir(tmp_path)) == others


def test_marks_of_the_dead_are_forgotten_and_removed(tmp_path: Path, slept: list[float]) -> None:
    dead = {came(tmp_path, -4000 + number) for number in range(12)}
    (tmp_path / f"{min(dead)}0").touch()  # foreign
    (tmp_path / ".doctor.json").touch()
    for _ in range(2):
        arrival.await_turn(str(tmp_path), never, environ={})()
    assert slept == []
    assert sorted(os.listdir(tmp_path)) == [f"{min(dead)}0", ".doctor.json"]


def test_where_no_mark_can_be_made_a_runner_begins_at_once(tmp_path: Path, slept: list[float]) -> None:
    arrival.await_turn(str(tmp_path / "none"), never, environ={})
    arrival.await_turn(str(tmp_path / "none"), lambda: 500, environ={"SLURM_PROCID": "2"})
    assert slept == [crowd.turn_s(2, 500)]


def test_on_a_local_filesystem_no_mark_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "is_network", lambda _path: False)
    with watched(monkeypatch) as calls:
        arrival.await_turn(str(tmp_path), never, environ={}, is_watched=False)()
    assert calls.made == []


def test_a_pace_has_a_floor() -> None:
    now = [0.0]
    pace = Pace(1.0, clock=lambda: now[0])
    pace.least = 40.0
    pace.slower(5.0)
    assert pace.at == 40.0
    now[0] = 40.0
    pace.slower(30.0)
    assert pace.at == 80.0
    pace.hurry()
    assert pace.at == 80.0
    pace.now()
    assert pace.at == 40.0


def test_a_pace_that_rests_looks_at_nothing_whatever_happens() -> None:
    now = [0.0]
    pace = Pace(1.0, clock=lambda: now[0])
    assert not pace.rest(0.0)
    assert pace.is_open
    assert pace.rest(40.0)
    pace.hurry()
    pace.now()
    assert (pace.is_open, pace.due(), pace.next_at) == (False, False, 40.0)
    now[0] = 40.0
    assert (pace.is_open, pace.due()) == (True, True)


def test_what_is_looked_at_soon_heeds_the_floor() -> None:
    now = [7.0]
    pace = Pace(1.0, clock=lambda: now[0])
    pace.soon()
    assert pace.due()
    pace.least = 40.0
    pace.soon()
    assert pace.next_at == 47.0


def test_only_a_crowd_puts_off_its_end() -> None:
    assert crowd.leaving_s(crowd.HANDFUL - 1, 2000) == 0.0
    longest = 999 * crowd.END_CALLS / (crowd.SHARE * 2000)
    assert all(0 <= crowd.leaving_s(999, 2000) <= longest for _ in range(99))


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (Offer.idle(Free(0, 1)), True),
        (Offer.idle(Free(1, 1)), False),
        (Offer.idle(Free(0, 1), slots=1, ignore_resources=True), False),
        (Offer.idle(Free(4, 1), slots=0, ignore_resources=True), True),
        (Offer.idle(Free(0, 1), 2)._replace(nodes=(Free(0, 1), Free(1, 1))), False),
    ],
)
def test_who_has_nothing_to_give_need_not_look(offer: select.Offer, expected: bool) -> None:
    assert offer.is_used_up is expected


# -- whom a runner looks at ----------------------------------------------------------------------------------------


def name(number: int) -> str:
    return f"node{number:04d}-7-{number:08x}"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A workflow with sixty runners of as many hosts, of which some have been silent for a day."""
    made = Tree(str(tmp_path / "1-test"), [job(1)])
    for number in range(60):
        record = RunnerRecord(
            name=name(number),
            host=f"node{number:04d}",
            pid=7,
            pid_start="1",
            boot_id="b",
            pid_namespace="n",
            lease_s=240.0,
        )
        for directory in (f"runners/{name(number)}", f"pending/{name(number)}", f"running/{name(number)}"):
            os.mkdir(f"{made.root}/{directory}")
        made.write(f"runners/{name(number)}/runner.json", encode(record))
        beat = made.write(f"runners/{name(number)}/heartbeat", b"")
        if number in SILENT:
            os.utime(beat, (1.0, 1.0))
    return made


SILENT = {0, *range(20, 40), 59}


def seen(tree: Tree, number: int) -> tuple[set[int], set[int]]:
    """Whom a runner looks at, and whom of them it finds dead."""
    found = owners.scan(tree.store(), around=Around(name(number)))
    dead = {int(owner.name[4:8]) for owner in owners.dead(found)}
    return {int(owner.name[4:8]) for owner in found}, dead


def test_a_runner_looks_at_a_few_others_and_past_the_dead(tree: Tree) -> None:
    assert seen(tree, 5) == ({6, 7, 8}, set())
    assert seen(tree, 19) == ({*range(20, 43)}, set(range(20, 40)))
    assert seen(tree, 57) == ({58, 59, 0, 1, 2}, {59, 0})
    living = set(range(60)) - SILENT
    assert set().union(*(seen(tree, number)[1] for number in living)) == SILENT


def test_what_a_look_costs_does_not_grow_with_the_crowd(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    store, around = tree.store(), Around(name(5))
    owners.scan(store, around=around)
    with watched(monkeypatch) as calls:
        owners.scan(store, around=around)
    assert len(calls.made) <= 2 + 2 + crowd.WATCHED, calls.made  # two listings, the time, and the heartbeats


def test_whoever_is_gone_from_this_host_is_looked_at_by_all_who_are_here(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "host_name", lambda: "node0050")
    monkeypatch.setattr(processes, "start_time", lambda pid: None)
    assert seen(tree, 5)[0] == {6, 7, 8, 50}


# -- all of them ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulating() -> object:
    """The simulator's own modules; they are scripts, and no package."""
    sys.path.insert(0, str(SIMULATE.parent))
    for clash in ("crowd", "world", "main"):
        sys.modules.pop(clash, None)
    try:
        import crowd as simulated

        yield simulated
    finally:
        sys.path.remove(str(SIMULATE.parent))
        for clash in ("crowd", "world", "standins"):
            sys.modules.pop(clash, None)


def simulate(simulating: Any, directory: str, **scene: Any) -> Any:
    """In a process of its own: the simulator puts stand-ins in the place of much that the tests use as well."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(simulating.simulate, simulating.Scene(**scene), directory).result()


@pytest.mark.parametrize("step", [True, False], ids=["one step of Slurm", "nobody tells them"])
def test_a_crowd_that_starts_at_once_stays_within_its_budget(step: bool, simulating: object, tmp_path: Path) -> None:
    with directory_in_memory(tmp_path) as directory:
        figures = simulate(simulating, str(directory), runners=40, jobs=80, calls_per_s=400, step=step)
    assert figures.done == 80
    assert max(figures.by_second) <= 400
    assert figures.phases["birth"] <= 40 * crowd.BEGIN_CALLS
    assert figures.births <= 1.5 * (crowd.turn_s(40, 400) + (0.0 if step else crowd.marking_s(400)))


def test_a_crowd_that_waits_is_not_told_of_the_end_at_once(simulating: object, tmp_path: Path) -> None:
    """One job is left: all others wait, and learn in one moment that they may leave."""
    with directory_in_memory(tmp_path) as directory:
        figures = simulate(
            simulating, str(directory), runners=40, jobs=42, seconds=100, barrier=True, calls_per_s=500, step=True
        )
    assert figures.done == 42
    ended = figures.by_second[int(figures.makespan) - 1 :]
    assert max(ended) <= 500


def test_a_crowd_waits_for_one_job_almost_silently(simulating: object, tmp_path: Path) -> None:
    """All but one have nothing to do until that one job ends; then all have."""
    with directory_in_memory(tmp_path) as directory:
        figures = simulate(simulating, str(directory), runners=20, jobs=30, seconds=200, barrier=True)
    assert figures.done == 30
    assert figures.makespan <= figures.ideal + 60
    assert figures.phases["without a job"] <= 20 * 700


def test_the_dead_of_a_crowd_are_found(simulating: object, tmp_path: Path) -> None:
    with directory_in_memory(tmp_path) as directory:
        assert simulate(simulating, str(directory), runners=10, jobs=70, kill=4, seconds=100).done == 70


@pytest.mark.slow
def test_the_simulator_tells_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-B", SIMULATE, "--runners", "100", "--jobs", "200", "--no-step"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "done: 200 of 200" in done.stdout
