"""What is broken by no program is found, mended, and runs to its end; the repair may die at any of its steps."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inmemory
import pytest
import spooltools as tools
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spooltools import FULL, READS, Do, Fault, Hand, TornWrite, Wanted, check_invariants

from torc_spool import changes, naming, processes
from torc_spool.errors import DamagedFile, UntrustedSpool, UsageError
from torc_spool.model import OUTCOMES, Status, Trigger
from torc_spool.repair import look, repair
from torc_spool.spool import Spool

memory, quick = inmemory.memory, inmemory.quick


GRAPH = tools.workflow(
    {
        "first": Wanted(),
        "second": Wanted(after=("first",)),
        "bad": Wanted("false"),
        "after_bad": Wanted(after=("bad",)),
        "anyway": Wanted(after=("bad",), anyway=True),
        "alone": Wanted(),
        "bound": Wanted(scheduler="gpu"),
        "last": Wanted(after=("second", "alone")),
    },
    schedulers=("gpu",),
)
COUNT = len(GRAPH.jobs)
ANYBODY = ("blocked", "held", "ready/any", "ready/gpu", "done/canceled")  # where legal moves by hand can lead to
SHOWN = ("done/completed", "done/failed", "done/terminated")
STRAY = ("", "requests", "ready", "done", "running", "runners")


def finished(spool: str) -> None:
    tools.submit(spool, GRAPH)
    tools.drain(spool)


def half_run(spool: str) -> None:
    """Two have ended, and a dead runner holds one that it runs, one with its result, and others that it claimed."""
    tools.submit(spool, GRAPH)
    tools.dead_runner(spool, _work_and_die)


def _work_and_die(hand: Hand) -> None:
    hand.take("first", "bad", "alone")
    hand.finish(3, Status.FAILED)
    hand.finish(1, Status.COMPLETED)
    hand.record_result(6, Status.COMPLETED)


def retried(spool: str) -> None:
    finished(spool)
    changes.retry(tools.open_workflow(spool), ["bad"])
    tools.drain(spool)


MAKES: dict[str, Callable[[str], None]] = {"finished": finished, "half run": half_run, "retried": retried}


@pytest.fixture(scope="module")
def made(memory: Path) -> dict[str, str]:
    spools = {name: str(memory / name.replace(" ", "_")) for name in MAKES}
    for name, spool in spools.items():
        MAKES[name](spool)
    return spools


def root_of(spool: str) -> str:
    return f"{spool}/1-test"


@pytest.fixture
def base(memory: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=memory))


def runs_to_its_end(spool: str) -> None:
    final = tools.drain(spool)
    assert len(final) == COUNT, final
    assert set(final.values()) <= set(OUTCOMES), final
    assert look(tools.open_workflow(spool)) == []
    check_invariants(root_of(spool))


# -- what is broken, and where


def files(root: str) -> dict[int, str]:
    """Where each job's file is, below the root."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            key = naming.job_id(name)
            if key is not None:
                found[key[0]] = os.path.relpath(f"{directory}/{name}", root)
    return found


