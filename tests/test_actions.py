"""Actions without runners: their names, when their triggers hold, where they lie, and how they are put back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import spooltools as tools
from hypothesis import given, settings
from hypothesis import strategies as st
from spooltools import Do, Hand, Wanted

from torc_spool import actions, changes, naming, triggers
from torc_spool.errors import UsageError
from torc_spool.model import Action, Status, Trigger
from torc_spool.naming import ActionName
from torc_spool.triggers import View, Watch

LAW = settings(deadline=None)
RUNNER = "host-1-0123abcd"

numbers = st.integers(1, 999_999_999)
runners = st.builds(naming.new_runner_name, st.text(max_size=40), st.integers(1, 4_194_304))
words = st.sampled_from(Trigger)
names = st.one_of(
    st.tuples(numbers, words),
    st.tuples(numbers, words, numbers),
    st.tuples(numbers, words, numbers, runners),
    st.tuples(numbers, words, numbers, runners, st.integers(0, 255)),
).map(lambda parts: ActionName(*parts))

# --- names


@LAW
@given(names)
def test_a_name_is_read_as_it_was_written(name: ActionName) -> None:
    assert naming.parse_action(str(name)) == name
    assert len(os.fsencode(str(name))) <= naming.MAX_NAME_BYTES
    assert naming.aside_action(naming.aside_name(str(name), "actions/waiting")) == name


@LAW
@given(st.text(max_size=60) | names.flatmap(lambda name: st.sampled_from([f" {name}", f"{name}\n", str(name).upper()])))
def test_what_is_no_name_is_not_read(text: str) -> None:
    read = naming.parse_action(text)
    assert read is None or str(read) == text


@pytest.mark.parametrize(
    "text",
    [
        "1.1-on_workflow_start.json",
        "000.1-on_workflow_start.json",
        "0001.1-on_workflow_start.json",
        "001.0-on_workflow_start.json",
        "001.1-on_tuesday.json",
        "001.1-on_workflow_start~7.json",
        f"001-on_worker_start~{RUNNER}.json",
        f"001.1-on_workflow_start~{RUNNER}~007.json",
    ],
)
def test_a_number_has_one_spelling_and_no_part_is_missing(text: str) -> None:
    assert naming.parse_action(text) is None


@LAW
@given(names)
def test_again_is_a_higher_performance_of_nobody(name: ActionName) -> None:
    again = name.again()
    assert again.performance == (name.performance or 0) + 1
    assert (again.number, again.trigger, again.runner, again.code) == (name.number, name.trigger, None, None)


@LAW
@given(names, names)
def test_no_output_file_is_named_twice(one: ActionName, other: ActionName) -> None:
    def key(name: ActionName) -> tuple[object, ...]:
        return name.number, name.trigger, name.performance

    same = naming.action_output_names(7, one, RUNNER) == naming.action_output_names(7, other, RUNNER)
    assert same == (key(one) == key(other))
    mine = naming.action_output_names(7, one, RUNNER)
    assert (mine == naming.action_output_names(7, one, "host-2-0123abcd")) == (one.performance is not None)


# --- triggers

JOBS = 6
jobs = st.integers(1, JOBS)
kinds = st.sampled_from([Trigger.JOBS_READY, Trigger.JOBS_COMPLETE, Trigger.WORKFLOW_COMPLETE])
wanted = st.lists(st.tuples(kinds, st.sets(jobs, min_size=1)), min_size=1, max_size=5)
events = st.lists(st.tuples(st.sampled_from(["ready", "end"]), jobs, st.booleans()), max_size=20)


def waiting(described: list[tuple[Trigger, set[int]]]) -> dict[int, Action]:
    return {
        number: Action(number=number, trigger=trigger, kind="run_commands", jobs=tuple(sorted(of)))
        for number, (trigger, of) in enumerate(described, 1)
    }


def holds(action: Action, ended: set[int], came: set[int]) -> bool:
    if action.trigger is Trigger.WORKFLOW_COMPLETE:
        return len(ended) == JOBS
    return set(action.jobs) <= (came if action.trigger is Trigger.JOBS_READY else ended)


@LAW
@given(wanted, events)
def test_a_watch_is_due_whenever_something_holds_that_its_runner_may_know(
    described: list[tuple[Trigger, set[int]]], happens: list[tuple[str, int, bool]]
) -> None:
    """What others do is seen at the next own outcome that touches the same action; what one does oneself at once."""
    all_waiting, watch = waiting(described), Watch()
    ended: set[int] = set()
    came: set[int] = set()
    held = watch.look(all_waiting, View(ended, came, JOBS))
    assert held == []
    for what, job, ours in dict.fromkeys(happens):
        if job in ended or (what == "ready" and job in came):
            continue
        is_news = job not in came
        came.add(job)
        if what == "end":
            ended.add(job)
        if not ours:
            continue  # it happened at another runner's
        if what == "ready":
            watch.became_ready(job, alone=False)
        else:
            watch.ended(job, alone=False)
        now = {number for number, action in all_waiting.items() if holds(action, ended, came)}
        touched = {
            number
            for number in now
            if all_waiting[number].trigger in triggers.OF_JOBS
            and job in all_waiting[number].jobs
            and (is_news if all_waiting[number].trigger is Trigger.JOBS_READY else what == "end")
        }
        asks = watch.due or watch.urgent
        if touched:
            fresh = watch.look(all_waiting, View(set(ended), set(came), JOBS))
            assert asks or not touched & set(fresh), (touched, fresh)
            assert set(fresh) == now
            for number in fresh:
                del all_waiting[number]


@LAW
@given(wanted, st.sets(jobs), st.sets(jobs))
def test_what_holds_is_what_misses_nothing(
    described: list[tuple[Trigger, set[int]]], ended: set[int], came: set[int]
) -> None:
    all_waiting = waiting(described)
    held = Watch().look(all_waiting, View(ended, came, JOBS))
    assert held == [number for number, action in all_waiting.items() if holds(action, ended, came)]
    for number, action in all_waiting.items():
        assert (number in held) == (not triggers.missing(action, View(ended, came, JOBS)))


def test_who_is_alone_need_not_look_for_what_others_did() -> None:
    watch = Watch()
    watch.look(waiting([(Trigger.JOBS_COMPLETE, {1, 2})]), View(set(), set(), 3))
    watch.ended(1, alone=True)
    assert not watch.due
    watch.ended(2, alone=True)
    assert watch.due
    assert watch.urgent


# --- files


@pytest.fixture
def spool(tmp_path: Path) -> str:
    path = str(tmp_path / "spool")
    spec = tools.workflow(
        {"one": Wanted(), "two": Wanted(after=("one",)), "bad": Wanted("false"), "never": Wanted(after=("bad",))},
        actions=(
            Do(Trigger.WORKFLOW_START),
            Do(Trigger.JOBS_READY, jobs=("two",)),
            Do(Trigger.JOBS_COMPLETE, jobs=("one", "two")),
            Do(Trigger.JOBS_READY, jobs=("never",)),
            Do(Trigger.WORKFLOW_COMPLETE),
            Do(Trigger.WORKER_START),
            Do(Trigger.JOBS_COMPLETE, jobs=("one",), persistent=True),
        ),
    )
    tools.submit(path, spec)
    return path


def missed(spool: str) -> dict[int, str | None]:
    return {row["number"]: row["waits_for"] for row in actions.rows(tools.open_workflow(spool))}


def test_a_submit_lays_actions_out(spool: str) -> None:
    store = tools.open_workflow(spool)
    tools.check_invariants(store.layout.root)
    assert sorted(os.listdir(store.layout.actions_waiting)) == [
        "001.1-on_workflow_start.json",
        "002.1-on_jobs_ready.json",
        "003.1-on_jobs_complete.json",
        "004.1-on_jobs_ready.json",
        "005.1-on_workflow_complete.json",
    ]
    assert sorted(os.listdir(store.layout.actions_persistent)) == [
        "006-on_worker_start.json",
        "007-on_jobs_complete.json",
    ]
    records = store.action_records()
    assert [store.read_action(f"{store.layout.actions_waiting}/002.1-on_jobs_ready.json", 2)] == [records[1]]


def test_a_workflow_without_actions_has_no_directories_for_them(tmp_path: Path) -> None:
    tools.submit(str(tmp_path), tools.workflow({"one": Wanted()}))
    store = tools.open_workflow(str(tmp_path))
    assert not os.path.exists(f"{store.layout.root}/actions")
    assert actions.rows(store) == []
    assert actions.rearm(store, {1}) == []


def test_what_each_waits_for(spool: str) -> None:
    assert missed(spool) == {
        1: "a runner",
        2: "two",
        3: "one, two",
        4: "never",
        5: "the outcomes of 4 jobs",
        6: "a runner",
        7: "one",
    }
    store = tools.open_workflow(spool)
    changes.hold(store, ["one"])
    tools.drain(spool)
    assert missed(spool)[3] == "one, two"
    changes.release(store)
    tools.drain(spool)
    start = "jobs to run: all have an outcome"
    assert missed(spool) == {1: start, 2: "a runner", 3: "a runner", 4: "never", 5: "a runner"} | {
        6: "a runner",
        7: "a runner",
    }


def test_a_held_job_is_not_ready_and_one_that_a_person_canceled_was(spool: str) -> None:
    store = tools.open_workflow(spool)
    assert actions.view(store, with_ready=True).came == {1, 3}
    changes.hold(store, ["one"])
    assert actions.view(store, with_ready=True).came == {3}
    changes.cancel(store, ["one", "bad"])
    now = actions.view(store, with_ready=True)
    assert now.came == {1, 3}, "not those that were canceled because of them"
    assert now.ended == {1, 2, 3, 4}


def test_one_of_two_claims_it(spool: str) -> None:
    store = tools.open_workflow(spool)
    name = actions.listed(store, "waiting")[0][1]
    mine = actions.claim(store, name, RUNNER)
    assert mine == name._replace(runner=RUNNER)
    assert actions.claim(store, name, "host-2-0123abcd") is None
    assert actions.claim(store, name, RUNNER) == mine, "whose reply was lost finds it in the listing"
    assert actions.finish(store, mine, 3)
    assert actions.finish(store, mine, 3), "the same"
    assert actions.put_back(store, actions.lying(store)[1])
    assert not actions.finish(store, mine, 3), "it was put back"
    tools.check_invariants(store.layout.root)


def perform(store: tools.Store, number: int, runner: str, code: int | None = 0) -> None:
    mine = actions.claim(store, actions.listed(store, "waiting")[0][number], runner)
    assert mine is not None
    assert code is None or actions.finish(store, mine, code)


def states(store: tools.Store) -> list[tuple[str, int | None]]:
    return [(row["state"], row["performance"]) for row in actions.rows(store)]


def test_rearming_puts_back_what_jobs_that_run_again_had_brought_about(spool: str) -> None:
    store = tools.open_workflow(spool)
    living = Hand(store)
    perform(store, 1, RUNNER, 1)
    perform(store, 2, RUNNER, None)
    perform(store, 3, living.name, None)
    assert actions.rearm(store, {4}) == [1], "of a workflow's start and end all"
    assert states(store)[:3] == [("waiting", 2), ("interrupted", 1), ("running", 1)]
    assert actions.rearm(store, {2}) == [2], "not what is being performed"
    assert states(store)[:3] == [("waiting", 2), ("waiting", 2), ("running", 1)]
    assert actions.counts(store) == {"waiting": 4, "running": 1, "done": 0, "failed": 0, "interrupted": 0}
    with pytest.raises(UsageError, match="may live"):
        actions.repeat(store, 3)
    living.leave()
    assert actions.repeat(store, 3).performance == 2
    tools.check_invariants(store.layout.root)


def test_rearming_does_not_miss_what_is_performed_to_its_end_meanwhile(spool: str) -> None:
    store = tools.open_workflow(spool)
    hand = Hand(store)
    mine = actions.claim(store, actions.listed(store, "waiting")[0][1], hand.name)
    assert mine is not None

    def meanwhile(operation: str, path: str) -> None:
        if operation == "list" and path == store.layout.pending:  # who lives is looked up
            tools.fsops.fault = None
            assert actions.finish(store, mine, 0)
            hand.leave()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.fsops, "fault", meanwhile)
        assert actions.rearm(store, {4}) == [1]
    assert states(store)[0] == ("waiting", 2)
    tools.check_invariants(store.layout.root)


def test_an_outcome_that_a_runner_brings_about_by_canceling_is_watched_too(spool: str) -> None:
    hand = Hand(tools.open_workflow(spool))
    watch = hand.served.settler.watch = Watch()
    watch.look(waiting([(Trigger.JOBS_COMPLETE, {4}), (Trigger.JOBS_READY, {2})]), View(set(), set(), 4))
    hand.served.settle()
    hand.take("one", "bad")
    hand.finish(3, Status.FAILED)
    assert watch.urgent, "job 4 was canceled because of job 3"
    watch.look(waiting([(Trigger.JOBS_READY, {2})]), View(set(), set(), 4))
    hand.finish(1, Status.COMPLETED)
    assert watch.urgent, "job 2 is ready"
    hand.leave()
