"""Which jobs run again: the reasons, what follows down the graph, and that it is all of it or nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import spooltools as tools
from hypothesis import given, settings
from hypothesis import strategies as st
from spooltools import Hand, Wanted, check_invariants

from torc_spool import again, changes, naming
from torc_spool.again import Fate, Files, Known, Plan
from torc_spool.digest import digest
from torc_spool.errors import UsageError
from torc_spool.model import OUTCOMES, Attempt, Job, Resources, Status, WorkflowSpec
from torc_spool.naming import Cause
from torc_spool.reinitialize import Row, reinitialize, reset_status
from torc_spool.settle import Settler
from torc_spool.store import Place, Store

COMPLETED, FAILED, CANCELED, TERMINATED = OUTCOMES[0], Status.FAILED, Status.CANCELED, Status.TERMINATED
BLOCKED, READY, HELD, RUNNING = Status.BLOCKED, Status.READY, Status.HELD, Status.RUNNING


# -- the plan, from values


def known(
    job: int,
    status: Status = COMPLETED,
    *after: int,
    attempt: int = 1,
    cause: Cause | None = None,
    filed: dict[str, Any] | None = None,
    recorded: dict[str, Any] | None = None,
    **fields: Any,
) -> Known:
    """A job that lies where its status says; `filed` is what its file has otherwise, `recorded` is of its attempt."""
    definition = Job(id=job, name=f"j{job}", command="true", depends_on=after, **fields)
    name = naming.job_name(priority=0, job=job, needs=definition.resources.needs, name=definition.name, attempt=attempt)
    if status in OUTCOMES:
        result = Attempt(attempt=attempt, outcome=status, **{"digest": digest(definition, {}), **(recorded or {})})
        filed = {"attempts": (result,), **(filed or {})}
    detail = {READY: "any", RUNNING: "host-1-0123abcd"}.get(status)
    place = Place(status, detail, str(name._replace(cause=cause)), name._replace(cause=cause))
    return Known(definition, place, msgspec.structs.replace(definition, **(filed or {})))


def plan_of(*jobs: Known, files: Files | None = None) -> Plan:
    look = files or Files({})
    return again.plan({each.job.id: each for each in jobs}, lambda each: again.own_reasons(each, look, {}))


def told(plan: Plan) -> dict[str, list[str]]:
    return {step.known.job.name: list(step.reasons) for step in plan.steps if step.is_told}


def test_nothing_runs_again_while_all_is_as_it_was() -> None:
    attempt = {"inputs": {"in": (3, 7, None)}}
    files = Files({"in": (3, 7, None), "out": (1, 1, None)})
    job = known(1, input_files=("in",), output_files=("out",), recorded=attempt)
    assert plan_of(job, known(2, COMPLETED, 1), known(3, FAILED), known(4, READY), files=files) == Plan((), ())


@pytest.mark.parametrize(
    ("was", "now", "by_content", "reason"),
    [
        ((3, 7, None), (3, 8, None), False, "input in has changed"),
        ((3, 7, None), (4, 7, None), False, "input in has changed"),
        ((3, 7, None), None, False, "input in is gone"),
        (None, (3, 7, None), False, "input in was not there when it ran"),
        ((3, 7, "a"), (3, 9, "b"), True, "the content of input in has changed"),
        ((3, 7, "a"), (3, 9, "a"), True, None),
        ((3, 7, "a"), (3, 9, "a"), False, "input in has changed"),
        ((3, 7, None), (3, 9, None), True, "input in has changed (by size and time: no sum was recorded)"),
        (None, None, False, None),
    ],
)
def test_an_input_is_compared_with_what_was_recorded(was: Any, now: Any, by_content: bool, reason: str | None) -> None:
    recorded = {"inputs": {} if was is None else {"in": was}}
    files = Files({} if now is None else {"in": now}, by_content=by_content)
    plan = plan_of(known(1, input_files=("in",), recorded=recorded), files=files)
    assert told(plan) == ({} if reason is None else {"j1": [reason]})


def test_what_a_job_itself_writes_is_no_input_that_changes() -> None:
    recorded = {"inputs": {"state": (1, 1, None)}}
    job = known(1, input_files=("state",), output_files=("state",), recorded=recorded)
    assert plan_of(job, files=Files({"state": (2, 2, None)})).steps == ()


def test_an_attempt_from_before_inputs_were_recorded_says_nothing_of_them() -> None:
    job = known(1, input_files=("in",), recorded={"digest": None})
    assert plan_of(job, files=Files({"in": (1, 1, None)})).steps == ()


def test_a_missing_output_is_a_reason_only_for_what_completed() -> None:
    plan = plan_of(known(1, COMPLETED, output_files=("out",)), known(2, FAILED, output_files=("out",)))
    assert told(plan) == {"j1": ["output out does not exist"]}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("command", "false", "its command has changed"),
        ("invocation_script", "nice", "its invocation script has changed"),
        ("env", {"A": "1"}, "its environment has changed"),
    ],
)
@pytest.mark.parametrize("status", OUTCOMES, ids=str)
@pytest.mark.parametrize("has_digest", [True, False], ids=["digest", "from before digests"])
def test_a_changed_definition_is_told_by_its_digest_or_by_the_file(
    field: str, value: Any, reason: str, status: Status, has_digest: bool
) -> None:
    filed = Job(id=1, name="j1", command="true", **({} if field == "command" else {field: value}))
    if field == "command":
        filed = Job(id=1, name="j1", command=value)
    attempt = {"digest": digest(filed, {}) if has_digest else None}
    plan = plan_of(known(1, status, filed={field: value}, recorded=attempt))
    assert told(plan) == {"j1": [reason]}


def test_other_resources_are_a_reason_only_for_what_did_not_complete() -> None:
    more = {"resources": Resources(num_cpus=2)}
    assert told(plan_of(known(1, COMPLETED, filed=more), known(2, TERMINATED, filed=more))) == {
        "j2": ["its resources have changed"]
    }


GONE = {"output_files": ("out",)}  # a reason to run again


def test_what_waits_for_a_job_that_runs_again_runs_again_too() -> None:
    plan = plan_of(
        known(1, **GONE), known(2, COMPLETED, 1), known(3, FAILED, 2), known(4, CANCELED, 3, cause=Cause(3, 1))
    )
    assert told(plan) == {
        "j1": ["output out does not exist"],
        "j2": ["'j1', which it waits for, runs again"],
        "j3": ["'j2', which it waits for, runs again"],
        "j4": ["'j3', because of which it was canceled, runs again"],
    }


def test_what_waits_is_made_to_wait_and_only_what_was_ready_is_told() -> None:
    plan = plan_of(known(1, **GONE), known(2, READY, 1), known(3, BLOCKED, 1), known(4, HELD, 1), known(5, BLOCKED, 3))
    assert [(step.id, step.fate) for step in plan.steps[1:]] == [(2, Fate.WAIT), (3, Fate.WAIT), (4, Fate.WAIT)]
    assert list(told(plan)) == ["j1", "j2"]


def test_a_running_job_that_would_have_to_wait_refuses_the_plan() -> None:
    (refusal,) = plan_of(known(1, **GONE), known(2, RUNNING, 1)).refusals
    assert refusal == "job 'j2' is running in the hands of host-1-0123abcd, and waits for 'j1', which is to run again"
    assert plan_of(known(1, **GONE), known(2, RUNNING)).refusals == ()


def test_a_job_that_completed_before_what_it_waits_for_runs_again() -> None:
    early = {"start_time": 10.0, "end_time": 11.0, "host": "a"}
    late = {"start_time": 20.0, "end_time": 21.0, "host": "a"}
    retried = known(1, attempt=2, recorded=late)
    assert told(plan_of(retried, known(2, COMPLETED, 1, recorded=early))) == {
        "j2": ["'j1', which it waits for, has run again since"]
    }
    assert plan_of(known(1, attempt=2, recorded=early), known(2, COMPLETED, 1, recorded=late)).steps == ()
    assert plan_of(known(1, recorded=late), known(2, COMPLETED, 1, recorded=early)).steps == (), "never run again"
    elsewhere = known(2, COMPLETED, 1, recorded={**early, "host": "b"})
    assert told(plan_of(retried, elsewhere))["j2"][0].endswith("since (by the clocks of a and b)")


def test_a_job_that_completed_waits_for_what_has_not() -> None:
    assert told(plan_of(known(1, READY), known(2, COMPLETED, 1))) == {
        "j2": ["'j1', which it waits for, has not completed: it is ready"]
    }
    assert told(plan_of(known(1, FAILED), known(2, COMPLETED, 1))) == {"j2": ["'j1', which it waits for, is failed"]}
    undeterred = known(2, COMPLETED, 1, cancel_on_blocking_job_failure=False)
    assert plan_of(known(1, FAILED), undeterred).steps == ()


def test_a_job_that_was_canceled_because_of_one_that_stays_failed_stays_canceled() -> None:
    canceled = known(2, CANCELED, 1, cause=Cause(1, 1), filed={"command": "false"})
    assert plan_of(known(1, FAILED), canceled).steps == ()


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Known], set[int]]:
    """Jobs in any state that wait for earlier ones, and those of them that have a reason of their own."""
    count = draw(st.integers(1, 8))
    jobs = []
    for job in range(1, count + 1):
        after = draw(st.sets(st.integers(1, job - 1), max_size=3)) if job > 1 else set()
        status = draw(st.sampled_from([COMPLETED, COMPLETED, COMPLETED, FAILED, TERMINATED, BLOCKED, READY, HELD]))
        jobs.append(known(job, status, *sorted(after)))
    return jobs, draw(st.sets(st.integers(1, count), max_size=3))


@settings(deadline=None)
@given(situations())
def test_the_plan_is_the_closure_down_the_graph(situation: tuple[list[Known], set[int]]) -> None:
    jobs, roots = situation
    by_id = {each.job.id: each for each in jobs}
    plan = again.plan(by_id, lambda each: ["a reason"] if each.job.id in roots else [])
    expected: set[int] = set()
    for _ in jobs:
        for each in jobs:
            awaited = [by_id[other] for other in each.job.depends_on]
            unmet = each.place.status is COMPLETED and any(other.place.status is not COMPLETED for other in awaited)
            follows = any(other.job.id in expected for other in awaited)
            if each.place.status in OUTCOMES and (each.job.id in roots or unmet or follows):
                expected.add(each.job.id)
    assert {step.id for step in plan.again} == expected
    waits = {each.job.id for each in jobs if each.place.status not in OUTCOMES and expected & {*each.job.depends_on}}
    assert {step.id for step in plan.steps if step.fate is Fate.WAIT} == waits
    position = {step.id: number for number, step in enumerate(plan.steps)}
    assert all(
        position[awaited] < position[step.id]
        for step in plan.steps
        for awaited in step.known.job.depends_on
        if awaited in position
    )


# -- on the disk


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[str]:
    with tools.directory_in_memory(tmp_path) as base, tools.without_syncs_and_searches():
        yield f"{base}/spool"


def root(spool: str) -> str:
    return f"{spool}/1-test"


def files(spool: str) -> dict[str, bytes]:
    """Every job's file with its content."""
    return {
        f"{directory}/{name}": Path(directory, name).read_bytes()
        for directory, _, names in os.walk(root(spool))
        for name in names
        if naming.job_id(name) is not None
    }


