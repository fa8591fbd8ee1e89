"""What the death of a runner says of its jobs, and when a job is given to no other."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import Lab, wait_until
from hypothesis import given
from hypothesis import strategies as st

from torc_spool import causes
from torc_spool.causes import (
    ALLOCATION_ENDED,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    RUNNER_DIED,
    has_killed_too_many,
    max_runner_deaths,
    of_allocation,
    runner_deaths,
)
from torc_spool.model import Attempt, Status
from torc_spool.oomkills import NOT_KNOWN, OomCounter, OomKills
from torc_spool.squeue import ENDED

lab = cliutil.lab


def attempts(*kinds: Any) -> list[Attempt]:
    """Of each a cause (lost with its runner), an outcome, or a retry by a failure handler (a number)."""
    made = []
    for number, kind in enumerate(kinds, 1):
        if isinstance(kind, int):
            made.append(Attempt(attempt=number, outcome=Status.FAILED, retry_rule=kind))
        elif isinstance(kind, Status):
            made.append(Attempt(attempt=number, outcome=kind))
        else:
            made.append(Attempt(attempt=number, cause=kind))
    return made


def test_only_what_may_be_the_doing_of_the_job_is_counted() -> None:
    told = {state: of_allocation(state, is_requeued=False, was_dead_before=False) for state in ENDED}
    assert {state for state, cause in told.items() if cause != ALLOCATION_ENDED} == {
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
    }
    assert told["OUT_OF_MEMORY"] == OUT_OF_MEMORY
    assert of_allocation("NODE_FAIL", is_requeued=True, was_dead_before=False) == ALLOCATION_ENDED
    assert of_allocation("TIMEOUT", is_requeued=False, was_dead_before=True) == RUNNER_DIED
    assert of_allocation("UNKNOWN", is_requeued=False, was_dead_before=False) == ALLOCATION_ENDED


@pytest.mark.parametrize(
    ("before", "count"),
    [
        ((), 0),
        ((RUNNER_DIED, OUT_OF_MEMORY), 2),
        ((RUNNER_DIED, ALLOCATION_ENDED, None, RUNNER_DIED), 2),
        ((RUNNER_DIED, RUNNER_DIED, 1, RUNNER_DIED), 1),
        ((RUNNER_DIED, RUNNER_DIED, Status.FAILED, RUNNER_DIED), 1),
        ((RUNNER_DIED, Status.COMPLETED), 0),
    ],
)
def test_deaths_are_counted_back_to_the_last_outcome(before: tuple[Any, ...], count: int) -> None:
    assert runner_deaths(attempts(*before)) == count


@given(
    st.lists(st.sampled_from((RUNNER_DIED, OUT_OF_MEMORY, ALLOCATION_ENDED, None, 1)), max_size=8),
    st.integers(0, 4),
)
def test_a_job_is_given_up_at_the_number_and_never_for_the_end_of_an_allocation(before: list[Any], most: int) -> None:
    lost = attempts(*before)
    assert not has_killed_too_many(lost, ALLOCATION_ENDED, most)
    assert has_killed_too_many(lost, RUNNER_DIED, most) == (most > 0 and runner_deaths(lost) + 1 >= most)
    assert not has_killed_too_many([*lost, *attempts(Status.FAILED)], RUNNER_DIED, max(most, 2))


def test_what_a_workflow_says_of_the_number_that_is_none_does_not_count() -> None:
    assert [max_runner_deaths({"max_runner_deaths": value}) for value in (0, 5, -1, "x", None)] == [0, 5, 3, 3, 3]
    assert max_runner_deaths({}) == causes.MAX_RUNNER_DEATHS


@pytest.mark.parametrize(
    ("code", "before", "after", "alone", "cause"),
    [
        (137, NOT_KNOWN, NOT_KNOWN, False, OUT_OF_MEMORY),  # nobody counts: so Torc takes it
        (137, OomKills(0, 5), OomKills(0, 5), True, None),  # somebody else has killed it
        (137, OomKills(0, 5), OomKills(1, 6), False, OUT_OF_MEMORY),
        (137, OomKills(0, 5), OomKills(0, 6), False, OUT_OF_MEMORY),  # in a container of its own
        (137, OomKills(None, 5), OomKills(None, 5), False, None),
        (137, OomKills(None, None), OomKills(3, None), False, OUT_OF_MEMORY),
        (1, OomKills(0, 5), OomKills(1, 6), True, OUT_OF_MEMORY),  # a part of it was killed
        (1, OomKills(0, 5), OomKills(1, 6), False, None),  # or a part of another job
        (1, OomKills(0, 5), OomKills(0, 6), True, None),
        (1, NOT_KNOWN, NOT_KNOWN, True, None),
        (0, OomKills(0, 5), OomKills(1, 6), True, None),
        (152, NOT_KNOWN, NOT_KNOWN, True, OUT_OF_TIME),
        (143, OomKills(0, 5), OomKills(0, 5), True, None),
    ],
)
def test_what_a_return_code_and_the_kernels_counts_tell(
    code: int, before: OomKills, after: OomKills, alone: bool, cause: str | None
) -> None:
    assert causes.of_exit(code, before, after, is_alone=alone) == cause


def machine(root: Path, version: int, **files: str) -> str:
    """A directory that stands in for a machine whose memory cgroup is of this version."""
    mount = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
    written = {
        "proc/self/mountinfo": f"35 31 0:32 / /cg rw - {mount}\n",
        "proc/self/cgroup": "0::/a/job\n" if version == 2 else "4:memory:/a/job\n",
        **{name.replace("__", "/").replace("_DOT_", "."): text for name, text in files.items()},
    }
    for name, text in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_the_counts_of_both_kinds_of_cgroups_and_of_the_host_are_read(tmp_path: Path) -> None:
    two = machine(
        tmp_path / "two",
        2,
        cg__a__job__memory_DOT_events="low 0\noom 7\noom_kill 3\noom_group_kill 0\n",
        proc__vmstat="pgfault 1\noom_kill 9\n",
    )
    one = machine(tmp_path / "one", 1, cg__a__job__memory_DOT_oom_control="under_oom 0\noom_kill 4\n")
    assert OomCounter(two).now() == OomKills(3, 9)
    assert OomCounter(one).now() == OomKills(4, None)
    assert OomCounter(machine(tmp_path / "none", 2)).now() == NOT_KNOWN
    clock = [0.0]
    counter = OomCounter(two, clock=lambda: clock[0])
    assert counter.lately() == OomKills(3, 9)
    (tmp_path / "two/cg/a/job/memory.events").write_text("oom_kill 4\n")
    assert counter.lately() == OomKills(3, 9)
    clock[0] = 1.0
    assert counter.lately() == OomKills(4, 9)
    counter.close()
    assert counter.now() == NOT_KNOWN


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of 256 MiB, where this process may make one."""
    path = Path("/sys/fs/cgroup/memory") / f"torc-spool-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / "memory.limit_in_bytes").write_text(str(256 << 20))
    except OSError:
        pytest.skip("this process may make no memory cgroup of version 1")
    yield path
    wait_until(lambda: not (path / "cgroup.procs").read_text(), "the cgroup is empty")
    path.rmdir()


