"""Anything in a spool is renamed, cut short, copied or dropped at random: the check finds it, and the repair mends it.

`DAMAGE_EXAMPLES=5000 python -m pytest tests/test_any_damage.py` tries as many, and others each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import inmemory
import msgspec
import pytest
import spooltools as tools
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from spooltools import Do, Hand, Wanted

from torc_spool import actions, changes, naming, processes, revise
from torc_spool.actor import Actor, identity, new_name
from torc_spool.contents import encode
from torc_spool.errors import TorcSpoolError, UsageError
from torc_spool.model import OUTCOMES, Allocation, Status, Trigger, UserData
from torc_spool.repair import look, open_anyway, repair
from torc_spool.spool import Spool
from torc_spool.submission import COPY

memory, quick = inmemory.memory, inmemory.quick


EXAMPLES = int(os.environ.get("DAMAGE_EXAMPLES", "0"))
ROOT = "1-test"
JOBS = {
    "first": Wanted(),
    "second": Wanted(after=("first",)),
    "bad": Wanted("false"),
    "after_bad": Wanted(after=("bad",)),
    "anyway": Wanted(after=("bad",), anyway=True),
    "alone": Wanted(),
    "bound": Wanted(scheduler="gpu"),
    "torn": Wanted(),
    "parked": Wanted(),
    "last": Wanted(after=("second", "alone")),
}
FREE = ("output", "lost+found", "user_data", "aside")  # where anything may lie
WAIT = re.compile(rf"{ROOT}/(ready/\w+|blocked|held|done/canceled)/[^/]*")
AGAIN = re.compile(rf"{ROOT}/(ready/\w+|blocked)/[^/]*"), re.compile(rf"{ROOT}/done/\w+/[^/]*")


@pytest.fixture(scope="module")
def spools(memory: Path) -> list[str]:
    """One that a dead runner holds, and one that is finished; both have had of everything."""
    made = []
    for name in ("at work", "finished"):
        spool = str(memory / name)
        _make(spool, finished=name == "finished")
        assert look(Spool(spool).open(1)) == []
        made.append(spool)
    return made


def _make(spool: str, *, finished: bool) -> None:
    do = (Do(Trigger.WORKFLOW_START), Do(Trigger.WORKER_START), Do(Trigger.WORKFLOW_COMPLETE))
    spec = tools.workflow(JOBS, schedulers=("gpu",), actions=do)
    data = (UserData(name="figures", data={"a": 1}), UserData(name="more", data=[1]))
    tools.submit(spool, msgspec.structs.replace(spec, user_data=data))
    store = tools.open_workflow(spool)
    root = store.layout.root
    tools.damage(tools.find(root, "torn"))
    changes.hold(store, ["parked"])
    hand = Hand(store)
    action = actions.claim(store, actions.lying(store)[1].name, hand.name)
    assert action is not None
    assert actions.finish(store, action, 0)
    for claimed in hand.claim(2):
        assert hand.start(claimed)
    hand.finish(1, Status.COMPLETED)
    hand.retry(3)
    hand.leave()
    Path(f"{root}/requests/{naming.Request(runner=hand.name)}").touch()
    killed = tools.dead_runner(spool, lambda hand: hand.take("bad", "alone"))
    changes.recover(store, said_dead=[killed])
    _revise(spool)
    os.mkdir(store.layout.slurm)
    Path(f"{store.layout.slurm}/7.json").write_bytes(encode(Allocation(job_id="7", scheduler="gpu", key="0123")))
    if finished:
        changes.release(store, ["parked"])
        tools.drain(spool)
    else:
        tools.dead_runner(spool, _work_and_die)


def _work_and_die(hand: Hand) -> None:
    hand.take("bad", "alone", "second")
    hand.finish(3, Status.FAILED)
    hand.record_result(6, Status.COMPLETED)


def _revise(spool: str) -> None:
    store = tools.open_workflow(spool)
    jobs = [*store.records()]
    jobs[9] = msgspec.structs.replace(jobs[9], command="true again", revision=1)
    revision = revise.Candidate(1, store.workflow, tuple(jobs), {10: jobs[9]}, tools.VERBATIM)
    actor = Actor.born(store, identity(new_name(), kind="reinitialize"))
    revise.publish(actor, revision, lambda: None)
    actor.retire()


# -- what is done


class Harm(NamedTuple):
    """What was done to one path of a spool."""

    what: str
    path: str
    target: str = ""


def _paths(spool: str) -> tuple[list[str], list[str]]:
    """Directories and files below it."""
    directories, files = [], []
    for directory, names, filenames in os.walk(spool):
        below = os.path.relpath(directory, spool)
        directories += [os.path.normpath(f"{below}/{name}") for name in names]
        files += [os.path.normpath(f"{below}/{name}") for name in filenames]
    return sorted(directories), sorted(files)


def _harm(spool: str, draw: Callable[[Any], Any]) -> Harm:
    directories, files = _paths(spool)
    what = draw(st.sampled_from(["rename", "truncate", "duplicate", "drop"]))
    assume(files)
    path = draw(st.sampled_from(files if what == "truncate" else files + directories))
    here = f"{spool}/{path}"
    if what == "drop":
        shutil.rmtree(here) if os.path.isdir(here) else os.remove(here)
        return Harm(what, path)
    if what == "truncate":
        assume(os.path.getsize(here))
        os.truncate(here, draw(st.integers(0, os.path.getsize(here) - 1)))
        return Harm(what, path)
    parent, name = os.path.split(path)
    others = [os.path.basename(other) for other in files if other.count("/") > 2 and "/." not in other]
    name = draw(st.sampled_from([name, f"x{name}", f"{name}~", *others])).lstrip(".")
    target = os.path.normpath(f"{draw(st.sampled_from([parent or '.', *directories]))}/{name}")
    assume(target != path and not target.startswith(f"{path}/"))
    try:
        if what == "rename":
            os.rename(here, f"{spool}/{target}")
        else:
            assume(not os.path.exists(f"{spool}/{target}"))
            (shutil.copytree if os.path.isdir(here) else shutil.copy)(here, f"{spool}/{target}")
    except OSError:
        assume(False)  # a directory over a file, or over one that holds something
    return Harm(what, path, target)


# -- what is none


def _is_none(harm: Harm, spool: str, before: str) -> bool:
    """Whether the document has it that this is no damage, or leaves nothing by which it could be told."""
    what, path, target = harm
    if not os.path.lexists(f"{before}/{path}"):
        path = target  # what an earlier harm has made
    if all(_is_nothing(each, spool, before) for each in (path, target) if each):
        return True
    old, new = Path(f"{before}/{target}"), Path(f"{spool}/{target}")
    if old.is_file() and new.is_file() and old.read_bytes() == new.read_bytes() and _is_nothing(path, spool, before):
        return True  # the copy of workflow.json in its place
    parts = path.split("/")
    if target and _is_nothing(target, spool, before) and what == "duplicate":
        return True
    if what == "duplicate" or len(parts) < 2:
        return False
    if what == "truncate":
        return os.path.exists(f"{spool}/{path}") and _says_the_same(f"{before}/{path}", f"{spool}/{path}")
    if what == "drop":
        return _may_be_gone(path, before)
    if parts[1] == "requests" and os.path.dirname(target) == os.path.dirname(path):
        return True  # a wish of another
    again = AGAIN[1].fullmatch(path) and AGAIN[0].fullmatch(target)
    if again or (WAIT.fullmatch(path) and WAIT.fullmatch(target)):
        return naming.job_id(os.path.basename(path)) == naming.job_id(os.path.basename(target))
    return _may_be_gone(path, before) and _is_nothing(target, spool, before)


def _is_gone(harm: Harm, later: list[Harm]) -> bool:
    """Whether what was cut short was dropped then, with all that it lay in."""
    return harm.what == "truncate" and any(
        each.what == "drop" and f"{harm.path}/".startswith(f"{each.path}/") for each in later
    )


def _in_all(harm: Harm, later: list[Harm]) -> Harm:
    """What was dropped where it had been renamed to is dropped, and no more."""
    dropped = any(each.what == "drop" and f"{harm.target}/".startswith(f"{each.path}/") for each in later)
    return Harm("drop", harm.path) if harm.what == "rename" and dropped else harm


def _is_nothing(path: str, spool: str, before: str) -> bool:
    parts = path.split("/")
    if parts[0] in (".staging", ".trash") or (parts[0].startswith(".") and parts[0] != ".ids"):
        return True
    if parts[0] == ".ids":
        return parts[1:] not in ([], ["1"])
    if len(parts) == 1:
        return naming.parse_workflow(path) is None
    if any(part.startswith(".") for part in parts):
        return True
    if parts[1] == "user_data" and len(parts) > 2:
        return parts[2] not in ("figures.json", "more.json")
    if parts[1] == "aside" and len(parts) > 2:
        return naming.aside_job_id(parts[2]) is None
    return parts[1] in FREE and len(parts) > 2


def _may_be_gone(path: str, before: str) -> bool:
    parts = path.split("/")
    name = parts[-1]
    if parts[1] in ("requests", "slurm") and (len(parts) > 2 or parts[1] == "slurm"):
        return True
    if name == "end.json" or name.startswith("."):
        return True
    if parts[1] in ("pending", "running") and len(parts) == 3 and os.path.isdir(f"{before}/{path}"):
        return all(each.startswith(".") for each in os.listdir(f"{before}/{path}"))
    if parts[1] == "runners" and len(parts) > 2:  # the record of one of whom nothing tells
        names = [each for each in _paths(f"{before}/{path}")[0] if naming.is_runner(os.path.basename(each))]
        owners = {os.path.basename(each) for each in names} | ({name} if naming.is_runner(name) else set())
        return bool(owners or name == "taken") and not any(_is_told_of(each, before) for each in owners)
    return False


def _is_told_of(runner: str, before: str) -> bool:
    root = f"{before}/{ROOT}"
    held = [*os.listdir(f"{root}/pending"), *os.listdir(f"{root}/running")]
    told = any(runner in name for name in _paths(f"{root}/actions")[1])
    request = str(naming.Request(runner=runner)) in os.listdir(f"{root}/requests")
    return (
        told
        or request
        or runner in "~".join(held).split("~")
        or any(
            f'"runner":"{runner}"'.encode() in Path(f"{root}/{path}").read_bytes()
            for path in _paths(root)[1]
            if naming.job_id(os.path.basename(path))
        )
    )


def _says_the_same(old: str, new: str) -> bool:
    """A file that was cut short, and nothing is missing by which it could be told."""
    was, now = Path(old).read_bytes(), Path(new).read_bytes()
    name = os.path.basename(old)
    if name.startswith(".") or name == "lock" or "/aside/" in old or "/output/" in old:
        return True
    if name == "journal":
        end = Path(os.path.dirname(old), "end.json")
        has_ended = end.exists() and json.loads(end.read_bytes())["state"] == "ended"
        return not has_ended or _ends(was) == _ends(now)
    if name.endswith(".json") and "/user_data/" in old:
        with contextlib.suppress(ValueError):
            json.loads(now)
            return True
    return name.endswith(".json") and was.strip() == now


def _same(spool: str, before: str) -> bool:
    """One harm has undone another."""
    if _paths(spool) != _paths(before):
        return False
    return all(
        Path(f"{spool}/{path}").read_bytes() == Path(f"{before}/{path}").read_bytes() for path in _paths(spool)[1]
    )


def _ends(journal: bytes) -> list[Any]:
    lines = []
    for line in journal.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if line["event"] in ("end", "retry")]


# -- the law


@settings(
    max_examples=EXAMPLES or 40,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[*HealthCheck],
)
@given(data=st.data())
def test_any_damage_is_found_and_mended_and_the_workflow_finishes(
    spools: list[str], memory: Path, data: st.DataObject
) -> None:
    before = data.draw(st.sampled_from(spools), label="spool")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        spool = f"{directory}/spool"
        tools.copy_tree(before, spool)
        harms = [_harm(spool, data.draw) for _ in range(data.draw(st.integers(1, 3), label="how many"))]
        note(str(harms))
        try:
            store = open_anyway(Spool(spool), 1)
            found = look(store)
        except TorcSpoolError as error:
            assert _is_lost(harms), error
            return
        counted = [_in_all(harm, harms[number + 1 :]) for number, harm in enumerate(harms)]
        counted = [harm for number, harm in enumerate(counted) if not _is_gone(harm, harms[number + 1 :])]
        is_none = all(_is_none(harm, spool, before) for harm in counted) or _same(spool, before)
        assert found or is_none, "the damage was not found"
        kept = _contents(spool)
        try:
            left = repair(store).left
        except UsageError as error:  # a person has to say what nobody can tell of a name without a record
            said = re.search(r"may live: (\S+)-(\d+)-[0-9a-f]{8}", str(error))
            assert said, error
            is_of_here = said[1] == naming.runner_host(processes.host_name())
            assert not is_of_here or os.path.exists(f"/proc/{said[2]}"), error
            return
        assert all(finding.kind in ("record", "spool") for finding in left), left
        gone = kept - _contents(spool)
        assert not gone, gone
        if not left:
            _runs_to_its_end(spool)


def _is_lost(harms: list[Harm]) -> bool:
    """Without any workflow.json nothing can be told of a workflow but that."""
    if any(harm.path == ROOT or f"{ROOT}/revision-" in f"{harm.path} {harm.target}" for harm in harms):
        return True
    return all(any(f"{ROOT}/{name} " in f"{h.path} {h.target} " for h in harms) for name in (COPY, "workflow.json"))


def _contents(spool: str) -> set[tuple[str, bytes]]:
    """What a repair may not lose: all but temporaries, empty files, and jobs' files, to which it adds attempts."""
    found = set()
    for path in _paths(spool)[1]:
        name, data = os.path.basename(path), Path(f"{spool}/{path}").read_bytes()
        is_job = data.startswith(b"{") and (naming.job_id(name) is not None or b'"attempts":' in data)
        if data and not is_job and not name.startswith("."):
            found.add((name if name == "journal" else "", data))
    return {("", data) for _, data in found}


def _runs_to_its_end(spool: str) -> None:
    store = tools.open_workflow(spool)
    changes.release(store, ["parked"])
    changes.retry(store, [*JOBS])
    final = tools.drain(spool)
    assert sorted(final) == sorted(JOBS), final
    assert {*final.values()} <= {*OUTCOMES}, final
    assert look(Spool(spool).open(1)) == []
    tools.check_invariants(f"{spool}/{ROOT}")