class Breaking:
    """Breaks a workflow's directory as hypothesis says; each job at most once, so that nothing heals by chance."""

    def __init__(self, root: str, draw: Callable[[Any], Any]) -> None:
        self.root, self.draw = root, draw
        self.left = files(root)
        self.doubled: set[str] = set()  # the directories of jobs that have a second file

    def job(self) -> str:
        """The path of a job's file that is whole so far."""
        number = self.draw(st.sampled_from(sorted(self.left)))
        return self.left.pop(number)

    def move(self, source: str, target: str) -> None:
        os.rename(f"{self.root}/{source}", f"{self.root}/{target}")

    def drop(self) -> None:
        os.remove(f"{self.root}/{self.job()}")

    def truncate(self) -> None:
        path = f"{self.root}/{self.job()}"
        os.truncate(path, self.draw(st.integers(0, os.path.getsize(path) - 3)))

    def misplace(self) -> None:
        """Where it may not lie: a wrong outcome, or where no job lies. What a person may do is no damage."""
        path = self.job()
        directory, name = os.path.split(path)
        target = self.draw(st.sampled_from([place for place in (*SHOWN, *STRAY) if place != directory]))
        if directory.startswith("running/") and target.startswith("done/"):
            target = "done"  # with its result in it that is what its runner would have done
        self.move(path, f"{target}/{name}")

    def duplicate(self) -> None:
        """But a waiting one not to where a person parks jobs: that one would hold, and wait for the person."""
        path = self.job()
        directory, name = os.path.split(path)
        self.doubled.add(directory)
        places = [place for place in (*ANYBODY, *SHOWN, *STRAY) if place not in (directory, "held")]
        shutil.copy(f"{self.root}/{path}", f"{self.root}/{self.draw(st.sampled_from(places))}/{name}")

    def rename(self) -> None:
        path = self.job()
        directory, filename = os.path.split(path)
        name = naming.parse_job(filename)
        changed = {
            "another id": str(name._replace(id=name.id % COUNT + 1)),
            "no job's id": str(name._replace(id=COUNT + 7)),
            "another slug": str(name._replace(slug="other")),
            "other needs": str(name._replace(needs=name.needs._replace(num_cpus=7))),
            "a key": str(name._replace(key="abc")),
            "no name": f"x{filename}",
            "no ending": filename.removesuffix(".json"),
        }
        if directory in SHOWN:
            changed["another attempt"] = str(name._replace(attempt=name.attempt + 3))
        self.move(path, f"{directory}/{self.draw(st.sampled_from(sorted(changed.values())))}")

    def edit(self) -> None:
        path = f"{self.root}/{self.job()}"
        content = json.loads(Path(path).read_text())
        changes_ = [
            {"id": content["id"] % COUNT + 1},
            {"depends_on": [*content.get("depends_on", []), 99]},
            {"attempts": [{"attempt": 2, "outcome": "failed"}, {"attempt": 1, "outcome": "failed"}]},
            {"attempts": [{"attempt": 0}]},
            {"attempts": [{"attempt": 1, "outcome": "ready"}]},
            {"version": 2},
            {"attempts": "none"},
        ]
        Path(path).write_text(json.dumps(content | self.draw(st.sampled_from(changes_))))

    def foreign(self) -> None:
        name = self.draw(st.sampled_from(["README", "999999-000000001.0-c1g0n1m1t0-x.json", "x y", "\u00e9.json"]))
        Path(f"{self.root}/{self.draw(st.sampled_from([*ANYBODY, *SHOWN, *STRAY]))}/{name}").write_text("not ours")

    def temporary(self) -> None:
        Path(f"{self.root}/{self.draw(st.sampled_from([*ANYBODY, *SHOWN]))}/.left.tmp").write_text("")

    def foreign_directory(self) -> None:
        name = self.draw(st.sampled_from(["new", "ready/no_scheduler", "running/nobody", "pending/x", "runners/y"]))
        os.makedirs(f"{self.root}/{name}/inside", exist_ok=True)

    def wish(self) -> None:
        name = self.draw(
            st.sampled_from(["cancel-000000099.1", "cancel-000000001.77", "stop-host-1-0123abcd", "hello"])
        )
        Path(f"{self.root}/requests/{name}").write_text("")

    def owner(self) -> None:
        """A directory of a runner that never was, with a job in it."""
        directory = f"{self.draw(st.sampled_from(['pending', 'running']))}/{ours('0badcafe')}"
        os.makedirs(f"{self.root}/{directory}", exist_ok=True)
        path = self.job()
        self.move(path, f"{directory}/{os.path.basename(path)}")

    def drop_directory(self) -> None:
        """A runner's record while it holds jobs, what it holds, or a directory that is made at submit."""
        owned = [f"{kind}/{name}" for kind in ("pending", "running") for name in os.listdir(f"{self.root}/{kind}")]
        owned = [path for path in owned if naming.owners(path.split("/")[1]) and os.listdir(f"{self.root}/{path}")]
        records = [f"runners/{path.split('/')[1]}" for path in owned]
        places = [*(path for path in owned if path not in self.doubled), *records, "held", "requests", *SHOWN]
        path = self.draw(st.sampled_from([each for each in places if os.path.isdir(f"{self.root}/{each}")]))
        self.left = {job: file for job, file in self.left.items() if not file.startswith(f"{path}/")}
        shutil.rmtree(f"{self.root}/{path}")

    def drop_lock(self) -> None:
        Path(f"{self.root}/lock").unlink(missing_ok=True)


