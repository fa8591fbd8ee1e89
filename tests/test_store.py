"""What a workflow's directory says: where jobs are while they move, what their files hold, and what is none of ours."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from storetools import OWNER, TAKER, Tree, first_name, job, shown, watched

from torc_spool import fsops, naming, trust
from torc_spool.contents import Content, encode, with_attempt
from torc_spool.errors import DamagedFile, NotFound, StorageError, UntrustedSpool
from torc_spool.graph import Ended, Verdict
from torc_spool.lifecycle import Move
from torc_spool.model import MAX_PRIORITY, OUTCOMES, Attempt, Job, Needs, RunnerEnd, RunnerRecord, Status
from torc_spool.naming import Cause
from torc_spool.select import Entry
from torc_spool.store import Place, Store

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "1-test")


@pytest.fixture
def tree(root: str) -> Tree:
    """Jobs 1 to 3 are ready, 4 waits for 1."""
    return Tree(root, [job(1), job(2), job(3, scheduler="gpu"), job(4, 1)], schedulers=["gpu"])


@pytest.fixture
def store(tree: Tree) -> Store:
    return tree.store()


EVERYWHERE = {
    "blocked": "blocked",
    "held": "held",
    "ready": "ready/any",
    "ready for a scheduler": "ready/gpu",
    "pending": f"pending/{OWNER}",
    "running": f"running/{OWNER}",
    "taken back": f"running/{TAKER}~{OWNER}",
    **{str(outcome): f"done/{outcome}" for outcome in OUTCOMES},
}


# --- where jobs are


@cases("directory", EVERYWHERE)
def test_a_job_is_shown_where_its_file_lies(directory: str, tree: Tree, store: Store) -> None:
    tree.put(2, directory, attempt=7)
    assert shown(store.snapshot().values()) == tree.where()
    place = store.locate(2)
    assert place is not None
    assert store.path(place) == tree.path_of(2)
    assert shown([place]) == {2: f"{directory} 7"}


# one step of a job's life: from where to where, with which attempt
STEPS = {
    "release": ("blocked", 1, "ready/any", 1),
    "claim": ("ready/any", 1, f"pending/{OWNER}", 1),
    "start": (f"pending/{OWNER}", 1, f"running/{OWNER}", 1),
    "finish": (f"running/{OWNER}", 1, "done/failed", 1),
    "give back": (f"running/{OWNER}", 1, "ready/any", 2),
    "take": (f"running/{OWNER}", 1, f"running/{TAKER}~{OWNER}", 1),
    "hold": ("ready/any", 1, "held", 1),
    "unhold": ("held", 1, "ready/any", 1),
    "retry": ("done/failed", 1, "ready/any", 2),
    "wait again": ("done/canceled", 1, "blocked", 2),
}


def listings(tree: Tree, monkeypatch: pytest.MonkeyPatch, look: Callable[[], object]) -> int:
    with watched(monkeypatch) as calls:
        look()
    return calls.count("list")


@cases(("source", "attempt", "target", "new_attempt"), STEPS)
@pytest.mark.parametrize("look", ["snapshot", "locate"])
def test_a_job_that_moves_between_any_two_listings_is_seen_before_or_after(
    look: str,
    source: str,
    attempt: int,
    target: str,
    new_attempt: int,
    tree: Tree,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seen() -> dict[int, str]:
        if look == "snapshot":
            return shown(store.snapshot().values())
        place = store.locate(2)
        return {} if place is None else shown([place])

    tree.put(2, source, attempt=attempt)
    for directory in (source, target):
        os.makedirs(f"{tree.root}/{directory}", exist_ok=True)
    for number in range(1, listings(tree, monkeypatch, seen) + 1):
        tree.put(2, source, attempt=attempt)
        with watched(monkeypatch) as calls:
            calls.before("list", number, lambda: tree.put(2, target, attempt=new_attempt))
            found = seen()
        assert found[2] in (f"{source} {attempt}", f"{target} {new_attempt}")
        assert look == "locate" or set(found) == {1, 2, 3, 4}


def test_a_job_that_moves_twice_behind_the_readers_back_is_found(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.put(2, "done/failed")
    with watched(monkeypatch) as calls:
        # not yet blocked when that is listed, no longer failed when that is
        calls.before("list", 2, lambda: tree.put(2, "blocked", attempt=2))
        calls.before("list", listings_in(store) + 1, lambda: tree.put(2, "held"))
        found = store.snapshot()
    assert shown(found.values())[2] == "held 2"


def listings_in(store: Store) -> int:
    """How many listings one pass over all states takes."""
    before = fsops.calls["list"]
    store.snapshot()
    return fsops.calls["list"] - before


def test_nobody_looks_again_when_every_job_was_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as calls:
        store.snapshot()
    assert [path for _, path in calls.made].count(store.layout.blocked) == 1


def test_a_job_that_is_nowhere_is_looked_for_a_few_times(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.unlink(tree.path_of(2))
    with watched(monkeypatch) as calls:
        assert set(store.snapshot()) == {1, 3, 4}
        assert store.locate(2) is None
    assert 2 < [path for _, path in calls.made].count(store.layout.blocked) <= 10


def test_a_job_that_was_set_aside_is_in_no_state_and_looked_for_once_more(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.set_aside(f"{tree.root}/ready/any", os.path.basename(tree.path_of(2)))
    with watched(monkeypatch) as calls:
        assert set(store.snapshot()) == {1, 3, 4}
    assert [path for _, path in calls.made].count(store.layout.blocked) == 2


def test_what_else_was_set_aside_does_not_hide_a_job_that_moves(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        tree.write(f"aside/README{number}~blocked~0123abcd", b"")
    tree.put(2, "done/failed")
    with watched(monkeypatch) as calls:
        calls.before("list", 2, lambda: tree.put(2, "blocked", attempt=2))
        assert shown(store.snapshot().values())[2] == "blocked 2"


@pytest.mark.parametrize("first", ["held", "done/completed"])
def test_of_two_files_of_one_job_the_higher_attempt_holds(first: str, tree: Tree, store: Store) -> None:
    second = {"held": "done/completed", "done/completed": "held"}[first]
    path = tree.put(2, first, attempt=10)
    os.link(path, f"{tree.root}/{second}/{first_name(tree.jobs[2])._replace(attempt=9)}")
    place = store.locate(2)
    assert place is not None
    assert shown([place]) == {2: f"{first} 10"}
    assert shown(store.snapshot().values())[2] == f"{first} 10"


def test_a_job_is_not_taken_for_another_whose_name_contains_its_number(root: str) -> None:
    tree = Tree(root, [job(1), job(2, name="a-000000001.1-b"), job(11)])
    os.unlink(tree.path_of(1))
    assert tree.store().locate(1) is None


def test_a_file_of_a_job_that_was_never_submitted_is_none_of_the_workflow(tree: Tree, store: Store) -> None:
    stranger = str(first_name(job(5)))
    for directory in ("blocked", "held", "ready/any", "done/completed"):
        tree.write(f"{directory}/{stranger}", encode(job(5)))
    assert set(store.snapshot()) == {1, 2, 3, 4}
    assert store.outcomes().ended == {}
    assert store.outcomes().foreign == [(f"{tree.root}/done/completed", stranger)]
    assert set(store.waiting(Status.BLOCKED)) == {4}
    assert store.strays() == [(f"{tree.root}/blocked", stranger)]
    with pytest.raises(DamagedFile, match="the workflow has no job 5"):
        store.read_job(f"{tree.root}/ready/any/{stranger}", 5)


# --- listings


def test_ready_entries_are_those_of_the_wanted_schedulers(tree: Tree, store: Store) -> None:
    assert sorted(store.ready_directories()) == ["any", "gpu"]
    assert store.ready_entries(["gpu"]) == [Entry(str(first_name(tree.jobs[3])), "gpu")]
    assert len(store.ready_entries(["gpu", "any"])) == 3
    assert store.ready_entries(["none"]) == []


def test_outcomes_are_listed_with_the_attempt_and_the_cause(tree: Tree, store: Store) -> None:
    tree.put(1, "done/failed", attempt=3)
    tree.put(2, "done/completed")
    path = tree.put(4, "done/canceled", cause=Cause(1, 3))
    assert store.outcomes().ended == {
        1: Ended(3, Status.FAILED),
        2: Ended(1, Status.COMPLETED),
        4: Ended(1, Status.CANCELED),
    }
    assert store.outcomes().causes == {4: os.path.basename(path)}


def test_a_cause_that_is_listed_after_its_consequence_is_still_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(monkeypatch) as calls:
        store.outcomes()
    assert calls.made[0] == ("list", f"{store.layout.done}/canceled")
    assert len(calls.made) == len(OUTCOMES)


def test_of_two_outcomes_of_one_job_the_higher_attempt_holds(tree: Tree, store: Store) -> None:
    path = tree.put(2, "done/canceled", attempt=2, cause=Cause(1, 1))
    for attempt, outcome in ((3, "completed"), (1, "failed")):
        os.link(path, f"{tree.root}/done/{outcome}/{first_name(tree.jobs[2])._replace(attempt=attempt)}")
    listed = store.outcomes()
    assert listed.ended[2] == Ended(3, Status.COMPLETED)
    assert listed.causes == {}


def test_waiting_jobs_are_listed_by_id(tree: Tree, store: Store) -> None:
    held = tree.put(2, "held")
    assert store.waiting(Status.HELD) == {2: os.path.basename(held)}
    assert store.waiting(Status.BLOCKED) == {4: os.path.basename(tree.path_of(4))}


def test_of_two_blocked_files_of_one_job_the_higher_attempt_waits(tree: Tree, store: Store) -> None:
    path = tree.put(4, "blocked", attempt=10)
    os.link(path, f"{tree.root}/blocked/{first_name(tree.jobs[4])._replace(attempt=9)}")
    assert store.waiting(Status.BLOCKED) == {4: os.path.basename(path)}


def test_owners_are_those_who_hold_a_directory_of_either_state(tree: Tree, store: Store) -> None:
    for directory in (f"pending/{OWNER}", f"running/{OWNER}", f"running/{TAKER}~{OWNER}", "pending/nobody"):
        os.makedirs(f"{tree.root}/{directory}")
    tree.put(2, f"running/{TAKER}~{OWNER}")
    assert store.owner_directories() == {
        OWNER: {Status.PENDING, Status.RUNNING},
        f"{TAKER}~{OWNER}": {Status.RUNNING},
    }
    assert shown(store.held_by_owners()) == {2: f"running/{TAKER}~{OWNER} 1"}


def test_a_workflow_that_was_deleted_does_not_exist(tree: Tree, store: Store) -> None:
    assert store.exists()
    os.rename(tree.root, tree.root + ".deleted")
    assert not store.exists()
    assert store.snapshot() == {}
    assert store.outcomes().ended == {}
    assert store.aside() == []


# --- what is none of ours

PLACES = (
    ".",
    "blocked",
    "ready",
    "ready/any",
    "pending",
    f"pending/{OWNER}",
    "running",
    f"running/{OWNER}",
    "done",
    "done/completed",
    "done/canceled",
    "held",
    "aside",
    "requests",
    "runners",
    f"runners/{OWNER}",
    "output",
)
ODD = {
    "a file": lambda path: Path(path).write_text("x"),
    "an empty directory": os.mkdir,
    "a directory with something in it": lambda path: os.makedirs(f"{path}/x.json"),
    "a link to nothing": lambda path: os.symlink("none", path),
    "a link in a circle": lambda path: os.symlink(".", path),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("directory", PLACES)
@cases("make", ODD)
def test_a_foreign_name_anywhere_disturbs_no_reader(
    make: Callable[[str], Any], directory: str, tree: Tree, store: Store
) -> None:
    for owned in (f"pending/{OWNER}", f"running/{OWNER}", f"runners/{OWNER}"):
        os.makedirs(f"{tree.root}/{owned}")
    tree.put(2, f"running/{OWNER}")
    tree.put(1, "done/completed")
    before = store.snapshot(), store.waiting(Status.BLOCKED), store.outcomes().ended, store.owner_directories()
    make(f"{tree.root}/{directory}/README")
    assert before == (
        store.snapshot(),
        store.waiting(Status.BLOCKED),
        store.outcomes().ended,
        store.owner_directories(),
    )
    assert store.locate(2) == before[0][2]
    assert shown(store.held_by_owners()) == {2: f"running/{OWNER} 1"}


@pytest.mark.parametrize("directory", ["blocked", "ready", "pending", "running", "done"])
def test_what_only_a_reader_of_everything_meets_is_a_stray(directory: str, tree: Tree, store: Store) -> None:
    assert store.strays() == []
    tree.write(f"{directory}/README", b"")
    tree.write(f"{directory}/.hidden", b"")
    assert store.strays() == [(f"{tree.root}/{directory}", "README")]


def test_a_job_that_lies_beside_the_schedulers_is_a_stray(tree: Tree, store: Store) -> None:
    tree.put(2, "ready")
    assert store.strays() == [(f"{tree.root}/ready", str(first_name(tree.jobs[2])))]


@cases(
    "name",
    {
        "plain": b"README",
        "with spaces and a line break": b"a b\nc",
        "no text": b"\xff\xfe",
        "as long as a name can be": b"x" * 255,
        "as long as a name can be, of long characters": "\N{SNOWMAN}".encode() * 85,
        "what looks like it was set aside before": b"README~blocked~0123abcd",
        "a job's file": str(first_name(job(2))).encode(),
        "a job's file with a cause": str(first_name(job(2))._replace(cause=Cause(1, 1))).encode(),
    },
)
@pytest.mark.parametrize("directory", ["blocked", f"pending/{TAKER}~{OWNER}"])
def test_whatever_it_is_called_it_can_be_set_aside(name: bytes, directory: str, tree: Tree, store: Store) -> None:
    os.makedirs(f"{tree.root}/{directory}", exist_ok=True)
    path = os.fsencode(f"{tree.root}/{directory}/") + name
    contents = []
    for content in (b"one", b"two"):  # and a second one of the same name
        Path(os.fsdecode(path)).write_bytes(content)
        assert store.set_aside(f"{tree.root}/{directory}", os.fsdecode(name))
        assert not os.path.lexists(path)
    for aside in store.aside():
        contents.append(Path(f"{store.layout.aside}/{aside}").read_bytes())
        assert os.fsencode(aside).startswith(name[:210])
    assert sorted(contents) == [b"one", b"two"]


@cases("make", ODD)
def test_whatever_it_is_it_can_be_set_aside(make: Callable[[str], Any], tree: Tree, store: Store) -> None:
    make(f"{tree.root}/blocked/odd")
    assert store.set_aside(f"{tree.root}/blocked", "odd")
    assert len(store.aside()) == 1
    assert not os.path.lexists(f"{tree.root}/blocked/odd")


def test_what_is_gone_is_not_set_aside(tree: Tree, store: Store) -> None:
    assert not store.set_aside(f"{tree.root}/blocked", "none")
    assert store.aside() == []


def test_what_may_not_be_moved_stays_and_is_an_error_only_for_who_cannot_go_on(
    tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(operation: str, path: str) -> None:
        if operation == "rename":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    tree.write("blocked/README", b"")
    monkeypatch.setattr(fsops, "fault", refuse)
    assert not store.set_aside(f"{tree.root}/blocked", "README")
    with pytest.raises(StorageError, match="Read-only file system"):
        store.park(f"{tree.root}/blocked", "README")
    assert os.path.exists(f"{tree.root}/blocked/README")


# --- trust


@pytest.mark.parametrize("directory", ["..", ".", "blocked", "ready", "ready/gpu", "pending", "done/failed", "aside"])
def test_a_state_that_others_may_write_to_is_not_trusted(directory: str, tree: Tree, store: Store) -> None:
    store.check_trust()
    os.chmod(f"{tree.root}/{directory}", 0o777)
    with pytest.raises(UntrustedSpool, match="its group or others may write to it"):
        store.check_trust()
    tree.store(allow_shared=True).check_trust()


@pytest.mark.parametrize("directory", ["blocked", "ready/any", "ready/gpu", "done", "requests", "runners"])
def test_a_state_that_is_a_link_is_trusted_by_nobody(directory: str, tree: Tree) -> None:
    os.rename(f"{tree.root}/{directory}", f"{tree.root}/elsewhere")
    os.symlink(f"{tree.root}/elsewhere", f"{tree.root}/{directory}")
    for shared in (False, True):
        with pytest.raises(UntrustedSpool, match="is a symbolic link"):
            tree.store(allow_shared=shared).check_trust()


def test_a_link_beside_the_schedulers_is_trusted_by_nobody(tree: Tree, store: Store) -> None:
    os.symlink("any", f"{tree.root}/ready/other")
    with pytest.raises(UntrustedSpool, match="is a symbolic link"):
        store.check_trust()


def test_a_file_beside_the_schedulers_keeps_nobody_from_anything(tree: Tree, store: Store) -> None:
    tree.write("ready/README", b"")
    store.check_trust()


@cases(
    ("said", "by_owner", "shared"),
    {
        "nobody says so": (False, True, False),
        "its submitter said so": (True, True, True),
        "somebody else said so": (True, False, False),
    },
)
def test_a_workflow_is_shared_if_its_own_submitter_said_so(
    said: bool, by_owner: bool, shared: bool, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(root, [job(1)], shared=said)
    if not by_owner:
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    store = tree.store()
    assert store.shared == shared
    assert (store.directory_mode, store.file_mode) == ((0o777, 0o666) if shared else (0o755, 0o644))
    assert tree.store(allow_shared=True).shared


# --- contents of the workflow


def test_what_is_no_workflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"workflow\.json: is missing"):
        Store.open(str(tmp_path))
    with pytest.raises(NotFound, match="was deleted"):
        Store.open(str(tmp_path / "1-test"))


@cases(
    ("data", "why"),
    {
        "empty": (b"", "is no workflow's JSON"),
        "torn": (b'{"id": 1, "name"', "is no workflow's JSON"),
        "no text": (b'{"id": 1, "name": "\xff"}', "is no workflow's JSON"),
        "nested without end": (b'{"x": ' + b"[" * 100_000, "is no workflow's JSON"),
        "a list": (b"[]", "is no workflow's JSON"),
        "a later version": (
            b'{"id": 1, "name": "a", "num_jobs": 1, "num_edges": 0, "cwd": "/", "version": 2}',
            "newer",
        ),
        "a later version that says everything in another way": (b'{"version": 2, "jobs": {}}', "is of version 2;"),
    },
)
def test_a_workflow_that_cannot_be_understood_is_refused(data: bytes, why: str, tree: Tree) -> None:
    tree.write("workflow.json", data)
    with pytest.raises(DamagedFile, match=why) as caught:
        tree.store()
    assert caught.value.path == f"{tree.root}/workflow.json"


def test_fields_of_a_workflow_that_are_not_known_are_no_harm(root: str) -> None:
    tree = Tree(root, [job(1)], hologram={"x": [1]})
    assert tree.store().workflow.num_jobs == 1


def test_the_record_has_every_job_by_its_id(tree: Tree, store: Store) -> None:
    assert list(store.records()) == list(tree.jobs.values())
    assert [store.record(number) for number in (1, 2, 3, 4)] == list(tree.jobs.values())
    for number in (0, -1, 5):
        with pytest.raises(NotFound, match=f"workflow 1 has no job {number}"):
            store.record(number)


def test_the_record_gives_the_graph(tree: Tree, store: Store) -> None:
    ledger = store.ledger()
    assert ledger.awaited(4) == (1,)
    assert ledger.scheduler(3) == "gpu"
    assert ledger.verdict(4) is None
    assert ledger.note(1, 1, Status.COMPLETED) == [Verdict(4)]


@pytest.mark.parametrize("damage", [b"{}\n", b'{"id": 1, "na', b"\xff\n", b"[" * 100_000], ids=repr)
def test_a_damaged_record_is_said_by_its_path(damage: bytes, tree: Tree, store: Store) -> None:
    tree.write("jobs.jsonl", damage)
    for read in (lambda: list(store.records()), lambda: store.record(1), store.ledger):
        with pytest.raises(DamagedFile, match=r"jobs\.jsonl: has a line that is no job"):
            read()


def test_a_missing_record_is_said_by_its_path(tree: Tree, store: Store) -> None:
    os.unlink(f"{tree.root}/jobs.jsonl")
    with pytest.raises(NotFound, match=r"jobs\.jsonl is missing"):
        store.record(1)


# --- contents of a job's file


def test_a_job_is_read_with_its_bytes(tree: Tree, store: Store) -> None:
    content = store.read_job(tree.path_of(2), 2)
    assert content == Content(tree.jobs[2], Path(tree.path_of(2)).read_bytes())


def test_a_job_that_moved_on_is_not_read(tree: Tree, store: Store) -> None:
    path = tree.path_of(2)
    tree.put(2, "held")
    assert store.read_job(path, 2) is None


MINIMAL = b'{"id": 2, "name": "a", "command": "b"'


@cases(
    ("data", "why"),
    {
        "empty": (b"", "is empty"),
        "torn at its beginning": (b"{", "is no job's JSON"),
        "torn": (MINIMAL, "is no job's JSON"),
        "two of them": ((MINIMAL + b"}") * 2, "is no job's JSON"),
        "zeros, as after a power loss": (b"\0" * 100, "is no job's JSON"),
        "no text": (MINIMAL[:-2] + b'\xff"}', "is no job's JSON"),
        "a list": (b"[]", "is no job's JSON"),
        "without a command": (b'{"id": 2, "name": "a"}', "is no job's JSON"),
        "a command that is none": (b'{"id": 2, "name": "a", "command": 7}', "is no job's JSON"),
        "attempts that are none": (MINIMAL + b', "attempts": null}', "is no job's JSON"),
        "an outcome that is none": (MINIMAL + b', "attempts": [{"attempt": 1, "outcome": "fine"}]}', "no job's JSON"),
        "nested without end": (MINIMAL + b', "x": ' + b"[" * 100_000, "is no job's JSON"),
        "deeply nested": (MINIMAL + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is no job's JSON"),
        "a number that nothing holds": (MINIMAL + b', "x": 1e999}', "is no job's JSON"),
        "half a character": (MINIMAL + b', "x": "\\ud800"}', "is no job's JSON"),
        "another job": (MINIMAL.replace(b"2", b"3") + b"}", "its name says job 2, its content job 3"),
        "a later version": (MINIMAL + b', "version": 2}', "is of version 2; this program knows 1"),
        "a later version that says everything in another way": (b'{"version": 3, "task": 1}', "is of version 3"),
    },
)
def test_a_job_that_cannot_be_understood_is_said_to_be_damaged(data: bytes, why: str, tree: Tree, store: Store) -> None:
    path = tree.write("ready/any/x", data)
    with pytest.raises(DamagedFile, match=why) as caught:
        store.read_job(path, 2)
    assert caught.value.path == path


@pytest.mark.parametrize("size", range(0, 60, 7))
def test_a_job_that_is_torn_anywhere_is_said_to_be_damaged(size: int, tree: Tree, store: Store) -> None:
    path = tree.write("ready/any/x", encode(tree.jobs[2])[:-2][:size])
    with pytest.raises(DamagedFile):
        store.read_job(path, 2)


@cases(
    "make",
    {
        "a link": lambda path: os.symlink("/dev/null", path),
        "a directory": os.mkdir,
        "a pipe": os.mkfifo,
    },
)
def test_a_job_that_is_no_file_of_its_own_is_not_run(make: Callable[[str], Any], tree: Tree, store: Store) -> None:
    make(f"{tree.root}/ready/any/x")
    for each in (store, tree.store(allow_shared=True)):
        with pytest.raises(DamagedFile):
            each.read_job(f"{tree.root}/ready/any/x", 2)


def test_a_job_of_another_user_is_not_run_unless_the_spool_is_shared(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    monkeypatch.setattr(trust, "check_directory", lambda _path, **_: None)
    looking, private, shared = tree.store(), tree.store(), tree.store(allow_shared=True)
    for each in (private, shared):
        each.check_trust()
    with pytest.raises(DamagedFile, match=f"belongs to user {me}, not to you; not run"):
        private.read_job(tree.path_of(2), 2)
    assert shared.read_job(tree.path_of(2), 2) is not None
    assert looking.read_job(tree.path_of(2), 2) is not None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_a_job_that_may_not_be_read_is_said_to_be_damaged(
    number: int, tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(operation: str, path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    path = tree.path_of(2)
    monkeypatch.setattr(fsops, "fault", refuse)
    with pytest.raises(DamagedFile, match="may not be read by this user"):
        store.read_job(path, 2)


def test_a_disk_that_fails_is_not_the_fault_of_a_job(tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(operation: str, path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    path = tree.path_of(2)
    monkeypatch.setattr(fsops, "fault", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        store.read_job(path, 2)


numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"]))
flat = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=3)
values = flat | st.lists(flat, max_size=3) | st.dictionaries(st.text(max_size=5), flat, max_size=3)
known_fields = {field.name for field in msgspec.structs.fields(Job)}
unknown_fields = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name not in known_fields), values, max_size=4
)


@LAW
@given(unknown_fields, st.booleans())
@example({"num_cpus": 1, "": None}, True)
@example({"x": 2**64, "y": 0.1, "z": -0.0}, False)
def test_fields_that_are_not_known_survive_every_rewrite(
    tmp_path_factory: pytest.TempPathFactory, unknown: dict[str, Any], has_attempts: bool
) -> None:
    fields = {"id": 2, "name": "a", "command": "b", **unknown, **({"attempts": []} if has_attempts else {})}
    data = json.dumps(fields).encode()
    content = Content(msgspec.json.decode(data, type=Job), data)
    rewritten = json.loads(with_attempt(content, Attempt(attempt=1, outcome=Status.FAILED, return_code=3)))
    attempts = rewritten.pop("attempts")
    fields.pop("attempts", None)
    assert rewritten == fields
    assert attempts == [{"attempt": 1, "outcome": "failed", "return_code": 3}]
    rebound = content.rebound("gpu")
    assert rebound.job.scheduler == "gpu"
    assert {name: value for name, value in json.loads(rebound.data).items() if name in unknown} == unknown


def test_attempts_are_added_in_order_and_keep_their_own_unknown_fields(store: Store) -> None:
    data = MINIMAL + b', "attempts": [{"attempt": 1, "mood": "good"}]}'
    content = Content(msgspec.json.decode(data, type=Job), data)
    rewritten = with_attempt(content, Attempt(attempt=2, outcome=Status.COMPLETED))
    assert json.loads(rewritten)["attempts"] == [
        {"attempt": 1, "mood": "good"},
        {"attempt": 2, "outcome": "completed"},
    ]
    assert rewritten.endswith(b"}\n")


def test_a_job_can_be_bound_to_no_scheduler(tree: Tree, store: Store) -> None:
    content = store.read_job(tree.path_of(3), 3)
    assert content is not None
    assert content.rebound(None).job.scheduler is None


# --- records of runners


def test_a_runner_that_never_said_who_it_is_has_no_record(tree: Tree, store: Store) -> None:
    os.mkdir(f"{tree.root}/runners/{OWNER}")
    assert store.runner_record(f"{tree.root}/runners/{OWNER}") is None
    assert store.runner_end(f"{tree.root}/runners/{OWNER}") is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"name": "\xff"}', b"[" * 100_000], ids=repr)
def test_a_damaged_record_of_a_runner_counts_as_none(damage: bytes, tree: Tree, store: Store) -> None:
    os.mkdir(f"{tree.root}/runners/{OWNER}")
    tree.write(f"runners/{OWNER}/runner.json", damage)
    os.symlink("runner.json", f"{tree.root}/runners/{OWNER}/end.json")
    assert store.runner_record(f"{tree.root}/runners/{OWNER}") is None
    assert store.runner_end(f"{tree.root}/runners/{OWNER}") is None


def test_the_records_of_a_runner_are_read_back(tree: Tree, store: Store) -> None:
    record = RunnerRecord(name=OWNER, host="host", pid=1, pid_start="2", boot_id="b", pid_namespace="n", lease_s=240.0)
    end = RunnerEnd(state="dead", evidence="it is gone", recovered_by=TAKER)
    os.mkdir(f"{tree.root}/runners/{OWNER}")
    tree.write(f"runners/{OWNER}/runner.json", encode(record))
    tree.write(f"runners/{OWNER}/end.json", encode(end))
    assert store.runner_record(f"{tree.root}/runners/{OWNER}") == record
    assert store.runner_end(f"{tree.root}/runners/{OWNER}") == end


# --- moves


def place_of(tree: Tree, number: int) -> Place:
    place = tree.store().locate(number)
    assert place is not None
    return place


@cases(
    ("move", "source", "target", "options", "lies"),
    {
        "release": (Move.RELEASE, "blocked", (Status.READY, "gpu"), {}, "ready/gpu 3"),
        "cascade": (Move.CASCADE, "blocked", (Status.CANCELED,), {"cause": Cause(1, 4)}, "done/canceled 3~1.4"),
        "revive": (Move.REVIVE, "done/canceled", (Status.BLOCKED,), {"new_attempt": True}, "blocked 4"),
        "cancel": (Move.CANCEL, "held", (Status.CANCELED,), {}, "done/canceled 3"),
        "hold": (Move.HOLD, "ready/any", (Status.HELD,), {}, "held 3"),
        "let go": (Move.UNHOLD, "held", (Status.READY, "any"), {}, "ready/any 3"),
        "retry": (Move.RETRY, "done/failed", (Status.READY, "any"), {"new_attempt": True}, "ready/any 4"),
        "give": (Move.GIVE, f"running/{OWNER}", (Status.READY, "gpu"), {"new_attempt": True}, "ready/gpu 4"),
    },
)
def test_a_move_is_one_rename(
    move: Move,
    source: str,
    target: tuple[Any, ...],
    options: dict[str, Any],
    lies: str,
    tree: Tree,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree.put(2, source, attempt=3, cause=Cause(1, 3) if move is Move.REVIVE else None)
    place = place_of(tree, 2)
    with watched(monkeypatch) as calls:
        moved = store.move(move, place, *target, **options)
    assert moved is not None
    assert shown([moved]) == {2: lies}
    assert store.path(moved) == tree.path_of(2)
    assert calls.made == [("rename", store.path(place))]


def test_a_priority_changes_the_name_and_nothing_else(tree: Tree, store: Store) -> None:
    before = Path(tree.path_of(2)).read_bytes()
    place = place_of(tree, 2)
    moved = store.move(Move.PRIORITY, place, place.status, place.detail, rank=MAX_PRIORITY - 7)
    assert moved is not None
    assert moved.name == place.name._replace(rank=MAX_PRIORITY - 7)
    assert Path(tree.path_of(2)).read_bytes() == before


def test_a_move_of_what_is_gone_moves_nothing(tree: Tree, store: Store) -> None:
    place = place_of(tree, 2)
    tree.put(2, f"pending/{OWNER}")
    before = tree.where()
    assert store.move(Move.HOLD, place, Status.HELD) is None
    assert tree.where() == before


def test_a_move_that_no_step_allows_is_not_tried(tree: Tree, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as calls:
        with pytest.raises(ValueError, match="hold: blocked"):
            store.move(Move.HOLD, place_of(tree, 4), Status.COMPLETED)
        with pytest.raises(ValueError, match="retry: ready"):
            store.move(Move.RETRY, place_of(tree, 2), Status.READY, new_attempt=True)
    assert calls.count("rename") == 0


def test_needs_in_a_name_hold_after_a_move(tree: Tree, store: Store) -> None:
    tree.put(2, "ready/any", needs=Needs(9, 8, 7, 6, 5), key="k")
    moved = store.move(Move.HOLD, place_of(tree, 2), Status.HELD)
    assert moved is not None
    assert naming.parse_job(moved.filename).needs == Needs(9, 8, 7, 6, 5)
    assert moved.name.key == "k"
