"""Rows and figures: the shapes that other programs rely on, and what is in them wherever a job is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storetools import OWNER, TAKER, Tree, job, watched

from torc_spool import actor, naming, report, select
from torc_spool.actor import Actor
from torc_spool.contents import Content, encode, with_attempt
from torc_spool.model import MIB, OUTCOMES, Attempt, RunnerEnd, RunnerRecord, Status
from torc_spool.naming import Cause
from torc_spool.select import Free, Offer, ReadyQueue
from torc_spool.spool import Spool
from torc_spool.store import Store

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RUNNING, PENDING = f"running/{OWNER}", f"pending/{OWNER}"

STATUS = ["id", "name", "jobs", "total", "set_aside", "finished", "sick_hosts", "runners"]
STATES = ["blocked", "ready", "pending", "running", "completed", "failed", "canceled", "terminated", "held"]
RUNNER = ["name", "host", "pid", "scheduler", "state", "heartbeat_age_s"]
JOB = [
    "id",
    "name",
    "status",
    "priority",
    "scheduler",
    "resources",
    "depends_on",
    "attempt",
    "runner",
    "return_code",
    "start_time",
    "end_time",
    "exec_s",
    "peak_memory_bytes",
    "reason",
    "cause",
]
RESOURCES = ["num_cpus", "num_gpus", "num_nodes", "memory_bytes", "runtime_s"]


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "1-test")


JOBS = [
    job(1, name="prepare"),
    job(2, name="large", priority=7, resources={"num_cpus": 16, "num_gpus": 2, "memory_bytes": 4 * MIB + 1}),
    job(3, name="bound", scheduler="gpu cluster", resources={"num_nodes": 2, "runtime_s": 60}),
    job(4, 1, 2, name="last"),
]


@pytest.fixture
def tree(root: str) -> Tree:
    return Tree(root, JOBS, schedulers=["gpu cluster"])


@pytest.fixture
def store(tree: Tree) -> Store:
    return tree.store()


def add_attempt(tree: Tree, number: int, attempt: Attempt) -> None:
    """Write an attempt into a job's file, as its owner does."""
    path = tree.path_of(number)
    data = Path(path).read_bytes()
    content = tree.store().read_job(path, number)
    assert content is not None
    Path(path).write_bytes(with_attempt(Content(content.job, data), attempt))


def end(tree: Tree, number: int, outcome: Status, attempt: int = 1, **fields: Any) -> None:
    tree.put(number, f"done/{outcome}", attempt=attempt)
    add_attempt(tree, number, Attempt(attempt=attempt, outcome=outcome, **fields))


def row(store: Store, name: str) -> dict[str, Any]:
    (found,) = report.jobs(store, names=[name])
    return found


# --- status


def test_status_has_its_shape(tree: Tree, store: Store) -> None:
    status = report.status(store)
    assert list(status) == STATUS
    assert list(status["jobs"]) == STATES
    assert json.loads(json.dumps(status)) == status
    assert status == {
        "id": 1,
        "name": "test",
        "jobs": dict.fromkeys(STATES, 0) | {"ready": 3, "blocked": 1},
        "total": 4,
        "set_aside": 0,
        "finished": False,
        "sick_hosts": [],
        "runners": [],
    }


def test_status_counts_each_job_in_its_state(root: str) -> None:
    directories = ["blocked", "ready/any", PENDING, RUNNING, *(f"done/{outcome}" for outcome in OUTCOMES), "held"]
    tree = Tree(root, [job(number) for number in range(1, 10)])
    for number, directory in enumerate(directories, 1):
        tree.put(number, directory)
    status = report.status(tree.store())
    assert status["jobs"] == dict.fromkeys(STATES, 1)
    assert not status["finished"]


@pytest.mark.parametrize("last", OUTCOMES, ids=str)
def test_it_is_finished_when_every_job_has_an_outcome_whichever(last: Status, root: str) -> None:
    tree = Tree(root, [job(1), job(2)])
    tree.put(1, "done/completed")
    assert not report.status(tree.store())["finished"]
    tree.put(2, f"done/{last}")
    assert report.status(tree.store())["finished"]