def ours(unique: str) -> str:
    """The name of a runner of this host whose process is gone: no pid is as high."""
    return re.sub(r"-\d+-[0-9a-f]{8}$", f"-4194999-{unique}", naming.new_runner_name(processes.host_name(), 1))


BREAKINGS = (
    Breaking.drop,
    Breaking.truncate,
    Breaking.misplace,
    Breaking.duplicate,
    Breaking.rename,
    Breaking.edit,
    Breaking.foreign,
    Breaking.temporary,
    Breaking.foreign_directory,
    Breaking.wish,
    Breaking.owner,
    Breaking.drop_lock,
)


@pytest.mark.parametrize("name", MAKES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_damage_is_found_and_mended_and_the_workflow_finishes(
    name: str, made: dict[str, str], memory: Path, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        spool = f"{directory}/spool"
        tools.copy_tree(made[name], spool)
        breaking = Breaking(root_of(spool), data.draw)
        for break_it in data.draw(st.lists(st.sampled_from(BREAKINGS), min_size=1, max_size=3)):
            break_it(breaking)
        if data.draw(st.booleans()):
            breaking.drop_directory()
        store = Spool(spool).open(1)
        found = look(store)
        assert found, "the damage was not found"
        mended = repair(store)
        assert mended.left == [], mended
        assert mended.repaired == len(mended.findings)
        runs_to_its_end(spool)


@pytest.mark.parametrize("name", MAKES)
def test_what_a_person_may_do_is_no_damage(name: str, made: dict[str, str], base: Path) -> None:
    """Each legal move by hand of each job."""
    root = root_of(made[name])
    for number, path in files(root).items():
        directory, filename = os.path.split(path)
        if directory.split("/")[0] in ("pending", "running"):
            continue
        for target in ANYBODY:
            if directory in SHOWN and target in ("held", "done/canceled"):
                continue
            spool = str(base / f"{number}-{target.replace('/', '_')}")
            tools.copy_tree(made[name], spool)
            os.rename(f"{root_of(spool)}/{path}", f"{root_of(spool)}/{target}/123456{filename[6:]}")
            assert look(tools.open_workflow(spool)) == []
            shutil.rmtree(spool)


# -- each repair


def contents(path: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in (path, *path.rglob("*")) if each.is_file()}


LINKS = ("blocked", "ready", "ready/any", "done/completed", "running", "requests", "runners", "lock", "lost+found")


@pytest.mark.parametrize("of_what", ["in its place", "with what it had", "itself"])
def test_nothing_is_followed_through_a_symbolic_link_and_the_link_is_moved(
    of_what: str, made: dict[str, str], base: Path
) -> None:
    dead = ours("0badcafe")
    runner = os.listdir(f"{root_of(made['half run'])}/runners")[0]
    strays = ("new", "ready/x", f"running/{dead}", f"runners/{dead}", f"runners/{runner}/taken")
    for number, path in enumerate((*LINKS, f"runners/{runner}", f"runners/{runner}/journal", *strays)):
        spool, outside = str(base / f"{of_what}-{number}"), base / f"{of_what}-{number}-outside"
        tools.copy_tree(made["half run"], spool)
        link = Path(root_of(spool), path)
        if of_what == "with what it had" and link.exists():
            link.rename(outside)
        else:
            outside.mkdir()
            (outside / "999999-000000001.7-c1g0n1m1t0-first.json").write_text("not ours")
            shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
        link.symlink_to("." if of_what == "itself" else outside)
        before = contents(outside)
        (Path(root_of(spool)) / "foreign").touch()
        assert look(Spool(spool).open(1)), path
        if path in LINKS[:5]:
            with pytest.raises(UntrustedSpool, match="is a symbolic link; `fsck 1 --repair` mends that"):
                Spool(spool).open_to_change(1)
        mended = repair(Spool(spool).open(1))
        assert mended.left == [], (path, mended)
        assert not link.is_symlink(), path
        runs_to_its_end(spool)
        assert contents(outside) == before, path


def test_a_directory_that_is_gone_is_refused_with_what_mends_it(made: dict[str, str], base: Path) -> None:
    spool = str(base / "spool")
    tools.copy_tree(made["finished"], spool)
    os.rmdir(f"{root_of(spool)}/held")
    with pytest.raises(DamagedFile, match="held: is not there; `fsck 1 --repair` mends that"):
        Spool(spool).open_to_change(1)


def test_what_has_ended_and_lost_its_name_gets_it_back_and_does_not_run_again(made: dict[str, str], base: Path) -> None:
    spool = str(base / "spool")
    tools.copy_tree(made["finished"], spool)
    root = Path(root_of(spool))
    before = {path: Path(root, path).read_bytes() for path in files(str(root)).values()}
    ended = [path for path in sorted(before) if path.startswith(SHOWN)]
    news = ("99999-000000001.1-c1g0n1m1t0-first.json", "note", "x.json", "999999-000000001.0-c1g0n1m1t0-first.json")
    for path, new in zip(ended, itertools.cycle(news), strict=False):
        os.rename(root / path, root / os.path.dirname(path) / f"{new}{len(path)}{path[-9:]}")
    assert {finding.kind for finding in look(tools.open_workflow(spool))} == {"name"}
    assert repair(tools.open_workflow(spool)).left == []
    runs_to_its_end(spool)
    assert {path: Path(root, path).read_bytes() for path in files(str(root)).values()} == before


def test_actions_are_left_alone_when_their_record_is_broken(base: Path) -> None:
    """Nothing can be told of them then."""
    spool = str(base / "spool")
    tools.submit(spool, tools.workflow({"a": Wanted()}, actions=(Do(Trigger.WORKFLOW_COMPLETE),)))
    root = root_of(spool)
    os.truncate(f"{root}/actions.jsonl", 40)
    before = sorted(os.listdir(f"{root}/actions/waiting"))
    assert before
    left = repair(tools.open_workflow(spool)).left
    assert {finding.kind for finding in left} == {"record"}
    assert sorted(os.listdir(f"{root}/actions/waiting")) == before


def test_a_sound_workflow_is_left_as_it_is(made: dict[str, str], base: Path) -> None:
    for name, source in made.items():
        spool = str(base / name)
        tools.copy_tree(source, spool)
        before = tools.read(root_of(spool))
        assert look(tools.open_workflow(spool)) == []
        assert repair(tools.open_workflow(spool)).findings == []
        assert tools.read(root_of(spool)) == before
        assert not os.path.exists(f"{root_of(spool)}/lost+found")


def test_it_is_refused_while_a_runner_may_live(base: Path) -> None:
    spool = str(base / "spool")
    tools.submit(spool, GRAPH)
    hand = Hand(tools.open_workflow(spool))
    hand.take("first")
    os.remove(tools.find(root_of(spool), "alone"))
    with pytest.raises(UsageError, match=f"runners that may live: {hand.name}"):
        repair(hand.store)
    assert [finding.kind for finding in look(hand.store)] == ["lost"]


def test_of_a_runner_of_another_host_without_a_record_a_person_must_say_that_it_is_dead(
    made: dict[str, str], base: Path
) -> None:
    spool = str(base / "spool")
    tools.copy_tree(made["finished"], spool)
    os.mkdir(f"{root_of(spool)}/pending/elsewhere-12-0123abcd")
    store = tools.open_workflow(spool)
    assert [finding.kind for finding in look(store)] == ["owner"]
    with pytest.raises(UsageError, match="recover 1 --dead RUNNER"):
        repair(store)
    changes.recover(store, said_dead=["elsewhere-12-0123abcd"])
    assert look(store) == []


def test_the_result_of_a_job_of_a_runner_without_a_record_is_kept(made: dict[str, str], base: Path) -> None:
    spool = str(base / "spool")
    tools.copy_tree(made["half run"], spool)
    (runner,) = os.listdir(f"{root_of(spool)}/running")
    shutil.rmtree(f"{root_of(spool)}/runners/{runner}")
    (finding, *_) = look(tools.open_workflow(spool))
    assert finding.kind == "owner"
    assert repair(tools.open_workflow(spool)).left == []
    assert tools.read(root_of(spool)).one(6).attempts == [(1, Status.COMPLETED)]
    runs_to_its_end(spool)


# -- death and refusal


def broken(source: str, spool: str) -> None:
    """Something for each step: to lost+found, to its right name, taken back, made anew, and put back."""
    tools.copy_tree(source, spool)
    root = root_of(spool)
    where = files(root)
    os.remove(f"{root}/{where[8]}")
    tools.damage(f"{root}/{where[2]}")
    os.rename(f"{root}/{where[1]}", f"{root}/done/failed/{os.path.basename(where[1])}")
    Path(f"{root}/ready/any/README").write_text("not ours")
    shutil.rmtree(f"{root}/held")
    (runner,) = os.listdir(f"{root}/runners")
    os.remove(f"{root}/runners/{runner}/journal")
    os.rename(f"{root}/jobs.jsonl", f"{root}/renamed")


def changes_something(operation: str, _path: str) -> bool:
    return operation not in READS


@pytest.mark.parametrize(
    "fault",
    [
        lambda n: Fault(n, when=changes_something),
        lambda n: Fault(n, error=FULL, when=changes_something),
        TornWrite,
    ],
    ids=["killed", "full", "torn"],
)
def test_a_repair_that_was_cut_short_is_gone_on_with(
    fault: Callable[[int], Fault], made: dict[str, str], base: Path
) -> None:
    """X32, X33, X34, X35: before each call that changes something."""
    broken(made["half run"], str(base / "broken"))
    for n in itertools.count(1):
        spool = str(base / f"n{n}")
        tools.copy_tree(str(base / "broken"), spool)
        ending = tools.in_child(lambda spool=spool: Spool(spool).open(1), repair, fault(n))  # type: ignore[misc]
        is_readable = os.path.isdir(f"{root_of(spool)}/held") and os.path.isfile(f"{root_of(spool)}/jobs.jsonl")
        kept = tools.read(root_of(spool)) if is_readable else None
        if ending.how != "killed" and ending.calls < n:
            break
        assert repair(Spool(spool).open(1)).left == []
        if kept is not None:
            assert set(kept.aside) <= set(tools.read(root_of(spool)).aside)
        assert any("README" in name for name in os.listdir(f"{root_of(spool)}/lost+found"))
        runs_to_its_end(spool)
        shutil.rmtree(spool)
    assert n > 3


@pytest.mark.parametrize(
    ("row", "call", "left"),
    [
        ("X32", ("rename", "/ready/any/README$"), ["damaged", "lost", "state"]),
        ("X32", ("rename", "/[.]jobs.jsonl.tmp$"), ["damaged", "state", "foreign"]),
        ("X33", ("rename", r"/done/failed/9[^/]*-first"), None),
        ("X34", ("create", r"/running/[^/]+/9[^/]*-last"), None),
        ("X35", ("rename", r"/running/[^/]+/9[^/]*-last"), None),
    ],
)
def test_the_crash_table_of_a_repair(
    row: str, call: tuple[str, str], left: list[str] | None, made: dict[str, str], base: Path
) -> None:
    """X32, X33, X34, X35: after the step."""
    spool = str(base / "spool")
    broken(made["half run"], spool)

    def is_the_step(operation: str, path: str) -> bool:
        return operation == call[0] and re.search(call[1], path) is not None

    fault = Fault(1, when=is_the_step, after=True)
    assert tools.in_child(lambda: Spool(spool).open(1), repair, fault).how == "killed", row
    kinds = {finding.kind for finding in look(tools.open_workflow(spool))}
    if row == "X32":
        assert left is not None
        assert kinds & {*left}
        assert ("foreign" in kinds, "record" in kinds) == ("foreign" in left, False)
    elif row == "X33":
        assert tools.read(root_of(spool)).one(1).status is Status.COMPLETED
        assert "state" not in kinds
    else:
        found = tools.read(root_of(spool)).one(8)
        assert found.status is (Status.RUNNING if row == "X34" else Status.BLOCKED)
    repair(tools.open_workflow(spool))
    runs_to_its_end(spool)
