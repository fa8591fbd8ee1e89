"""What must follow an outcome follows, whoever does it, however often, and whatever he remembered wrongly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from storetools import OWNER, Tree, first_name, job, watched

from torc_spool.model import MAX_PRIORITY, OUTCOMES, UNSUCCESSFUL, Job, Status
from torc_spool.naming import Cause
from torc_spool.select import Entry
from torc_spool.settle import Settler

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COMPLETED, FAILED, CANCELED = Status.COMPLETED, Status.FAILED, Status.CANCELED
RUNNING = f"running/{OWNER}"


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "1-test")


DIAMOND = [job(1), job(2, 1), job(3, 1), job(4, 2, 3)]


def settled(tree: Tree) -> dict[int, str]:
    """Where everything is after a full pass, which a second one does not change."""
    Settler(tree.store()).settle()
    found = tree.where()
    Settler(tree.store()).settle()
    assert tree.where() == found
    return found


# --- release and cancellation


def test_what_waits_for_one_that_completed_becomes_ready(root: str) -> None:
    tree = Tree(root, DIAMOND)
    tree.put(1, "done/completed")
    assert settled(tree) == {1: "done/completed 1", 2: "ready/any 1", 3: "ready/any 1", 4: "blocked 1"}


@pytest.mark.parametrize("outcome", UNSUCCESSFUL, ids=str)
def test_a_failure_cancels_down_the_graph_and_names_its_cause(outcome: Status, root: str) -> None:
    tree = Tree(root, DIAMOND)
    tree.put(1, f"done/{outcome}", attempt=3)
    found = settled(tree)
    assert found[2] == found[3] == "done/canceled 1~1.3"
    assert found[4] in ("done/canceled 1~2.1", "done/canceled 1~3.1")


def test_a_job_that_does_not_mind_runs_after_a_failure(root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1, anyway=True), job(3, 2)])
    tree.put(1, "done/failed")
    assert settled(tree) == {1: "done/failed 1", 2: "ready/any 1", 3: "blocked 1"}


def test_a_job_is_canceled_before_all_that_it_waits_for_have_ended(root: str) -> None:
    tree = Tree(root, [job(1), job(2), job(3, 1, 2)])
    tree.put(1, "done/failed")
    tree.put(2, RUNNING)
    assert settled(tree)[3] == "done/canceled 1~1.1"


def test_a_released_job_goes_to_its_scheduler(root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1, scheduler="gpu cluster")], schedulers=["gpu cluster"])
    tree.put(1, "done/completed")
    settler = Settler(tree.store())
    assert settler.settle() == [Entry(str(first_name(tree.jobs[2])), "gpu_cluster")]
    assert tree.where()[2] == "ready/gpu_cluster 1"


@pytest.mark.parametrize("directory", ["held", "ready/any", RUNNING, "done/completed", f"pending/{OWNER}"])
def test_only_what_is_blocked_is_moved(directory: str, root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    tree.put(1, "done/failed")
    tree.put(2, directory)
    assert settled(tree)[2] == f"{directory} 1"


def test_a_workflow_without_dependencies_costs_one_listing_a_pass(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(root, [job(1), job(2)])
    store = tree.store()
    with watched(monkeypatch) as calls:
        settler = Settler(store)
        assert settler.ledger is None
        assert not settler.due
        assert settler.settle() == []
        assert settler.after(1, 1, FAILED) == []
    assert calls.made == [("list", store.layout.blocked)]


def test_what_a_person_makes_wait_where_nobody_waits_is_released(root: str) -> None:
    tree = Tree(root, [job(1), job(2)])
    tree.put(2, "blocked")
    assert settled(tree) == {1: "ready/any 1", 2: "ready/any 1"}


@cases(
    ("directory", "name"),
    {
        "in blocked": ("blocked", "README"),
        "among outcomes": ("done/completed", "README"),
        "almost a job, in blocked": ("blocked", str(first_name(job(2))).replace("c1g0", "cXg0")),
        "almost a job, among outcomes": ("done/failed", str(first_name(job(1))).replace("job1", "-job1")),
        "almost canceled because of something": ("done/canceled", str(first_name(job(2))).replace(".json", "~1.json")),
        "of a job that was never submitted": ("done/failed", str(first_name(job(9)))),
    },
)
def test_a_foreign_name_decides_nothing(directory: str, name: str, root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    tree.write(f"{directory}/{name}", b"{}")
    assert settled(tree)[2] == "blocked 1"
    tree.put(1, "done/completed")
    assert settled(tree)[2] == "ready/any 1"


# --- one's own outcomes


def test_one_that_is_decided_by_an_own_outcome_is_moved_without_a_listing(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(root, DIAMOND)
    settler = Settler(tree.store())
    settler.settle()
    tree.put(1, "done/completed")
    with watched(monkeypatch) as calls:
        released = settler.after(1, 1, COMPLETED)
    assert calls.count("list") == 0
    assert released == [Entry(str(first_name(tree.jobs[number])), "any") for number in (2, 3)]
    assert tree.where() == {1: "done/completed 1", 2: "ready/any 1", 3: "ready/any 1", 4: "blocked 1"}
    assert not settler.due


def test_an_own_failure_cancels_down_the_graph_without_a_listing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(root, DIAMOND)
    settler = Settler(tree.store())
    settler.settle()
    tree.put(1, "done/failed")
    with watched(monkeypatch) as calls:
        assert settler.after(1, 1, FAILED) == []
    assert (calls.count("list"), calls.count("rename")) == (0, 3)
    assert [tree.where()[number] for number in (2, 3)] == ["done/canceled 1~1.1"] * 2
    assert tree.where()[4].startswith("done/canceled 1~")


def test_a_full_pass_is_due_when_others_may_have_finished_what_is_still_awaited(root: str) -> None:
    tree = Tree(root, DIAMOND)
    first, second = Settler(tree.store()), Settler(tree.store())
    tree.put(1, "done/completed")
    for settler in (first, second):
        settler.settle()
        assert not settler.due
    tree.put(2, "done/completed")
    tree.put(3, "done/completed")
    assert first.after(2, 1, COMPLETED) == second.after(3, 1, COMPLETED) == []  # each knows only of his own
    assert first.due
    assert second.due
    assert [entry.name for entry in first.settle()] == [str(first_name(tree.jobs[4]))]
    assert second.settle() == []
    assert tree.where()[4] == "ready/any 1"


# --- hints that lie

LIES = {
    "its priority was changed": (lambda tree: tree.put(2, "blocked", rank=MAX_PRIORITY - 5), "ready/any 1"),
    "it was held": (lambda tree: tree.put(2, "held"), "held 1"),
    "it was canceled": (lambda tree: tree.put(2, "done/canceled"), "done/canceled 1"),
    "another released it": (lambda tree: tree.put(2, "ready/any"), "ready/any 1"),
    "another released it and it runs": (lambda tree: tree.put(2, RUNNING), f"{RUNNING} 1"),
    "it came back with another attempt": (lambda tree: tree.put(2, "blocked", attempt=4), "ready/any 4"),
    "it was set aside": (lambda tree: os.rename(tree.path_of(2), f"{tree.root}/aside/x"), None),
}


@cases(("change", "ends"), LIES)
def test_a_name_that_was_remembered_and_is_wrong_does_nothing_and_the_next_pass_mends_it(
    change: Any, ends: str | None, root: str
) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    settler = Settler(tree.store())
    settler.settle()
    tree.put(1, "done/completed")
    change(tree)
    before = tree.where()
    assert settler.after(1, 1, COMPLETED) == []
    assert tree.where() == before
    assert settler.due
    settler.settle()
    assert tree.where().get(2) == ends
    assert not settler.due


@cases(("change", "ends"), LIES)
def test_a_name_that_changes_between_the_listing_and_the_move_is_found_by_the_same_pass(
    change: Any, ends: str | None, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    tree.put(1, "done/completed")
    settler = Settler(tree.store())
    with watched(monkeypatch) as calls:
        calls.before("rename", 1, lambda: change(tree))
        settler.settle()
    assert tree.where().get(2) == ends
    assert not settler.due


def test_an_own_outcome_that_others_took_back_is_forgotten_by_the_next_pass(root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1), job(3, 1, 2)])
    settler = Settler(tree.store())
    settler.settle()
    tree.put(1, "done/failed")
    settler.after(1, 1, FAILED)
    assert tree.where()[3].startswith("done/canceled 1")
    tree.put(1, "ready/any", attempt=2)
    settler.settle()
    assert tree.where() == {1: "ready/any 2", 2: "blocked 2", 3: "blocked 2"}
    tree.put(1, "done/completed")
    settler.after(1, 2, COMPLETED)
    assert tree.where() == {1: "done/completed 2", 2: "ready/any 2", 3: "blocked 2"}


# --- revival


@cases(
    ("awaited", "attempt", "ends"),
    {
        "it is run again": ("ready/any", 2, "blocked 6"),
        "it waits again": ("blocked", 2, "blocked 6"),
        "it runs again": (RUNNING, 2, "blocked 6"),
        "it was run again and completed": ("done/completed", 2, "ready/any 6"),
        "it was run again and failed again": ("done/failed", 2, "done/canceled 6~1.2"),
        "it still stands": ("done/failed", 1, "done/canceled 5~1.1"),
    },
)
def test_what_was_canceled_because_of_an_attempt_stands_and_falls_with_it(
    awaited: str, attempt: int, ends: str, root: str
) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    tree.put(1, awaited, attempt=attempt)
    tree.put(2, "done/canceled", attempt=5, cause=Cause(1, 1))
    assert settled(tree)[2] == ends


def test_what_a_person_canceled_stays_so(root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    tree.put(2, "done/canceled")
    assert settled(tree)[2] == "done/canceled 1"


def test_a_cause_that_a_person_left_in_the_name_of_a_job_that_he_took_back_is_no_harm(root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1)])
    tree.put(1, "done/completed")
    tree.put(2, "blocked", cause=Cause(1, 1))
    assert settled(tree)[2] == "ready/any 1"


CHAIN = 150  # longer than a settling pass is repeated


@pytest.mark.parametrize("upwards", [True, False], ids=["in the order of ids", "against the order of ids"])
def test_a_revival_goes_all_the_way_down_the_graph(upwards: bool, root: str) -> None:
    numbers = list(range(1, CHAIN + 1)) if upwards else list(range(CHAIN, 0, -1))
    chain = [job(number, *numbers[place - 1 : place]) if place else job(number) for place, number in enumerate(numbers)]
    tree = Tree(root, sorted(chain, key=lambda each: each.id))
    tree.put(numbers[0], "done/failed")
    Settler(tree.store()).settle()
    assert all(place.startswith("done/canceled 1~") for place in list(tree.where().values())[1:-1])
    tree.put(numbers[0], "ready/any", attempt=2)
    Settler(tree.store()).settle()
    assert tree.where() == {numbers[0]: "ready/any 2", **dict.fromkeys(sorted(numbers[1:]), "blocked 2")}


def test_those_that_do_not_mind_wait_anew_for_what_is_run_again(root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1), job(3, 2, anyway=True), job(4)])
    tree.put(1, "done/failed")
    tree.put(2, "done/canceled", cause=Cause(1, 1))
    tree.put(1, "ready/any", attempt=2)
    assert settled(tree) == {1: "ready/any 2", 2: "blocked 2", 3: "blocked 2", 4: "ready/any 1"}


@cases(
    ("directory", "ends"),
    {
        "it is held": ("held", "held 2"),
        "it is blocked": ("blocked", "blocked 2"),
        "it is ready": ("ready/any", "ready/any 1"),
        "it runs": (RUNNING, f"{RUNNING} 1"),
        "it has ended": ("done/completed", "done/completed 1"),
    },
)
def test_of_those_that_do_not_mind_only_who_waits_gets_a_new_name(directory: str, ends: str, root: str) -> None:
    tree = Tree(root, [job(1), job(2, 1, anyway=True)])
    tree.put(1, "ready/any", attempt=2)
    tree.put(2, directory)
    settler = Settler(tree.store())
    settler.came_back(1)
    settler.settle()
    assert tree.where()[2] == ends


def test_one_that_is_to_wait_anew_and_moves_meanwhile_is_looked_for_again(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(root, [job(1), job(2, 1, anyway=True)])
    settler = Settler(tree.store())
    settler.came_back(1)
    with watched(monkeypatch) as calls:
        calls.before("rename", 1, lambda: tree.put(2, "blocked", rank=7))
        settler.settle()
    assert tree.where()[2] in ("blocked 1", "blocked 2")
    assert not settler.due


# --- the laws: one end, whatever came before

SHAPE = st.lists(
    st.tuples(
        st.sets(st.integers(1, 6), max_size=3),  # waits for those among the earlier ones
        st.booleans(),
        st.sampled_from(["home", "home", "held", RUNNING, *(f"done/{outcome}" for outcome in OUTCOMES)]),
        st.integers(1, 3),
    ),
    min_size=2,
    max_size=6,
)


def planted(root: str, shape: list[tuple[set[int], bool, str, int]]) -> Tree:
    """A workflow that stands as somebody left it."""
    jobs = [
        job(number, *sorted(other for other in after if other < number), anyway=anyway)
        for number, (after, anyway, _, _) in enumerate(shape, 1)
    ]
    tree = Tree(root, jobs)
    for number, (_, _, directory, attempt) in enumerate(shape, 1):
        if directory != "home":
            tree.put(number, directory, attempt=attempt)
    return tree


def expected(jobs: list[Job], before: dict[int, str]) -> dict[int, str]:
    """Where everything must end: job after job, by the sentences of the format document."""
    state = {number: place.split()[0] for number, place in before.items()}
    for each in jobs:  # those before it are decided already
        if state[each.id] != "blocked":
            continue
        ends = [state[other].removeprefix("done/") for other in each.depends_on]
        if each.cancel_on_blocking_job_failure and any(end in UNSUCCESSFUL for end in ends):
            state[each.id] = "done/canceled"
        elif all(end in OUTCOMES for end in ends):
            state[each.id] = "ready/any"
    return state


@settings(LAW, max_examples=80)
@given(SHAPE)
@example([(set(), False, "done/failed", 2), ({1}, False, "home", 1), ({1, 2}, True, "home", 1)])
def test_a_pass_leads_to_the_end_that_the_graph_says(
    tmp_path: Path, shape: list[tuple[set[int], bool, str, int]]
) -> None:
    root = str(tmp_path / "1-test")
    tree = planted(root, shape)
    wanted = expected(list(tree.jobs.values()), tree.where())
    assert {number: place.split()[0] for number, place in settled(tree).items()} == wanted
    shutil.rmtree(root)


RETRIED = {
    "a failure": [(1, "done/failed", 1), (2, "home", 1)],
    "a failure that was run again": [(1, "ready/any", 2), (2, "done/canceled", 1), (3, "done/canceled", 1)],
    "a success": [(1, "done/completed", 1)],
    "a success after a failure": [(1, "done/completed", 2), (2, "done/canceled", 1), (4, "done/canceled", 1)],
}


def left(root: str, places: list[tuple[int, str, int]]) -> Tree:
    """A diamond as somebody left it; what was canceled was so because of the first attempt of the one before it."""
    tree = Tree(root, DIAMOND)
    for number, directory, attempt in places:
        cause = Cause(DIAMOND[number - 1].depends_on[0], 1) if directory == "done/canceled" else None
        if directory != "home":
            tree.put(number, directory, attempt=attempt, cause=cause)
    return tree


def directories(tree: Tree) -> dict[int, str]:
    """Without attempts: one of two who settle at once may take back what the other has just canceled anew."""
    return {number: place.split()[0] for number, place in tree.where().items()}


@cases("places", RETRIED)
@pytest.mark.parametrize("operation", ["list", "rename"])
def test_two_who_settle_at_once_lead_to_the_end_of_one(
    operation: str, places: list[tuple[int, str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = left(str(tmp_path / "alone" / "1-test"), places)
    with watched(monkeypatch) as calls:
        Settler(alone.store()).settle()
    for number in range(1, calls.count(operation) + 1):
        tree = left(str(tmp_path / str(number) / "1-test"), places)
        first, second = Settler(tree.store()), Settler(tree.store())
        with watched(monkeypatch) as meanwhile:
            meanwhile.before(operation, number, second.settle)
            first.settle()
        assert directories(tree) == directories(alone)


# --- costs


@cases(
    ("places", "passes"),
    {
        "nothing": ([], 1),
        "a release": ([(1, "done/completed", 1)], 1),
        "cancellations": ([(1, "done/failed", 1)], 1),
        "a revival": (RETRIED["a failure that was run again"], 2),
    },
)
def test_only_what_may_be_followed_by_more_is_looked_at_again(
    places: list[tuple[int, str, int]], passes: int, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = left(root, places)
    with watched(monkeypatch) as calls:
        Settler(tree.store()).settle()
    assert calls.made.count(("list", f"{root}/blocked")) == passes


@pytest.mark.parametrize("outcome", [COMPLETED, FAILED], ids=str)
def test_no_listing_is_made_for_each_of_many_that_wait(
    outcome: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = []
    for size in (10, 40):
        tree = Tree(str(tmp_path / str(size) / "1-test"), [job(1), *(job(number, 1) for number in range(2, size + 2))])
        tree.put(1, f"done/{outcome}")
        with watched(monkeypatch) as calls:
            Settler(tree.store()).settle()
        assert calls.count("rename") == size
        listings.append(calls.count("list"))
    assert listings[0] == listings[1]


@pytest.mark.parametrize("outcome", [COMPLETED, FAILED], ids=str)
def test_each_of_many_that_one_waits_for_costs_no_listing_and_no_move(
    outcome: Status, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 40
    tree = Tree(root, [*(job(number) for number in range(1, size + 1)), job(size + 1, *range(1, size + 1))])
    settler = Settler(tree.store())
    settler.settle()
    with watched(monkeypatch) as calls:
        for number in range(1, size + 1):
            tree.put(number, f"done/{outcome}")
            settler.after(number, 1, outcome)
    assert (calls.count("list"), calls.count("rename")) == (0, 1)
    assert tree.where()[size + 1] == ("ready/any 1" if outcome is COMPLETED else "done/canceled 1~1.1")
