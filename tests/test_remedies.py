"""What did not complete is helped: with more of what it ran out of, never with more than there is, and once."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cliutil
import msgspec
import pytest
import storetools
from cliutil import Lab
from hypothesis import given, settings
from hypothesis import strategies as st

from torc_spool import causes, ceilings, mend, remedies
from torc_spool.ceilings import Ceiling, Ceilings
from torc_spool.contents import encode
from torc_spool.errors import UsageError
from torc_spool.model import MIB, Attempt, Job, Resources, RunnerRecord, Status
from torc_spool.remedies import Terms
from torc_spool.store import Store

lab = cliutil.lab

MEMORY, TIME = causes.OUT_OF_MEMORY, causes.OUT_OF_TIME
NONE = Ceilings()


def attempt(number: int = 1, cause: str | None = None, outcome: Status = Status.FAILED, **fields: Any) -> Attempt:
    return Attempt(attempt=number, outcome=outcome, cause=cause, **fields)


def out_of(cause: str, resources: Resources, number: int = 1) -> Attempt:
    outcome = Status.TERMINATED if cause == TIME else Status.FAILED
    return attempt(number, cause, outcome, **causes.stated(cause, resources))


def job(*attempts: Attempt, memory_mib: int | None = None, runtime_s: int | None = None) -> Job:
    memory = None if memory_mib is None else memory_mib * MIB
    resources = Resources(memory_bytes=memory, runtime_s=runtime_s)
    return Job(id=1, name="j1", command="true", resources=resources, attempts=attempts)


# -- the plan


def test_each_cause_has_its_remedy() -> None:
    has = Resources(memory_bytes=100 * MIB, runtime_s=60)
    told = {}
    for cause in (MEMORY, TIME, causes.RUNNER_ENDED, causes.ALLOCATION_ENDED, causes.KILLED_RUNNERS, None):
        ended = out_of(cause, has) if cause in (MEMORY, TIME) else attempt(cause=cause)
        each = job(ended, memory_mib=100, runtime_s=60)
        remedy = remedies.of(each, ended, NONE, Terms())
        needs = remedy.resources.needs
        told[remedy.cause] = (remedy.is_retried, needs.memory_mib, needs.runtime_s)
        asked = remedies.of(each, ended, NONE, Terms(retry_unknown=True))
        assert asked.is_retried
    assert told == {
        "out_of_memory": (True, 150, 60),
        "out_of_time": (True, 100, 84),
        "runner_ended": (True, 100, 60),
        "allocation_ended": (True, 100, 60),
        "killed_runners": (False, 100, 60),
        "failed": (False, 100, 60),
    }


def test_what_is_not_known_is_said() -> None:
    nothing = attempt(cause=MEMORY)
    assert remedies.of(job(nothing), nothing, NONE, Terms()).why == "it states no memory, and what it used is not known"
    used = attempt(cause=MEMORY, peak_memory_bytes=10 * MIB)
    assert remedies.of(job(used), used, NONE, Terms()).resources.memory_bytes == 15 * MIB
    xcpu = attempt(cause=TIME)
    assert not remedies.of(job(xcpu), xcpu, NONE, Terms()).is_retried
    assert remedies.of(job(), None, NONE, Terms()).cause == "failed"


def test_what_will_not_be_enough_either_is_said() -> None:
    stated, seen = [attempt(cause=MEMORY, stated_memory_bytes=30 * MIB, peak_memory_bytes=n * MIB) for n in (45, 210)]
    first = remedies.of(job(stated, memory_mib=30), stated, NONE, Terms())
    second = remedies.of(job(seen, memory_mib=30), seen, NONE, Terms())
    assert first.resources == second.resources and first.resources.memory_bytes == 45 * MIB
    assert first.why == "memory 30 MiB -> 45 MiB"
    assert second.why == first.why + "; it has used 210 MiB already, see --memory-multiplier"


def test_retries_are_bounded_and_the_end_of_a_runner_counts_only_where_no_runtime_is_stated() -> None:
    ends = [attempt(number, causes.RUNNER_ENDED, Status.TERMINATED) for number in range(1, 6)]
    assert remedies.of(job(*ends, runtime_s=60), ends[-1], NONE, Terms()).is_retried
    left = remedies.of(job(*ends), ends[-1], NONE, Terms())
    assert left.why == "it has not completed 5 times, and is to be retried 3 at most"
    handled = [attempt(number, None, Status.FAILED, retry_rule=1) for number in range(1, 5)]
    last = out_of(MEMORY, Resources(memory_bytes=MIB), 5)
    assert remedies.of(job(*handled, last, memory_mib=1), last, NONE, Terms(max_retries=1)).is_retried


def test_a_factor_that_gives_no_more_is_refused() -> None:
    for terms in (Terms(memory_multiplier=1.0), Terms(runtime_multiplier=float("nan")), Terms(runtime_multiplier=1e9)):
        with pytest.raises(UsageError, match="multiplier must be more than 1"):
            terms.check()


SIZES = st.integers(1, 1 << 20)


@given(had=SIZES, has=SIZES, most=st.none() | SIZES, tenths=st.integers(11, 90), cause=st.sampled_from((MEMORY, TIME)))
def test_a_job_gets_more_than_it_had_and_never_more_than_there_is_and_a_second_look_comes_to_the_same(
    had: int, has: int, most: int | None, tenths: int, cause: str
) -> None:
    has = max(had, has)  # a person may have given it more since
    ceiling = Ceiling(None if most is None else most * (MIB if cause == MEMORY else 1), "the largest")
    limits = Ceilings(ceiling, Ceiling()) if cause == MEMORY else Ceilings(Ceiling(), ceiling)
    terms = Terms(memory_multiplier=tenths / 10, runtime_multiplier=tenths / 10)
    ended = out_of(cause, Resources(memory_bytes=had * MIB, runtime_s=had))
    one = job(ended, memory_mib=has, runtime_s=has)
    remedy = remedies.of(one, ended, limits, terms)
    needs = remedy.resources.needs
    gets = needs.memory_mib if cause == MEMORY else needs.runtime_s
    other = needs.runtime_s if cause == MEMORY else needs.memory_mib
    assert other == has
    if remedy.is_retried:
        assert had < gets <= max(has, -(-had * tenths // 10))
        assert most is None or gets <= max(most, has)
        assert ("no more" in remedy.why) == (most is not None and gets == most)
        again = msgspec.structs.replace(one, resources=remedy.resources)
        assert remedies.of(again, ended, limits, terms).resources == remedy.resources
    else:
        assert gets == has == had
        assert most is not None
        assert most <= had


# -- ceilings


def runner(memory_mib: int | None, **fields: Any) -> RunnerRecord:
    known = {"name": "r", "host": "h", "pid": 1, "pid_start": "", "boot_id": "", "pid_namespace": "", "lease_s": 1.0}
    return RunnerRecord(**known, memory_mib=memory_mib, **fields)


def test_a_bound_job_gets_what_its_scheduler_gives_and_a_free_one_what_any_gives() -> None:
    schedulers = [
        {"name": "small", "mem": "2G", "walltime": "00:10:00"},
        {"name": "big", "mem": "64000", "walltime": "1-00:00:00"},
    ]
    find = ceilings.of_job
    small = find("small", schedulers, {}, {}, [runner(999_999)])
    assert small == Ceilings(Ceiling(2048 * MIB, "scheduler small has"), Ceiling(600 - 60 - 30, "scheduler small has"))
    free = find(None, schedulers, {}, {}, [])
    assert free.memory == Ceiling(64000 * MIB, "scheduler big has")
    assert free.runtime == Ceiling(86400 - 120, "scheduler big has")
    assert find(None, schedulers, {}, {}, [runner(99_000)]).memory.most == 99_000 * MIB
    assert find("small", schedulers, {}, {"compute_node_expiration_buffer_seconds": 300}, []).runtime.most == 270


def test_what_no_scheduler_says_is_known_from_its_runners_or_not_at_all() -> None:
    schedulers = [{"name": "node", "walltime": "UNLIMITED"}]
    assert ceilings.of_job("node", schedulers, {}, {}, []) == NONE
    has = [runner(100, scheduler="node"), runner(300, scheduler="node"), runner(900)]
    assert ceilings.of_job("node", schedulers, {}, {}, has).memory.most == 300 * MIB
    assert ceilings.of_job(None, [], {}, {}, [runner(100), runner(200)]).memory.most == 200 * MIB
    assert ceilings.of_job(None, [], {}, {}, [runner(100), runner(200, max_parallel_jobs=3)]) == NONE
    assert ceilings.of_job(None, [], {}, {}, []) == NONE
    assert ceilings.of_job("node", [{"name": "node", "mem": "nonsense", "walltime": "x"}], {}, {}, []) == NONE


# -- doing


CASES = st.lists(
    st.tuples(
        st.sampled_from((MEMORY, TIME, causes.RUNNER_ENDED, causes.KILLED_RUNNERS, None)),
        st.integers(1, 5),  # attempts
        st.booleans(),  # waits for the one before, whatever becomes of it
    ),
    min_size=1,
    max_size=4,
)


def wrecked(root: str, cases: list[tuple[str | None, int, bool]]) -> Store:
    """A workflow whose jobs have all ended so."""
    jobs = []
    for number, (_, _, waits) in enumerate(cases, 1):
        after = (number - 1,) if waits and number > 1 else ()
        jobs.append(storetools.job(number, *after, anyway=True, resources={"memory_bytes": 64 * MIB, "runtime_s": 100}))
    tree = storetools.Tree(root, jobs)
    for each, (cause, count, _) in zip(jobs, cases, strict=True):
        outcome = Status.TERMINATED if cause in (TIME, causes.RUNNER_ENDED) else Status.FAILED
        ended = [out_of(cause or "", each.resources, n) if cause in (MEMORY, TIME) else attempt(n, cause, outcome)
                 for n in range(1, count + 1)]  # fmt: skip
        path = tree.put(each.id, f"done/{outcome}", attempt=count)
        Path(path).write_bytes(encode(msgspec.structs.replace(each, attempts=tuple(ended))))
    return Store.open(root)


@settings(deadline=None, max_examples=25)
@given(CASES)
def test_a_dry_run_is_what_is_done_and_a_second_time_nothing_is(cases: list[tuple[str | None, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        store = wrecked(f"{base}/1-test", cases)
        planned = mend.recover(store, Terms(), dry_run=True)
        before = {job: place.filename for job, place in store.snapshot().items()}
        done = mend.recover(store, Terms())
        assert [case.row() for case in done.cases] == [case.row() for case in planned.cases]
        for case in done.cases:
            place = store.locate(case.id)
            assert place is not None
            if case.remedy.is_retried:
                assert place.status in (Status.READY, Status.BLOCKED)
                assert place.name.attempt > case.place.name.attempt
                assert place.name.needs == case.remedy.resources.needs
                content = store.read_job(store.path(place), case.id)
                assert content is not None
                assert content.job.resources == case.remedy.resources
                assert content.job.attempts == case.job.attempts
            else:
                assert place.filename == before[case.id]
        after = store.snapshot()
        again = mend.recover(store, Terms())
        assert not any(case.remedy.is_retried for case in again.cases)
        assert store.snapshot() == after


def test_jobs_that_ran_out_of_memory_and_time_complete_with_more_while_a_runner_is_at_work(lab: Lab) -> None:
    gate = lab.gate()
    eat = f"{sys.executable} -c 'import time; x = bytearray(70 << 20); time.sleep(3)'"
    lab.submit(
        {"name": "hungry", "command": eat, "resource_requirements": "little"},
        {"name": "slow", "command": "test $TORC_ATTEMPT_ID = 2 || sleep 60", "resource_requirements": "brief"},
        {"name": "wrong", "command": "exit 3"},
        {"name": "after", "command": "true", "depends_on": ["hungry"]},
        {"name": "busy", "command": gate.wait},
        resource_requirements=[{"name": "little", "memory": "64m"}, {"name": "brief", "runtime": "PT1S"}],
    )
    worker = lab.start("run", 1, "--num-cpus", 5, "--memory-gb", 1, "--grace", 0)
    gate.await_jobs("busy")
    cliutil.wait_until(lambda: list(lab.states().values()).count("running") == 1, "the others have ended")
    planned = lab.torc("recover", 1, "--dry-run", "-f", "json").json["failures"]
    fields = ("name", "cause", "action", "new_memory_bytes", "new_runtime_s")
    assert [tuple(row[field] for field in fields) for row in planned] == [
        ("hungry", "out_of_memory", "retry", 96 * MIB, None),
        ("slow", "out_of_time", "retry", None, 2),
        ("wrong", "failed", "leave", None, None),
    ]  # fmt: skip
    assert lab.states()["after"] == "canceled"
    done = lab.torc("recover", 1)
    assert "memory 64 MiB -> 96 MiB" in done.stdout
    cliutil.wait_until(lambda: lab.states()["after"] == "completed", "the runner has run them again")
    second = lab.torc("recover", 1, "-f", "json").json["failures"]
    assert [(row["name"], row["action"]) for row in second] == [("wrong", "leave")]
    gate.open()
    worker.wait(1)
    assert lab.states() == dict.fromkeys(("hungry", "slow", "after", "busy"), "completed") | {"wrong": "failed"}
    first, last = lab.job("hungry")["attempts"]
    assert (first["cause"], first["stated_memory_bytes"]) == ("out_of_memory", 64 * MIB)
    assert (last["outcome"], lab.job("hungry")["resources"]["memory_bytes"]) == ("completed", 96 * MIB)
    assert lab.torc("fsck", 1).code == 0
    lab.check()


def test_no_more_than_the_largest_runner_and_only_the_dead_where_that_is_asked(lab: Lab) -> None:
    lab.submit(
        {"name": "hungry", "command": f"{sys.executable} -c 'import time; x = bytearray(150 << 20); time.sleep(9)'",
         "resource_requirements": "little"},
        resource_requirements=[{"name": "little", "memory": "100m"}],
    )  # fmt: skip
    lab.run(1, "--memory-gb", 0.1, code=1)
    (row,) = lab.torc("recover", 1, "--dry-run", "-f", "json").json["failures"]
    assert (row["new_memory_bytes"], row["action"]) == (102 * MIB, "retry")
    assert row["why"] == "memory 100 MiB -> 102 MiB (the largest of the runners so far has no more)"
    assert lab.torc("recover", 1, "--no-retry", "-f", "json").json["failures"] == []
    assert "multiplier must be more than 1" in lab.torc("recover", 1, "--memory-multiplier", "1", code=2).sentence()