def where(spool: str) -> dict[str, tuple[Status, int]]:
    return {each.content["name"]: (each.status, each.name.attempt) for (each,) in tools.read(root(spool)).jobs.values()}


def as_spec(jobs: dict[str, Wanted], **more: Any) -> tuple[Any, Any]:
    return tools.workflow(jobs, **more), tools.VERBATIM


CHAIN = {"a": Wanted(), "b": Wanted(after=("a",)), "c": Wanted(after=("b",)), "alone": Wanted()}
OTHER = CHAIN | {"b": Wanted("true # b", after=("a",))}


def with_outputs(spool: str, jobs: dict[str, Wanted], *names: str) -> WorkflowSpec:
    """These jobs are to write a file that nobody writes."""
    spec = tools.workflow(jobs)
    listed = (
        msgspec.structs.replace(job, output_files=(f"{spool}/{job.name}.out",)) if job.name in names else job
        for job in spec.jobs
    )
    return msgspec.structs.replace(spec, jobs=tuple(listed))


def ended(spool: str, jobs: dict[str, Wanted] = CHAIN) -> Store:
    """A workflow of these jobs that is finished."""
    tools.submit(spool, tools.workflow(jobs))
    tools.drain(spool)
    return tools.open_workflow(spool)


def test_a_dry_run_does_nothing_and_says_what_would_be_done(spool: str) -> None:
    store = ended(spool)
    before = files(spool), sorted(os.listdir(root(spool))), os.listdir(f"{root(spool)}/runners")
    rows = reinitialize(store, as_spec(OTHER), dry_run=True)
    assert rows == [
        Row(2, "b", "completed", ["its command has changed"]),
        Row(3, "c", "completed", ["'b', which it waits for, runs again"]),
    ]
    assert before == (files(spool), sorted(os.listdir(root(spool))), os.listdir(f"{root(spool)}/runners"))
    assert reinitialize(store, as_spec(OTHER)) == rows