@pytest.mark.parametrize("directory", ["held", "ready/any", "blocked", PENDING, RUNNING, "aside"])
def test_it_is_not_finished_while_a_job_has_none(directory: str, root: str) -> None:
    tree = Tree(root, [job(1), job(2)])
    tree.put(1, "done/completed")
    tree.put(2, directory)
    assert not report.status(tree.store())["finished"]


def test_what_was_set_aside_is_counted_and_is_in_no_state(tree: Tree, store: Store) -> None:
    store.set_aside(f"{tree.root}/ready/any", os.path.basename(tree.path_of(1)))
    tree.write("aside/README~blocked~0123abcd", b"")
    status = report.status(store)
    assert status["set_aside"] == 2
    assert sum(status["jobs"].values()) == 3
    assert status["total"] == 4


def test_a_look_changes_nothing(tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.put(1, RUNNING)
    with watched(monkeypatch) as calls:
        report.status(store)
        report.jobs(store)
        report.job(store, JOBS[0])
        report.results(store)
        report.preview(store, None, Offer.idle(Free(1, 1)))
    assert {operation for operation, _ in calls.made} <= {"list", "open", "utime"}
    assert {path for operation, path in calls.made if operation == "utime"} <= {store.layout.lock}


# --- runners


def born(store: Store, name: str, **what: Any) -> Actor:
    record = actor.identity(name, **what)
    return Actor.born(store, record)


def other(tree: Tree, name: str = OWNER, **what: Any) -> None:
    """A runner of another host, by its record."""
    here = actor.identity(name)
    fields: dict[str, Any] = {
        "host": here.host + "x",
        "pid": 7,
        "pid_start": "1",
        "boot_id": "another",
        "pid_namespace": here.pid_namespace,
        "lease_s": 240.0,
    }
    os.makedirs(f"{tree.root}/runners/{name}")
    tree.write(f"runners/{name}/runner.json", encode(RunnerRecord(name=name, **(fields | what))))
    tree.write(f"runners/{name}/heartbeat", b"")


def test_a_runner_has_its_row(tree: Tree, store: Store) -> None:
    runner = born(store, naming.new_runner_name("here", os.getpid()), scheduler="gpu cluster")
    (found,) = report.status(store)["runners"]
    assert list(found)[: len(RUNNER)] == RUNNER
    age = found.pop("heartbeat_age_s")
    assert isinstance(age, float)
    assert found == {
        "name": runner.name,
        "host": runner.record.host,
        "pid": os.getpid(),
        "scheduler": "gpu cluster",
        "state": "alive",
        "evidence": None,
        "recovered_by": None,
        "lease_s": 240.0,
    }
    assert runner.retire(0)
    (found,) = report.status(store)["runners"]
    assert (found["state"], found["heartbeat_age_s"]) == ("ended", None)


def test_a_runner_whose_process_is_gone_is_dead(tree: Tree, store: Store) -> None:
    here = actor.identity(OWNER)
    other(tree, host=here.host, boot_id=here.boot_id, pid=here.pid, pid_start="another")
    tree.put(1, RUNNING)
    (found,) = report.runners(store)
    assert found["state"] == "dead"
    assert found["evidence"] == f"process {here.pid} is gone from {here.host}"


@cases(("age", "state"), {"a while ago": (200, "alive"), "longer than its lease": (1000, "dead")})
def test_a_runner_elsewhere_is_alive_until_its_lease_has_passed(age: int, state: str, tree: Tree, store: Store) -> None:
    other(tree)
    tree.put(1, RUNNING)
    now = os.stat(tree.write("clock", b"")).st_mtime
    os.utime(f"{tree.root}/runners/{OWNER}/heartbeat", (now - age, now - age))
    (found,) = report.runners(store)
    assert found["state"] == state
    assert age <= found["heartbeat_age_s"] < age + 60


def test_commands_that_held_work_are_no_runners(tree: Tree, store: Store) -> None:
    born(store, naming.new_runner_name("here", os.getpid()), kind="retry").retire()
    assert report.runners(store) == []


def test_the_dead_whose_work_was_taken_back_are_shown_with_the_evidence(tree: Tree, store: Store) -> None:
    other(tree, TAKER)
    os.makedirs(f"{tree.root}/runners/{TAKER}/taken")
    other(tree, OWNER)
    os.rename(f"{tree.root}/runners/{OWNER}", f"{tree.root}/runners/{TAKER}/taken/{OWNER}")
    dead = RunnerEnd(state="dead", evidence="a person said so", recovered_by=TAKER)
    tree.write(f"runners/{TAKER}/taken/{OWNER}/end.json", encode(dead))
    found = {each["name"]: each for each in report.runners(store)}
    assert found[OWNER]["state"] == "dead"
    assert (found[OWNER]["evidence"], found[OWNER]["recovered_by"]) == ("a person said so", TAKER)
    assert found[TAKER]["state"] == "ended"


@pytest.mark.parametrize("name", ["README", ".hidden", "host-1"])
@pytest.mark.parametrize("kind", ["a file", "a directory"])
def test_a_foreign_name_among_runners_is_none(kind: str, name: str, tree: Tree, store: Store) -> None:
    path = Path(f"{tree.root}/runners/{name}")
    path.mkdir() if kind == "a directory" else path.touch()
    assert report.runners(store) == []


# --- jobs


def test_jobs_have_their_shape(tree: Tree, store: Store) -> None:
    rows = report.jobs(store)
    assert [each["id"] for each in rows] == [1, 2, 3, 4]
    assert all(list(each) == JOB and list(each["resources"]) == RESOURCES for each in rows)
    assert json.loads(json.dumps(rows)) == rows
    assert rows[1] == {
        "id": 2,
        "name": "large",
        "status": "ready",
        "priority": 7,
        "scheduler": None,
        "resources": {
            "num_cpus": 16,
            "num_gpus": 2,
            "num_nodes": 1,
            "memory_bytes": 4 * MIB + 1,
            "runtime_s": None,
        },
        "depends_on": [],
        "attempt": 1,
        **dict.fromkeys(JOB[8:]),
    }
    assert rows[2]["scheduler"] == "gpu cluster"
    assert rows[2]["resources"]["runtime_s"] == 60
    assert rows[3]["depends_on"] == ["prepare", "large"]


def test_a_job_that_ended_shows_its_last_attempt(tree: Tree, store: Store) -> None:
    add_attempt(tree, 1, Attempt(attempt=1, reason="runner lost"))
    end(
        tree,
        1,
        Status.FAILED,
        attempt=2,
        return_code=3,
        reason="return code 3",
        runner=OWNER,
        start_time=0.0,
        end_time=1.5,
        exec_s=1.5,
        peak_memory_bytes=99,
    )
    found = row(store, "prepare")
    assert {name: found[name] for name in JOB[7:]} == {
        "attempt": 2,
        "runner": OWNER,
        "return_code": 3,
        "start_time": "1970-01-01T00:00:00.000Z",
        "end_time": "1970-01-01T00:00:01.500Z",
        "exec_s": 1.5,
        "peak_memory_bytes": 99,
        "reason": "return code 3",
        "cause": None,
    }


def test_a_job_that_is_run_again_shows_nothing_of_the_attempt_before(tree: Tree, store: Store) -> None:
    end(tree, 1, Status.FAILED, return_code=3, runner=OWNER, reason="return code 3")
    tree.put(1, "ready/any", attempt=2)
    found = row(store, "prepare")
    assert (found["status"], found["attempt"]) == ("ready", 2)
    assert {found[name] for name in JOB[8:]} == {None}


def test_a_running_job_shows_its_runner_and_when_it_started(tree: Tree, store: Store) -> None:
    os.makedirs(f"{tree.root}/runners/{OWNER}")
    start = {"event": "start", "id": 1, "attempt": 1, "pid": 77, "time": 60.0, "stdout": "/o", "stderr": "/e"}
    lines = [
        start | {"id": 2, "time": 1.0},
        start | {"attempt": 9, "time": 2.0},
        start,
        {"event": "end", "id": 1, "attempt": 1},
    ]
    tree.write(f"runners/{OWNER}/journal", b"".join(map(encode, lines)) + b'{"event": "sta')
    tree.put(1, RUNNING)
    found = row(store, "prepare")
    assert (found["status"], found["runner"], found["start_time"]) == ("running", OWNER, "1970-01-01T00:01:00.000Z")
    shown = report.job(store, JOBS[0])
    assert (shown["pid"], shown["stdout"], shown["stderr"]) == (77, "/o", "/e")


@cases(
    "data",
    {
        "none": None,
        "empty": b"",
        "torn": b'{"event": "start", "id": 1',
        "no text": b"\xff\n",
        "lines of others": b'[]\n7\nnull\n{"event": "start"}\n{"event": "start", "id": [1], "attempt": {}}\n',
        "times that are none": b'{"event": "start", "id": 1, "attempt": 1, "time": "noon"}\n',
        "nested without end": b"[" * 100_000,
    },
)
def test_a_journal_that_cannot_be_read_hides_no_job(data: bytes | None, tree: Tree, store: Store) -> None:
    if data is not None:
        os.makedirs(f"{tree.root}/runners/{OWNER}")
        tree.write(f"runners/{OWNER}/journal", data)
    tree.put(1, RUNNING)
    found = row(store, "prepare")
    assert (found["status"], found["runner"], found["start_time"]) == ("running", OWNER, None)


def test_a_journal_that_is_no_file_hides_no_job(tree: Tree, store: Store) -> None:
    os.makedirs(f"{tree.root}/runners/{OWNER}/journal")
    tree.put(1, RUNNING)
    assert (row(store, "prepare")["status"], row(store, "prepare")["start_time"]) == ("running", None)


def test_a_job_that_is_taken_back_shows_who_has_it_now(tree: Tree, store: Store) -> None:
    tree.put(1, f"running/{TAKER}~{OWNER}")
    assert row(store, "prepare")["runner"] == TAKER


def test_path_and_name_hold_for_priority_and_scheduler(tree: Tree, store: Store) -> None:
    tree.put(1, "ready/gpu_cluster", rank=999_999 - 5)
    tree.put(3, "ready/any")
    found = row(store, "prepare")
    assert (found["priority"], found["scheduler"]) == (5, "gpu cluster")
    assert row(store, "bound")["scheduler"] is None


@cases(
    ("directory", "cause", "reason"),
    {
        "because of another": (
            "done/canceled",
            Cause(1, 3),
            "canceled because job 'prepare' did not complete (its attempt 3)",
        ),
        "because of one that nobody knows": (
            "done/canceled",
            Cause(9, 1),
            "canceled because job '9' did not complete (its attempt 1)",
        ),
        "by a person": ("done/canceled", None, "canceled by request"),
        "not at all": ("blocked", None, None),
    },
)
def test_why_a_job_was_canceled(
    directory: str, cause: Cause | None, reason: str | None, tree: Tree, store: Store
) -> None:
    tree.put(4, directory, cause=cause)
    assert row(store, "last")["reason"] == reason


def test_a_job_that_was_set_aside_says_so(tree: Tree, store: Store) -> None:
    store.set_aside(f"{tree.root}/ready/any", os.path.basename(tree.path_of(2)))
    found = row(store, "large")
    assert (found["status"], found["priority"], found["attempt"]) == ("set_aside", 7, 1)
    assert found["reason"] == "set aside: its file could not be understood"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"id": 3}', b"\xff"], ids=repr)
