"""Runners on a filesystem that refuses calls at random, before or after it obeyed them: nothing is lost or done twice.

A refusal after the fact is what a network filesystem makes of a reply that did not come in time.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import spooltools as tools
from spooltools import Do, Hand, Wanted

from torc_spool import errands, executor, fsops, recording, report, runner
from torc_spool.capacity import Capacity
from torc_spool.errors import StorageError
from torc_spool.execution import Execution, Outputs
from torc_spool.model import OUTCOMES, FailureHandler, Rule, Status, Trigger, WorkflowSpec
from torc_spool.options import Options
from torc_spool.repair import look, repair
from torc_spool.runner import Result, Runner
from torc_spool.slots import Grant
from torc_spool.spool import Spool

OFTEN = ("rename", "unlink", "link", "create", "open")
COMMANDS = ("true", "true", "exit 3", "[ $TORC_ATTEMPT_ID -ge 2 ] || exit 3")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


def flow(chance: random.Random) -> WorkflowSpec:
    names = [f"j{number}" for number in range(8)]
    jobs = {
        name: Wanted(
            f"echo {name}.$TORC_ATTEMPT_ID >> log; {chance.choice(COMMANDS)}",
            tuple(other for other in names[:number] if chance.random() < 0.2),
            anyway=chance.random() < 0.3,
        )
        for number, name in enumerate(names)
    }
    do = (
        Do(Trigger.WORKFLOW_START, ("echo start >> actions",)),
        Do(Trigger.JOBS_COMPLETE, ("echo complete >> actions",), ("j0", "j1")),
        Do(Trigger.WORKFLOW_COMPLETE, ("echo end >> actions",)),
    )
    spec = tools.workflow(jobs, actions=do)
    handled = (job if chance.random() < 0.3 else msgspec.structs.replace(job, failure_handler="h") for job in spec.jobs)
    rules = (Rule(exit_codes=(3,), max_retries=2),)
    return msgspec.structs.replace(spec, jobs=tuple(handled), failure_handlers=(FailureHandler(name="h", rules=rules),))


def run_here(
    spool: str, trouble: Callable[[], None] = lambda: None, tell: Callable[[Result], object] = lambda _: None
) -> None:
    """A whole runner, in a child of its own; the trouble begins once it has been born."""

    def prepare() -> Runner:
        executor.RECORD_RETRY_S = executor.START_RETRY_S = errands.RETRY_S = runner.TROUBLE_PAUSE_S = 0.01  # type: ignore[misc]
        runner.AWAIT_POLL_S, runner.TROUBLES = 0.1, 1000  # type: ignore[misc]
        made = Runner(Spool(spool), Options(Capacity(8, 8000), max_parallel_jobs=3), workflow_id=1)
        begin = made._begin

        def then_trouble() -> None:
            begin()
            trouble()

        made._begin = then_trouble  # type: ignore[method-assign]
        return made

    ending = tools.in_child(prepare, lambda made: tell(made.run()))
    assert ending.how in ("done", "refused"), ending.text


def refuse(chance: random.Random, before: float, after: float) -> Callable[[], None]:
    def trouble() -> None:
        rename = os.rename

        def refused(operation: str, path: str) -> None:
            share = {"list": 0.25}.get(operation, operation in OFTEN)
            if chance.random() < before * share:
                raise OSError(chance.choice(ERRORS), "refused", path)

        def refused_after(source: str, target: str) -> None:
            rename(source, target)
            if chance.random() < after:
                raise OSError(chance.choice((errno.EIO, errno.ENOENT, errno.ESTALE)), "its reply was lost", source)

        os.rename = refused_after  # type: ignore[assignment]
        fsops.fault = refused

    return trouble


def refuse_each_once(error: int) -> Callable[[], None]:
    """Every call, the first time that it is made for a path."""

    def trouble() -> None:
        seen: set[tuple[str, str]] = set()

        def refused(operation: str, path: str) -> None:
            if operation in (*OFTEN, "list", "utime", "output") and (operation, path) not in seen:
                seen.add((operation, path))
                raise OSError(error, "refused", path)

        fsops.fault = refused

    return trouble


def words(path: Path) -> Counter[str]:
    return Counter(path.read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0.3, 0.0), (0.0, 0.1), (0.1, 0.1)], ids=["before", "after", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_a_runner_on_a_flaky_disk_loses_no_result_and_does_nothing_twice(
    tmp_path: Path, seed: int, before: float, after: float
) -> None:
    chance = random.Random(seed)
    spool = str(tmp_path / "spool")
    Spool(spool).submit(flow(chance), tools.VERBATIM, cwd=str(tmp_path))
    run_here(spool, refuse(chance, before, after))
    run_here(spool)
    check(tmp_path)


def check(base: Path) -> None:
    tree = tools.check_invariants(f"{base}/spool/1-test")
    assert all(seen.status in OUTCOMES for (seen,) in tree.jobs.values())
    assert all(outcome is not None for (seen,) in tree.jobs.values() for _, outcome in seen.attempts), "none was lost"
    recorded = {f"{seen.content['name']}.{attempt}" for (seen,) in tree.jobs.values() for attempt, _ in seen.attempts}
    assert words(base / "log") == dict.fromkeys(recorded, 1), "what ran is what is recorded"
    assert words(base / "actions") == dict.fromkeys(("start", "complete", "end"), 1)
    assert all(file.startswith("done/") for (file,) in tree.actions.values())


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ESTALE, *ERRORS], ids=["ESTALE", "EIO", "ENOSPC", "EDQUOT"])
def test_a_runner_that_is_refused_every_call_once_loses_no_result_and_does_nothing_twice(
    tmp_path: Path, error: int
) -> None:
    spool = str(tmp_path / "spool")
    Spool(spool).submit(flow(random.Random(7)), tools.VERBATIM, cwd=str(tmp_path))
    run_here(spool, refuse_each_once(error))
    run_here(spool)
    check(tmp_path)


def test_results_that_wait_for_the_disk_are_kept_when_what_follows_from_one_is_refused(tmp_path: Path) -> None:
    spool = str(tmp_path / "spool")
    jobs = {name: Wanted(f"echo {name} >> log") for name in "abc"} | {
        f"after-{name}": Wanted(after=(name,)) for name in "abc"
    }
    Spool(spool).submit(tools.workflow(jobs), tools.VERBATIM, cwd=str(tmp_path))
    refused: set[str] = set()

    def trouble() -> None:
        def refuse(operation: str, path: str) -> None:
            if operation == "rename" and "/running/" in path and len(refused) < 3:  # f2, until none is recorded
                refused.add(path)
                raise OSError(errno.ENOSPC, "full", path)
            if operation == "rename" and "/blocked/" in path and len(refused) == 3:  # r1 after the first that is
                refused.add(path)
                raise OSError(errno.EIO, "broken", path)

        fsops.fault = refuse

    run_here(spool, trouble)
    tree = tools.check_invariants(f"{spool}/1-test")
    assert {seen.status for (seen,) in tree.jobs.values()} == {Status.COMPLETED}
    assert all(seen.attempts == [(1, "completed")] for (seen,) in tree.jobs.values())
    assert words(tmp_path / "log") == {"a": 1, "b": 1, "c": 1}


def test_a_file_that_cannot_be_read_is_left_with_its_reason_and_made_anew_by_a_repair(tmp_path: Path) -> None:
    """A runner cannot tell whether the disk will give it later; the person who asks for a repair has decided that."""
    spool, said = str(tmp_path / "spool"), tmp_path / "said"
    jobs = {name: Wanted(f"echo {name} >> log") for name in "ab"} | {"c": Wanted(after=("b",))}
    Spool(spool).submit(tools.workflow(jobs), tools.VERBATIM, cwd=str(tmp_path))

    def refused(operation: str, path: str) -> None:
        if operation == "open" and "-000000002." in path:
            raise OSError(errno.EIO, "broken", path)

    def trouble() -> None:
        fsops.fault = refused

    run_here(spool, trouble, tell=lambda result: said.write_text(result.left[0][1].reason))
    assert "is given back: cannot open" in said.read_text()
    assert (
        f"Input/output error; if that lasts, make it anew: torc-spool --spool {spool} fsck 1 --repair"
        in said.read_text()
    )
    store = tools.open_workflow(spool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsops, "fault", refused)
        assert [row["status"] for row in report.jobs(store)] == ["completed", "ready", "blocked"]
        assert [(each.kind, each.job) for each in look(store)] == [("damaged", 2)]
        repair(store)
    assert look(store) == []
    run_here(spool)
    assert words(tmp_path / "log") == {"a": 1, "b": 1}
    assert set(tools.states(store.layout.root).values()) == {Status.COMPLETED}


def test_a_result_is_not_written_anew_when_its_last_move_was_refused_after_the_fact(tmp_path: Path) -> None:
    """Else a job that somebody has claimed again meanwhile would come back to ready."""
    tools.submit(str(tmp_path / "spool"), tools.workflow({"a": Wanted()}))
    store = tools.open_workflow(str(tmp_path / "spool"))
    hand, other = Hand(store), Hand(store)
    (claimed,) = hand.claim()
    started = hand.actor.start(claimed.filename, claimed.name, claimed.content)
    assert started is not None
    execution = Execution(*started, claimed.content, Grant(claimed.name.needs, (0,), ()), Outputs(None, None))
    attempt = msgspec.structs.replace(tools.result(hand.name, 1, Status.FAILED), retry_rule=1)
    rename = os.rename

    def refused_after(source: str, target: str) -> None:
        rename(source, target)
        if "/ready/" in target:
            raise OSError(errno.EIO, "its reply was lost", source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", refused_after)
        with pytest.raises(StorageError):
            recording.record(hand.actor, execution, attempt)
    other.take("a")
    assert recording.record(hand.actor, execution, attempt) is None
    (seen,) = tools.check_invariants(store.layout.root).jobs[1]
    assert (seen.status, seen.detail, seen.name.attempt) == (Status.RUNNING, other.name, 2)
    hand.leave()