def test_only_what_follows_runs_again(spool: str) -> None:
    store = ended(spool)
    before = tools.read(root(spool))
    reinitialize(store, as_spec(OTHER))
    assert where(spool) == {"a": (COMPLETED, 1), "b": (READY, 2), "c": (BLOCKED, 2), "alone": (COMPLETED, 1)}
    check_invariants(root(spool), before)
    tools.drain(spool)
    assert where(spool) == {"a": (COMPLETED, 1), "b": (COMPLETED, 2), "c": (COMPLETED, 2), "alone": (COMPLETED, 1)}
    tree = check_invariants(root(spool), before)
    assert tree.one(2).content["command"] == "true # b"
    assert reinitialize(tools.open_workflow(spool)) == []


def test_a_second_revision_stands_on_the_first(spool: str) -> None:
    reinitialize(ended(spool), as_spec(OTHER))
    third = OTHER | {"alone": Wanted("true # alone")}
    rows = reinitialize(tools.open_workflow(spool), as_spec(third))
    assert [row.name for row in rows] == ["alone"]
    tools.drain(spool)
    commands = {seen.content["name"]: seen.content["command"] for (seen,) in tools.read(root(spool)).jobs.values()}
    assert commands == {"a": "true", "b": "true # b", "c": "true", "alone": "true # alone"}
    assert {"revision-1", "revision-2"} <= {*os.listdir(root(spool))}