def test_a_damaged_file_is_shown_as_the_record_has_the_job(damage: bytes, tree: Tree, store: Store) -> None:
    Path(tree.put(2, "done/failed")).write_bytes(damage)
    found = row(store, "large")
    assert (found["status"], found["resources"]["num_cpus"], found["return_code"]) == ("failed", 16, None)


def test_a_job_that_moves_while_it_is_shown_is_read_where_it_is(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.put(1, RUNNING)
    with watched(monkeypatch) as calls:
        # the first file that is opened is the record, the second the journal, the third the job's
        calls.before("open", 3, lambda: end(tree, 1, Status.COMPLETED, return_code=0))
        found = row(store, "prepare")
    assert (found["status"], found["return_code"]) == ("running", 0)


def test_a_job_that_vanishes_while_it_is_shown_is_shown_as_the_record_has_it(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree.put(1, "done/failed")
    with watched(monkeypatch) as calls:
        calls.before("open", 2, lambda: os.rename(path, f"{tree.root}/aside/x"))
        found = row(store, "prepare")
    assert (found["status"], found["return_code"]) == ("failed", None)


@cases(
    ("statuses", "names", "found"),
    {
        "everything": ((), (), [1, 2, 3, 4]),
        "of one state": (["blocked"], (), [4]),
        "of two states": (["blocked", "ready"], (), [1, 2, 3, 4]),
        "by name": ((), ["large"], [2]),
        "by pattern": ((), ["*r*"], [1, 2]),
        "by one character": ((), ["las?"], [4]),
        "by one of several": ((), ["bound", "x*", "last"], [3, 4]),
        "capitals differ": ((), ["LAST"], []),
        "both": (["ready"], ["l*"], [2]),
    },
)
def test_jobs_can_be_narrowed(
    statuses: list[str], names: list[str], found: list[int], tree: Tree, store: Store
) -> None:
    assert [each["id"] for each in report.jobs(store, statuses=statuses, names=names)] == found


def test_one_job_shows_its_row_and_everything_else(tree: Tree, store: Store) -> None:
    end(tree, 1, Status.COMPLETED, stdout="/o", stderr="/e", start_time=1.0)
    shown = report.job(store, JOBS[0])
    assert list(shown)[: len(JOB)] == JOB
    assert {name: shown[name] for name in JOB} == row(store, "prepare")
    assert shown["command"] == "true"
    assert shown["file"] == tree.path_of(1)
    assert (shown["stdout"], shown["stderr"]) == ("/o", "/e")
    assert [each["outcome"] for each in shown["attempts"]] == ["completed"]


def test_results_are_all_attempts_in_order(tree: Tree, store: Store) -> None:
    end(tree, 2, Status.COMPLETED)
    add_attempt(tree, 1, Attempt(attempt=1, reason="lost"))
    end(tree, 1, Status.FAILED, attempt=2)
    rows = report.results(store)
    assert [(each["name"], each["attempt"], each["outcome"]) for each in rows] == [
        ("prepare", 1, None),
        ("prepare", 2, "failed"),
        ("large", 1, "completed"),
    ]


def test_workflows_are_rows_and_one_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    Tree(str(tmp_path / "2-test"), [job(1)], id=2)
    damaged = Tree(str(tmp_path / "10-bad"), [job(1)])
    damaged.write("workflow.json", b"{")
    rows = report.workflows(Spool(str(tmp_path)))
    assert [each["id"] for each in rows] == [2, 10]
    assert list(rows[0]) == [name for name in STATUS if name != "runners"]
    assert rows[1]["name"] == "bad"
    assert "is no workflow's JSON" in rows[1]["error"]


# --- preview


def test_preview_says_what_is_claimed_in_order_and_why_each_other_is_not(tree: Tree, store: Store) -> None:
    assert report.preview(store, ["any"], Offer.idle(Free(8, 8))) == {
        "claimed": ["prepare"],
        "skipped": [
            {"name": "large", "reason": "needs 16 cpus, the runner has 8"},
            {"name": "bound", "reason": "is bound to scheduler gpu cluster"},
        ],
    }


def test_preview_merges_the_schedulers_of_the_runner(tree: Tree, store: Store) -> None:
    offer = Offer.idle(Free(16, 16, 2), slots=9, ignore_resources=True)
    assert report.preview(store, ["gpu_cluster", "any"], offer)["claimed"] == ["large", "prepare", "bound"]
    assert report.preview(store, None, offer)["claimed"] == ["large", "prepare", "bound"]
    assert report.preview(store, ["none"], offer)["claimed"] == []


def test_preview_shows_nothing_that_is_no_job(tree: Tree, store: Store) -> None:
    for directory in ("ready/any", "ready/gpu_cluster", "ready"):
        tree.write(f"{directory}/README", b"")
    shown = report.preview(store, ["any"], Offer.idle(Free(16, 16, 2)))
    assert shown["claimed"] == ["large"]
    assert [each["name"] for each in shown["skipped"]] == ["prepare", "bound"]


free = st.builds(lambda cpus, memory: Free(cpus, memory, 1), st.integers(1, 6), st.integers(1, 6))
ready = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.sampled_from([0, 30])),
    max_size=6,
)


