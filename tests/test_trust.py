"""A spool that somebody else could have written to runs nothing, unless its owner says that this is meant."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cliutil
import pytest
import spooltools
from cliutil import NOBODY, Lab

from torc_spool.errors import UntrustedSpool
from torc_spool.layout import ACTION_DIRECTORIES, FIXED_DIRECTORIES
from torc_spool.model import Trigger
from torc_spool.spool import Spool

lab = cliutil.lab
slow = partial(pytest.param, marks=pytest.mark.slow)

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs root, to make files of another user and to be one")

CHANGES = (
    "run 1",
    "cancel 1",
    "hold 1",
    "release 1",
    "retry 1",
    "set-priority 1 j1 5",
    "stop 1 x",
    "recover 1",
    "delete 1",
    "actions repeat 1 1",
)


def others_may_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | stat.S_IWOTH)


def group_may_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | stat.S_IWGRP)


def of_another_user(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_file(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.write_text("x")


WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "others may write": (others_may_write, "its group or others may write to it (mode 0757); chmod go-w it"),
    "its group may write": (group_may_write, "its group or others may write to it (mode 0775); chmod go-w it"),
    "another user's": (of_another_user, "belongs to user 65534, not to you; pass --allow-shared"),
    "a symbolic link": (linked, "is a symbolic link"),
}
ways = pytest.mark.parametrize("way", [pytest.param(way, marks=as_root if "user" in way else ()) for way in WAYS])


@pytest.fixture
def flow(lab: Lab) -> Lab:
    os.umask(0o022)
    lab.submit(f"touch {lab.base}/ran", {"name": "bound", "scheduler": "gpu"}, slurm_schedulers=[{"name": "gpu"}])
    return lab


@ways
@pytest.mark.parametrize("where", ["ready/any", slow("the workflow"), slow("the spool")])
def test_a_runner_refuses_in_one_sentence(flow: Lab, way: str, where: str) -> None:
    spoil, why = WAYS[way]
    path = {"the spool": flow.spool, "the workflow": flow.root()}.get(where, flow.root() / where)
    spoil(path)
    sentence = flow.torc("run", 1, code=2).sentence()
    assert str(path) in sentence
    assert why in sentence
    assert not (flow.base / "ran").exists()
    assert not (flow.root() / "runners").exists() or flow.ls("runners") == []


@ways
def test_every_directory_of_a_state_is_looked_at(flow: Lab, way: str) -> None:
    spoil, why = WAYS[way]
    for directory in (*FIXED_DIRECTORIES, "ready/gpu"):
        kept = flow.base / "kept"
        shutil.copytree(flow.spool, kept)
        spoil(flow.root() / directory)
        with pytest.raises(UntrustedSpool, match=f"{directory}: ") as raised:
            Spool(str(flow.spool)).open_to_change(1)
        assert why in str(raised.value)
        shutil.rmtree(flow.spool)
        kept.rename(flow.spool)


def test_the_directories_of_actions_are_looked_at_too(lab: Lab) -> None:
    spec = spooltools.workflow({"one": spooltools.Wanted()}, actions=[spooltools.Do(Trigger.WORKFLOW_START)])
    Spool(str(lab.spool)).submit(spec, spooltools.VERBATIM)
    for directory in ACTION_DIRECTORIES:
        others_may_write(lab.root() / directory)
        with pytest.raises(UntrustedSpool, match=f"{directory}: "):
            Spool(str(lab.spool)).open_to_change(1)
        (lab.root() / directory).chmod(0o755)
    Spool(str(lab.spool)).open_to_change(1)


@pytest.mark.slow
def test_every_command_that_changes_refuses_and_those_that_look_do_not(flow: Lab) -> None:
    others_may_write(flow.root() / "requests")
    before = {str(path) for path in flow.spool.rglob("*")}
    for words in CHANGES:
        assert "others may write" in flow.torc(*words.split(), code=2).sentence(), words
    assert {str(path) for path in flow.spool.rglob("*")} == before
    for words in ("status 1", "jobs list 1", "preview 1"):
        flow.torc(*words.split())
    done = flow.torc("run", code=3)  # every workflow of the spool
    assert "workflow 1 is not served" in done.stderr


@ways
def test_nothing_is_submitted_to_a_spool_of_others(lab: Lab, way: str) -> None:
    os.umask(0o022)
    lab.spool.mkdir()
    spoil, why = WAYS[way]
    spoil(lab.spool)
    lab.spec("true")
    assert why in lab.torc("submit", "spec.json", code=2).sentence()
    assert os.listdir(lab.spool) == []


def test_a_file_in_the_place_of_the_spool_is_refused(lab: Lab) -> None:
    lab.spool.write_text("x")
    lab.spec("true")
    for words in ("submit spec.json", "status 1", "run"):
        assert str(lab.spool) in lab.torc(*words.split(), code=2).sentence()


@pytest.mark.parametrize("way", ["others may write", pytest.param("another user's", marks=as_root)])
def test_allow_shared_is_the_say_of_who_runs(flow: Lab, way: str) -> None:
    spoil, _ = WAYS[way]
    for path in (flow.spool, flow.root(), flow.root() / "ready/any"):
        spoil(path)
    flow.torc("run", 1, code=2)
    flow.torc("hold", 1, "j1", "--allow-shared")
    flow.torc("--allow-shared", "release", 1, "j1")
    flow.torc("run", 1, "--allow-shared", "--any-scheduler")
    assert (flow.base / "ran").exists()


def test_a_symbolic_link_is_refused_even_in_a_shared_spool(flow: Lab) -> None:
    linked(flow.root() / "ready" / "any")
    assert "is a symbolic link" in flow.torc("run", 1, "--allow-shared", code=2).sentence()
    (flow.root() / "ready" / "any").unlink()
    (flow.root() / "ready" / "elsewhere").rename(flow.root() / "ready" / "any")
    file = flow.file("j1")
    file.rename(flow.base / "kept")
    file.symlink_to(flow.base / "kept")
    flow.torc("run", 1, "--allow-shared", code=3)
    assert flow.states()["j1"] == "set_aside"
    assert not (flow.base / "ran").exists()


# --- two users


@pytest.fixture
def open_lab() -> Iterator[Lab]:
    """A lab that another user can reach."""
    base = Path(tempfile.mkdtemp(prefix="torc-spool-test-"))
    base.chmod(0o777)
    laboratory = Lab(base)
    laboratory.cwd.chmod(0o777)
    yield laboratory
    left = laboratory.close()
    shutil.rmtree(base)
    assert not left, f"processes of jobs were left: {left}"


@as_root
def test_what_another_user_put_into_a_private_spool_is_not_run(flow: Lab) -> None:
    os.chown(flow.file("j1"), NOBODY, NOBODY)
    done = flow.torc("run", 1, "--any-scheduler", code=3)
    assert "belongs to user 65534, not to you; not run" in done.stderr
    assert flow.states() == {"j1": "set_aside", "bound": "completed"}
    assert not (flow.base / "ran").exists()


@as_root
def test_two_users_share_a_spool_that_was_submitted_so(open_lab: Lab) -> None:
    lab = open_lab
    lab.spec("id -u", "id -u", {"name": "last", "command": "id -u", "depends_on": ["j1"]})
    theirs: dict[str, Any] = {"user": NOBODY, "umask": 0}
    assert lab.torc("submit", "spec.json", "--allow-shared", umask=0).stdout == "1\n"
    # it is the owner's say that it is shared; the other user must say so too
    refused = lab.torc("run", 1, code=2, **theirs).sentence()
    assert "belongs to user 0, not to you; pass --allow-shared" in refused
    lab.torc("hold", 1, "j2")
    lab.torc("run", 1, "--allow-shared", code=3, **theirs)
    lab.torc("release", 1)
    lab.run(1)
    users = {name: lab.torc("logs", 1, name).stdout for name in ("j1", "last", "j2")}
    assert users == {"j1": f"{NOBODY}\n", "last": f"{NOBODY}\n", "j2": "0\n"}
    lab.check()


@as_root
def test_a_workflow_of_another_user_that_says_it_is_shared_is_not_believed(open_lab: Lab) -> None:
    lab = open_lab
    lab.spec("true")
    lab.torc("submit", "spec.json", "--allow-shared", user=NOBODY, umask=0)
    assert "belongs to user 65534, not to you" in lab.torc("run", 1, code=2).sentence()
    assert "belongs to user 65534, not to you" in lab.torc("submit", "spec.json", code=2).sentence()
    lab.torc("run", 1, "--allow-shared")


@as_root
@pytest.mark.slow
def test_others_may_look_at_a_spool_and_change_nothing(open_lab: Lab) -> None:
    lab = open_lab
    lab.submit("true", "exit 1")
    lab.run(1, code=1)
    for words in ("status 1", "jobs list 1", "workflows list", "preview 1", "recover 1 --dry-run"):
        lab.torc(*words.split(), user=NOBODY)
    assert "return code 1" in lab.torc("results", "list", 1, user=NOBODY).stdout
    lab.torc("logs", 1, "j2", user=NOBODY)
    lab.torc("wait", 1, code=1, user=NOBODY)
    for words in CHANGES[:3]:
        assert "belongs to user 0" in lab.torc(*words.split(), code=2, user=NOBODY).sentence()
    assert "Permission denied" in lab.torc("retry", 1, "--allow-shared", code=2, user=NOBODY).sentence()
    assert lab.states() == {"j1": "completed", "j2": "failed"}