def test_a_waiting_job_takes_over_its_new_definition_when_it_is_claimed(spool: str) -> None:
    tools.submit(spool, tools.workflow(CHAIN))
    rows = reinitialize(tools.open_workflow(spool), as_spec(OTHER | {"alone": Wanted(priority=7)}))
    assert {(row.name, row.status, *row.reasons) for row in rows} == {
        ("alone", "ready", "its definition has changed"),
        ("b", "blocked", "its definition has changed"),
    }
    assert tools.read(root(spool)).one(4).name.priority == 7
    tools.drain(spool)
    assert tools.read(root(spool)).one(2).content["command"] == "true # b"


def test_what_a_person_has_edited_since_stays(spool: str) -> None:
    tools.submit(spool, tools.workflow(CHAIN))
    changes.hold(tools.open_workflow(spool), ["alone"])
    path = Path(tools.find(root(spool), "alone"))
    path.write_bytes(path.read_bytes().replace(b'"command":"true"', b'"command":"true # by hand"'))
    reinitialize(tools.open_workflow(spool), as_spec(CHAIN | {"alone": Wanted("true # by spec", priority=3)}))
    changes.release(tools.open_workflow(spool))
    tools.drain(spool)
    content = tools.read(root(spool)).one(4).content
    assert (content["command"], content["priority"], content["revision"]) == ("true # by hand", 3, 1)
    assert reinitialize(tools.open_workflow(spool)) == [], "and that is no change for ever"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (CHAIN | {"more": Wanted()}, "job 'more' is not among the jobs that were submitted"),
        ({"a": Wanted(), "b": Wanted(after=("a",)), "c": Wanted(after=("b",))}, "job 'alone' is missing from"),
        (CHAIN | {"c": Wanted(after=("a",))}, "job 'c': what it waits for differs"),
        (CHAIN | {"b": Wanted(after=("a",), anyway=True)}, "job 'b': cancel_on_blocking_job_failure differs"),
    ],
    ids=["a job more", "a job less", "another graph", "another consequence"],
)
def test_a_specification_that_changes_what_cannot_change_is_refused(
    spool: str, changed: dict[str, Wanted], what: str
) -> None:
    store = ended(spool)
    before = files(spool)
    with pytest.raises(UsageError, match=what) as refused:
        reinitialize(store, as_spec(changed))
    assert "submit it as a new workflow" in str(refused.value)
    assert files(spool) == before