@settings(LAW, max_examples=40)
@given(
    ready,
    free,
    st.integers(1, 2),
    st.sampled_from([None, 10.0]),
    st.sampled_from([None, 1, 3]),
    st.booleans(),
)
def test_preview_is_what_a_runner_would_select(
    tmp_path_factory: pytest.TempPathFactory,
    jobs: list[tuple[int, ...]],
    capacity: Free,
    nodes: int,
    seconds_left: float | None,
    slots: int | None,
    ignore: bool,
) -> None:
    made = [
        job(
            number,
            priority=priority,
            resources={"num_cpus": cpus, "memory_bytes": mib * MIB, "num_nodes": wide, "runtime_s": runtime or None},
        )
        for number, (priority, cpus, mib, wide, runtime) in enumerate(jobs, 1)
    ]
    tree = Tree(str(tmp_path_factory.mktemp("preview") / "1-test"), made)
    store = tree.store()
    offer = Offer.idle(capacity, nodes, seconds_left=seconds_left, slots=slots, ignore_resources=ignore)
    before = tree.where()
    shown = report.preview(store, ["any"], offer)
    picks = select.select(ReadyQueue(store.ready_entries(["any"])), offer)
    assert shown["claimed"] == [f"job{naming.parse_job(pick.entry.name).id}" for pick in picks]
    assert sorted([*shown["claimed"], *(each["name"] for each in shown["skipped"])]) == sorted(
        each.name for each in made
    )
    assert all(list(each) == ["name", "reason"] and each["reason"] for each in shown["skipped"])
    assert tree.where() == before


# --- figures


@cases(
    ("seconds", "text"),
    {
        "unknown": (None, None),
        "the epoch": (0.0, "1970-01-01T00:00:00.000Z"),
        "milliseconds": (1.2345, "1970-01-01T00:00:01.234Z"),
        "before the epoch": (-1.0, "1969-12-31T23:59:59.000Z"),
        "no time that a calendar has": (1e300, None),
        "no number": (float("nan"), None),
        "never": (float("inf"), None),
    },
)
def test_times_are_iso_in_utc(seconds: float | None, text: str | None) -> None:
    assert report.iso(seconds) == text


@cases(
    ("size", "text"),
    {
        "unknown": (None, "-"),
        "nothing": (0, "0 B"),
        "bytes": (1023, "1023 B"),
        "whole": (1024, "1 KiB"),
        "a part": (1536, "1.5 KiB"),
        "memory": (128 * 1024**3, "128 GiB"),
        "more than there is": (5 * 1024**5, "5120.0 TiB"),
    },
)
def test_memory_for_people(size: int | None, text: str) -> None:
    assert report.memory_text(size) == text
