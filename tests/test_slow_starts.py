"""A job whose start takes long, since the sums of large inputs are taken first: nothing else waits for it."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
import spooltools as tools
from spooltools import Wanted

from torc_spool import fingerprints
from torc_spool.capacity import Capacity
from torc_spool.fingerprints import Fingerprint
from torc_spool.options import Options
from torc_spool.runner import Runner
from torc_spool.spawn import Environment, Order, Spawner
from torc_spool.spool import Spool
from torc_spool.starter import BASH

PATIENCE_S = 20.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there a runner takes in orphans")
def test_a_runner_decides_while_the_sums_of_inputs_are_taken(tmp_path: Path) -> None:
    """The end of a process that a job had left let it wait for all that was about to start: for an hour, where the sums
    took so long, without a sign of life."""
    spec = tools.workflow(
        {
            "slow": Wanted("[ -e last ]"),
            "leaves": Wanted("sleep 1000 &"),
            "third": Wanted("sleep 0.2", ("leaves",)),
            "last": Wanted("touch last", ("third",)),
        }
    )
    slow = msgspec.structs.replace(spec.jobs[0], input_files=("input",))
    spec = msgspec.structs.replace(spec, jobs=(slow, *spec.jobs[1:]))
    (tmp_path / "input").touch()
    spool = str(tmp_path / "spool")
    Spool(spool).submit(spec, tools.VERBATIM, cwd=str(tmp_path))

    def take(_paths: Iterable[str], cwd: str, *, hashed: bool) -> dict[str, Fingerprint]:
        assert not hashed
        until = time.monotonic() + PATIENCE_S
        while not os.path.exists(f"{cwd}/last") and time.monotonic() < until:
            time.sleep(0.01)
        return {}

    def prepare() -> Runner:
        fingerprints.take = take
        return Runner(Spool(spool), Options(Capacity(1, 100), max_parallel_jobs=3), workflow_id=1)

    ending = tools.in_child(prepare, lambda runner: runner.run())
    assert ending.how == "done", ending.text
    tree = tools.read(f"{spool}/1-test")
    assert {seen.name.slug: seen.status for (seen,) in tree.jobs.values()} == dict.fromkeys(
        ("slow", "leaves", "third", "last"), "completed"
    )


def test_what_is_not_made_yet_is_not_made_once_that_is_stopped(tmp_path: Path) -> None:
    """As for a runner that is fenced meanwhile: another runs the job."""
    begun, go_on = threading.Event(), threading.Event()

    def prepare() -> tuple[int, int, int]:
        begun.set()
        go_on.wait(PATIENCE_S)
        return 0, os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)

    spawner = Spawner(lambda: None)
    ran = tmp_path / "ran"
    spawner.start("token", Order(BASH, ("bash", "-c", f"touch {ran}"), Environment({}, {}), {}, str(tmp_path), prepare))
    begun.wait(PATIENCE_S)
    spawner.stop()
    go_on.set()
    (outcome,) = spawner.outcomes(wait=True)
    spawner.close()
    assert isinstance(outcome.error, OSError)
    assert outcome.error.errno == errno.ECANCELED
    assert not ran.exists()