def test_a_specification_of_another_name_or_other_schedulers_is_refused(spool: str) -> None:
    store = ended(spool)
    with pytest.raises(UsageError, match="the workflow's name differs"):
        reinitialize(store, as_spec(CHAIN, name="other"))
    with pytest.raises(UsageError, match="slurm_schedulers differs"):
        reinitialize(store, as_spec(CHAIN, schedulers=["gpu"]))


def test_the_jobs_of_a_specification_may_stand_in_another_order(spool: str) -> None:
    turned = {name: OTHER[name] for name in ("alone", "a", "b", "c")}
    assert [row.id for row in reinitialize(ended(spool), as_spec(turned))] == [2, 3]


def test_a_runner_that_lives_keeps_a_specification_out(spool: str) -> None:
    store = ended(spool)
    hand = Hand(store)
    with pytest.raises(UsageError, match=f"runners that may live and know its jobs as they were: {hand.name}"):
        reinitialize(store, as_spec(OTHER))
    hand.leave()
    assert len(reinitialize(store, as_spec(OTHER))) == 2


def test_so_does_a_runner_that_comes_while_everything_is_looked_at(spool: str) -> None:
    """It has opened the workflow as it was, and would run what runs again by the old definitions."""
    store = ended(spool)
    before = files(spool)
    came: list[Hand] = []

    def meanwhile(operation: str, path: str) -> None:
        if operation == "mkdir" and "/running/" in path:
            tools.fsops.fault = None
            came.append(Hand(tools.open_workflow(spool)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.fsops, "fault", meanwhile)
        with pytest.raises(UsageError, match="runners that may live and know its jobs as they were"):
            reinitialize(store, as_spec(OTHER))
    assert files(spool) == before
    assert not store.is_outdated()
    came[0].leave()


def test_a_job_that_is_just_being_run_refuses_the_whole_and_no_file_moves(spool: str) -> None:
    tools.submit(spool, with_outputs(spool, CHAIN, "a", "alone"))
    hand = Hand(tools.open_workflow(spool))
    hand.take("a", "alone")
    hand.finish(1, COMPLETED)
    hand.finish(4, COMPLETED)
    hand.served.settle()
    hand.take("b")
    before = files(spool)
    with pytest.raises(UsageError, match=r"job 'b' is running in the hands of .*, and waits for 'a', which is to run"):
        reinitialize(hand.store)
    assert files(spool) == before
    hand.finish(2, COMPLETED)
    hand.leave()


def test_a_job_that_is_claimed_behind_the_plan_has_everything_put_back(spool: str) -> None:
    """z3: c was ready when the plan was made."""
    tools.submit(spool, tools.workflow(CHAIN))
    hand = Hand(tools.open_workflow(spool))
    hand.work(lambda job, _: FAILED if job.name == "b" else COMPLETED)
    before = files(spool)
    store = tools.open_workflow(spool)

    def meanwhile(operation: str, path: str) -> None:
        if operation == "mkdir" and "/running/" in path:  # the actor is born: the plan has been made
            tools.fsops.fault = None
            other = tools.open_workflow(spool)
            changes.retry(other, ["b"])
            runner = Hand(other)
            runner.take("b")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.fsops, "fault", meanwhile)
        with pytest.raises(UsageError, match="job 'b' has changed its state meanwhile; nothing was done"):
            reset_status(store, failed=False)
    kept = {path: data for path, data in before.items() if path.endswith(("-a.json", "-alone.json"))}
    assert len(kept) == 2
    assert kept.items() <= files(spool).items()


def test_who_remembers_an_outcome_releases_nothing_that_is_to_wait_again(spool: str) -> None:
    """z4: d waits for a, which runs again, and for b, which is about to complete."""
    jobs = {"a": Wanted(), "b": Wanted(), "d": Wanted(after=("a", "b"))}
    tools.submit(spool, with_outputs(spool, jobs, "a"))
    hand = Hand(tools.open_workflow(spool))
    hand.take("a", "b")
    hand.finish(1, COMPLETED)
    hand.served.settle()  # it knows where d is, and that a has completed
    rows = reinitialize(tools.open_workflow(spool))
    assert [row.name for row in rows] == ["a"]
    hand.finish(2, COMPLETED)
    assert where(spool)["d"][0] is BLOCKED
    hand.work()
    hand.leave()
    assert {status for status, _ in where(spool).values()} == {COMPLETED}


def _complete_the_first(hand: Hand) -> None:
    hand.take("a")
    hand.finish(1, COMPLETED)