def test_who_is_killed_by_the_kernel_or_over_a_limit_is_told_from_who_fails(lab: Lab, cgroup: Path) -> None:
    eat = f"{sys.executable} -c 'x = bytearray(1 << 30)'"
    lab.submit(
        {"name": "whole", "command": f"exec {eat}"},
        {"name": "part", "command": f"{eat}; exit 3"},
        {"name": "by_hand", "command": "kill -9 $$"},
        {"name": "plain", "command": "exit 3"},
        {"name": "long", "command": "sleep 60", "resource_requirements": "brief"},
        resource_requirements=[{"name": "brief", "runtime": "PT1S"}],
    )
    command = shlex.join(lab.command("run", 1, "--num-cpus", 1, "--grace", 0))
    done = subprocess.run(
        ["bash", "-c", f"echo $BASHPID >{cgroup}/cgroup.procs; exec {command}"], env=lab.env, cwd=lab.cwd, check=False
    )
    assert done.returncode == 1
    rows = {row["name"]: (row["cause"], row["return_code"]) for row in lab.jobs().values()}
    assert rows == {
        "whole": ("out_of_memory", 137),
        "part": ("out_of_memory", 3),
        "by_hand": (None, 137),
        "plain": (None, 3),
        "long": ("out_of_time", 152),
    }


def test_a_return_code_may_tell_of_a_kill_on_another_machine(lab: Lab) -> None:
    """As that of docker, ssh or srun."""
    needs = [{"name": "some", "memory": "64m"}]
    lab.submit({"name": "told", "command": "exit 137", "resource_requirements": "some"}, resource_requirements=needs)
    lab.run(1, code=1)
    assert (lab.job("told")["cause"], lab.job("told")["return_code"]) == ("out_of_memory", 137)
    (row,) = lab.torc("recover", 1, "--dry-run", "-f", "json").json["failures"]
    assert (row["action"], row["new_memory_bytes"]) == ("retry", 96 << 20)


def run_until_killed(lab: Lab) -> None:
    assert lab.torc("run", 1, code=None).code == -signal.SIGKILL


def test_a_job_that_kills_three_runners_is_failed_and_a_retry_begins_anew(lab: Lab) -> None:
    spared = lab.base / "spared"
    lab.submit(
        {"name": "killer", "command": f"test -e {spared} || kill -9 $PPID; test -e {spared}"},
        {"name": "after", "command": "true", "depends_on": ["killer"]},
    )
    for _ in range(3):
        run_until_killed(lab)
    done = lab.torc("recover", 1, "--dry-run", "-f", "json").json
    assert [row["action"] for row in done["jobs"]] == ["fail"]
    lab.run(1, code=1)
    row = lab.job("killer")
    assert (row["status"], row["reason"], row["cause"]) == ("failed", "killed its runner 3 times", "killed_runners")
    assert [entry["cause"] for entry in row["attempts"]] == ["runner_died", "runner_died", "killed_runners"]
    assert [entry["outcome"] for entry in row["attempts"]] == [None, None, "failed"]
    assert all("is gone from" in entry["evidence"] for entry in row["attempts"])
    assert lab.states()["after"] == "canceled"
    lab.check()
    lab.torc("retry", 1)
    run_until_killed(lab)
    run_until_killed(lab)
    spared.touch()
    lab.run(1)
    assert lab.states() == {"killer": "completed", "after": "completed"}
    assert len(lab.job("killer")["attempts"]) == 6
    lab.check()


def test_the_number_can_be_set_and_one_that_waits_is_not_counted(lab: Lab) -> None:
    lab.submit(
        {"name": "killer", "command": "kill -9 $PPID"}, {"name": "other", "command": "true"}, max_runner_deaths=1
    )
    assert lab.torc("run", 1, "-p", 1, code=None).code == -signal.SIGKILL
    lab.torc("recover", 1)
    row = lab.job("killer")
    assert (row["status"], row["reason"]) == ("failed", "killed its runner 1 time")
    lab.run(1, code=1)
    assert lab.states() == {"killer": "failed", "other": "completed"}
    assert os.listdir(lab.root() / "aside") == []