def test_a_ready_job_waits_again(spool: str) -> None:
    tools.submit(spool, with_outputs(spool, CHAIN, "a"))
    tools.dead_runner(spool, _complete_the_first)
    changes.recover(tools.open_workflow(spool))
    Settler(tools.open_workflow(spool)).settle()
    assert where(spool)["b"][0] is READY
    rows = reinitialize(tools.open_workflow(spool))
    assert [(row.name, row.status) for row in rows] == [("a", "completed"), ("b", "ready")]
    assert where(spool)["b"][0] is BLOCKED
    check_invariants(root(spool))
    assert set(tools.drain(spool).values()) == {COMPLETED}


def test_what_failed_comes_back_with_what_was_canceled_because_of_it(spool: str) -> None:
    jobs = {"bad": Wanted("once"), "after": Wanted(after=("bad",)), "good": Wanted(), "by_person": Wanted()}
    tools.submit(spool, tools.workflow(jobs))
    changes.cancel(tools.open_workflow(spool), ["by_person"])
    tools.drain(spool)
    store = tools.open_workflow(spool)
    assert reinitialize(store) == [], "what failed stays so"
    rows = reset_status(store, failed=True)
    assert {row.name for row in rows} == {"bad", "after", "by_person"}
    assert tools.drain(spool) == dict.fromkeys(jobs, COMPLETED)
    assert where(spool)["good"] == (COMPLETED, 1)


def test_all_is_reset_but_attempts_rise(spool: str) -> None:
    store = ended(spool)
    assert len(reset_status(store)) == 4
    assert where(spool) == {"a": (READY, 2), "b": (BLOCKED, 2), "c": (BLOCKED, 2), "alone": (READY, 2)}
    assert reset_status(store) == []
    assert set(tools.drain(spool).values()) == {COMPLETED}


def test_nothing_is_reset_while_a_runner_holds_jobs(spool: str) -> None:
    tools.submit(spool, tools.workflow(CHAIN))
    hand = Hand(tools.open_workflow(spool))
    hand.take("a")
    before = files(spool)
    with pytest.raises(UsageError, match=rf"2 jobs are in the hands of {hand.name}"):
        reset_status(hand.store)
    assert files(spool) == before


def test_a_runner_that_opened_the_workflow_before_a_revision_opens_it_again(spool: str) -> None:
    store = ended(spool)
    hand_store = tools.open_workflow(spool)
    reinitialize(store, as_spec(OTHER))
    assert hand_store.is_outdated()
    assert not tools.open_workflow(spool).is_outdated()


@st.composite
def flows(draw: st.DrawFn) -> tuple[dict[str, Wanted], dict[str, Wanted]]:
    """A graph, and the same with some commands changed."""
    names = [f"j{number}" for number in range(draw(st.integers(1, 6)))]
    jobs = {
        name: Wanted(
            draw(st.sampled_from(["true", "true", "false"])),
            tuple(sorted(draw(st.sets(st.sampled_from(names[:place]), max_size=2)))) if place else (),
            draw(st.booleans()),
        )
        for place, name in enumerate(names)
    }
    other = draw(st.sets(st.sampled_from(names), min_size=1))
    return jobs, {name: job._replace(command="true # new") if name in other else job for name, job in jobs.items()}


@settings(deadline=None, max_examples=30)
@given(flows())
def test_what_a_dry_run_shows_is_what_is_done_and_nothing_else_moves(flow: Any) -> None:
    jobs, changed = flow
    base = tools.MEMORY if os.access(tools.MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as directory, tools.without_syncs_and_searches():
        spool = f"{directory}/spool"
        store = ended(spool, jobs)
        before = tools.read(root(spool))
        shown = reinitialize(store, as_spec(changed), dry_run=True)
        assert tools.read(root(spool)).jobs == before.jobs
        assert reinitialize(store, as_spec(changed)) == shown
        tree = check_invariants(root(spool), before)
        moved = {job for job, (seen,) in tree.jobs.items() if seen != before.one(job)}
        stays = ["its definition has changed"]  # it is canceled because of one that stays as it is
        assert moved == {row.id for row in shown if row.reasons != stays}
        final = tools.drain(spool)
        check_invariants(root(spool), tree)
        fresh = f"{directory}/fresh"
        tools.submit(fresh, tools.workflow(changed))
        assert final == tools.drain(fresh), "the same as if it had been submitted so"
