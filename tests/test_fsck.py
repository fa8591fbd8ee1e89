"""`fsck` on what real runners leave, whole and broken."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cliutil
import pytest
import spooltools as tools
import storetools
from cliutil import Lab
from spooltools import Do, Hand, Wanted

from torc_spool import actor
from torc_spool.model import Status, Trigger
from torc_spool.repair import look
from torc_spool.spool import Spool

lab = cliutil.lab


def sound(lab: Lab, workflow: int = 1) -> None:
    assert look(lab.store(workflow)) == []
    assert not (lab.root(workflow) / "lost+found").exists()


HANDLERS = [{"name": "again", "rules": [{"exit_codes": [7], "recovery_script": "true", "max_retries": 2}]}]


# -- sound, of every kind


def test_retried_and_canceled_and_reinitialized(lab: Lab) -> None:
    first = {"name": "first", "command": "cat in > out", "input_files": ["in"], "output_files": ["out"]}
    files = [{"name": name, "path": name} for name in ("in", "out")]
    (lab.cwd / "in").write_text("1")
    lab.submit(
        first,
        {"name": "second", "depends_on": ["first"]},
        {"name": "bad", "command": "exit 7", "failure_handler": "again"},
        {"name": "after", "depends_on": ["bad"]},
        {"name": "parked"},
        files=files,
        failure_handlers=HANDLERS,
    )
    sound(lab)
    lab.torc("hold", 1, "parked")
    lab.run(1, code=None)
    sound(lab)
    lab.torc("cancel", 1, "parked")
    lab.torc("retry", 1, "bad")
    lab.torc("set-priority", 1, "bad", 9)
    sound(lab)
    lab.run(1, code=1)
    sound(lab)
    (lab.cwd / "in").write_text("12")
    lab.torc("reinitialize", 1)
    sound(lab)
    lab.run(1, code=1)
    sound(lab)
    changed = lab.spec(
        {**first, "resource_requirements": "big", "command": "cat in in > out"},
        {"name": "second", "depends_on": ["first"]},
        {"name": "bad", "command": "true", "failure_handler": "again"},
        {"name": "after", "depends_on": ["bad"]},
        {"name": "parked"},
        files=files,
        failure_handlers=HANDLERS,
        resource_requirements=[{"name": "big", "num_cpus": 1, "memory": "2g", "runtime": "PT1H"}],
    )
    lab.torc("reinitialize", 1, changed)
    sound(lab)
    lab.run(1, code=None)
    sound(lab)
    lab.torc("reset-status", 1)
    sound(lab)


def test_killed_runners_and_what_was_set_aside(lab: Lab) -> None:
    gate = lab.gate()
    command = f"test $TORC_ATTEMPT_ID -gt 1 || {{ {gate.wait}; }}"
    lab.submit(command, command, "true", "exit 1", {"name": "torn"}, {"name": "last", "depends_on": ["j1", "torn"]})
    tools.damage(str(lab.file("torn")))
    process = lab.start("run", 1, "-p", 2)
    gate.await_jobs("j1", "j2")
    process.kill()
    done = lab.torc("fsck", 1, "-f", "json", code=1).json
    assert [finding["kind"] for finding in done["findings"]] == ["damaged"]
    lab.torc("recover", 1)
    lab.run(1, code=3)
    sound(lab)
    lab.torc("retry", 1, "torn")
    sound(lab)
    lab.run(1, code=1)
    sound(lab)


def test_jobs_in_motion_are_no_damage(lab: Lab) -> None:
    """It is looked at again and again while two runners work, until they are through."""
    jobs = {f"j{number}": Wanted("true", (f"j{number - 20}",) if number > 20 else ()) for number in range(1, 161)}
    Spool(str(lab.spool)).submit(tools.workflow(jobs), tools.VERBATIM, cwd=str(lab.cwd))
    runners = [lab.start("run", 1, "-p", 4), lab.start("run", 1, "-p", 2)]
    looks = 0
    while any(runner.alive for runner in runners):
        assert look(lab.store()) == []
        looks += 1
    assert looks > 1
    for runner in runners:
        assert runner.wait(code=None).code in (0, 3)  # 3: the last jobs were the other one's, who may have ended since
    assert lab.torc("-f", "json", "status", 1).json["jobs"]["completed"] == len(jobs)
    sound(lab)


def test_actions_and_user_data(lab: Lab) -> None:
    jobs = {"one": Wanted(), "two": Wanted(after=("one",))}
    do = (Do(Trigger.WORKFLOW_START), Do(Trigger.WORKER_START), Do(Trigger.WORKFLOW_COMPLETE, ("exit 3",)))
    Spool(str(lab.spool)).submit(tools.workflow(jobs, actions=do), tools.VERBATIM, cwd=str(lab.cwd))
    sound(lab)
    lab.run(1, code=None)
    sound(lab)
    lab.torc("actions", "repeat", 1, 1)
    sound(lab)
    lab.submit("true", user_data=[{"name": "figures", "data": {"a": 1}}])
    lab.torc("user-data", "update", 2, "figures", "[1, 2]", code=None)
    sound(lab, 2)


# -- broken, as a person sees it


def test_what_is_said_and_done(lab: Lab) -> None:
    lab.submit("true", "exit 1", {"name": "next", "depends_on": ["j1"]})
    lab.run(1, code=1)
    root = lab.root()
    (root / "done" / "README").write_text("not ours")
    lab.file("j1").unlink()
    failed = lab.file("j2")
    failed.rename(root / "done" / "completed" / failed.name)

    said = lab.torc("fsck", 1, code=1)
    lines = said.stdout.splitlines()
    assert lines[0] == (
        "foreign: done/README is not the file of a job of this workflow; repair: it is moved to lost+found/"
    )
    assert lines[1] == (
        f"state: done/completed/{failed.name} lies among the completed jobs, and its result is failed; "
        f"repair: it is renamed to done/failed/{failed.name}"
    )
    assert lines[2] == ("lost: job 1 (j1) lies nowhere; repair: it is made anew from the record, and runs again")
    assert len(lines) == 3
    assert "3 found; mend it with: torc-spool fsck 1 --repair" in said.stderr

    done = lab.torc("fsck", 1, "--repair", "-f", "json", code=1).json
    assert done["sound"] is True
    assert done["repaired"] == 3
    assert sorted(finding["kind"] for finding in done["findings"]) == ["foreign", "lost", "state"]
    assert all(sorted(finding) == ["job", "kind", "path", "repair", "what"] for finding in done["findings"])
    assert [name.split("~")[0] for name in lab.ls("lost+found")] == ["README"]
    assert lab.states() == {"j1": "ready", "j2": "failed", "next": "completed"}
    assert lab.job("j1")["attempt"] == 2
    assert lab.torc("fsck", 1, "--repair").stdout == "sound\n"
    lab.run(1, code=1)
    assert lab.torc("fsck", 1).stdout == "sound\n"
    assert lab.torc("fsck", 1, "-f", "json").json == {"sound": True, "findings": [], "repaired": 0}


def test_it_is_refused_beside_a_runner_and_the_check_is_not(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, {"name": "next", "depends_on": ["j1"]})
    process = lab.start("run", 1)
    gate.await_jobs("j1")
    assert lab.torc("fsck", 1, "--repair").stdout == "sound\n", "there is nothing to mend"
    lab.file("next").unlink()
    said = lab.torc("fsck", 1, code=1)
    assert "may be at work" in said.stderr
    assert "lost: job 2 (next)" in said.stdout
    refused = lab.torc("fsck", 1, "--repair", code=2)
    assert f"may live: {lab.runner()}; wait until they have ended" in refused.stderr
    gate.open()
    process.wait(code=None)
    lab.torc("fsck", 1, "--repair", code=1)
    lab.run(1)


def test_a_workflow_that_is_not_there(lab: Lab) -> None:
    lab.submit("true")
    assert "no workflow 7" in lab.torc("fsck", 7, code=2).stderr


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_journal_that_tells_something_else(lab: Lab) -> None:
    lab.submit("true", "true")
    lab.run(1)
    (journal,) = lab.root().glob("runners/*/journal")
    whole = journal.read_text()
    ends = [line for line in whole.splitlines() if '"end"' in line]
    wrong = {
        " failed, and the job's file that it completed": whole.replace('"outcome":"completed"', '"outcome":"failed"'),
        "does not have it": whole + ends[0].replace('"attempt":1', '"attempt":4') + "\n",
        "lacks the end of attempt 1": "\n".join(line for line in whole.splitlines() if line not in ends),
    }
    for what, text in wrong.items():
        journal.write_text(text)
        (finding,) = look(lab.store())
        assert (finding.kind, what in finding.what) == ("journal", True), finding
    journal.write_text(whole + '{"torn')
    sound(lab)
    journal.unlink()
    assert [finding.kind for finding in look(lab.store())] == ["journal"]
    journal.write_text("")
    (finding,) = lab.torc("fsck", 1, "--repair", "-f", "json", code=1).json["findings"]
    assert "lacks the end of attempt 1 of job 1" in finding["what"]
    assert lab.torc("fsck", 1).stdout == "sound\n"
    told = [(line["event"], line["id"], line["outcome"]) for line in _lines(journal)]
    assert told == [("end", 1, "completed"), ("end", 2, "completed")]


def test_actions_and_user_data_that_are_broken(lab: Lab) -> None:
    do = (Do(Trigger.WORKFLOW_START), Do(Trigger.WORKER_START), Do(Trigger.WORKFLOW_COMPLETE))
    Spool(str(lab.spool)).submit(tools.workflow({"one": Wanted()}, actions=do), tools.VERBATIM, cwd=str(lab.cwd))
    lab.run(1)
    root = lab.root()
    (done,) = (root / "actions/done").glob("001*")
    done.rename(root / "actions/waiting" / done.name)
    (each,) = (root / "actions/persistent").iterdir()
    each.unlink()
    (last,) = (root / "actions/done").glob("003*")
    shutil.copy(last, root / "actions/waiting/003.1-on_workflow_complete.json")
    found = lab.torc("fsck", 1, "--repair", "-f", "json", code=1).json
    assert found["sound"] is True
    assert sorted(finding["kind"] for finding in found["findings"]) == ["doubled", "foreign", "lost", "lost"]
    assert "002-on_worker_start.json" in lab.ls("actions/persistent")
    assert lab.ls("actions/waiting")[0] == "001.2-on_workflow_start.json"
    lab.submit("true", user_data=[{"name": "figures", "data": {"a": 1}}])
    (value,) = (lab.root(2) / "user_data").iterdir()
    value.write_text("{torn")
    (finding,) = lab.torc("fsck", 2, "--repair", "-f", "json", code=1).json["findings"]
    assert finding["kind"] == "user_data"
    assert json.loads(value.read_text()) == {"a": 1}
    sound_now = lab.torc("fsck", 2).stdout
    assert sound_now == "sound\n"


def test_what_a_full_disk_refuses_of_a_journal_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = str(tmp_path / "spool")
    tools.submit(spool, tools.workflow({"one": Wanted(), "two": Wanted()}))
    hand = Hand(tools.open_workflow(spool))
    hand.take("one", "two")
    write, room = os.write, [10]

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(actor.os, "write", full)
        hand.actor.note({"event": "end", "id": 1, "attempt": 1, "outcome": "completed"})
    hand.finish(1, Status.COMPLETED)
    hand.finish(2, Status.COMPLETED)
    hand.leave()
    (journal,) = (tmp_path / "spool").glob("*/runners/*/journal")
    assert [line["id"] for line in _lines(journal)] == [1, 1, 2]
    assert (journal.parent / "end.json").exists()
    assert look(hand.store) == []


def test_runners_whose_records_are_lost(lab: Lab) -> None:
    lab.submit("true", "true")
    lab.run(1, "--max-parallel-jobs", 1)
    (runner,) = lab.root().glob("runners/*")
    (runner / "heartbeat").unlink()
    assert [finding.what for finding in look(lab.store())] == [f"runners/{runner.name}/heartbeat is not there"]
    (runner / "runner.json").unlink()
    assert "whose record is gone" in look(lab.store())[0].what
    shutil.rmtree(runner)
    found = lab.torc("fsck", 1, "--repair", "-f", "json", code=1).json
    said = [finding["what"] for finding in found["findings"]]
    assert said == [f"runner {runner.name} has run something, and has no record"]
    assert found["sound"] is True
    assert json.loads((runner / "end.json").read_text())["state"] == "dead"


def test_a_second_directory_of_one_id(lab: Lab) -> None:
    lab.submit("true")
    second = f"{lab.root()}.bak"
    shutil.copytree(lab.root(), second)
    done = lab.torc("fsck", 1, code=1)
    assert "1-flow.bak bears the id of this workflow too" in done.stdout
    shutil.rmtree(second)
    (lab.spool / ".ids" / "1").rmdir()
    assert lab.torc("fsck", 1, code=1).stdout.startswith("missing: .ids/1 is not there")
    lab.torc("fsck", 1, "--repair", code=1)
    sound(lab)


# -- records that never change: what they held can be told from others, or nothing can make them again


def _edit(path: str, change: Callable[[list[dict[str, object]]], None]) -> None:
    lines = _lines(Path(path))
    change(lines)
    Path(path).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


RECORDS: dict[str, tuple[Callable[[str], object], str]] = {
    "a job less": (lambda path: _edit(path, lambda lines: lines.pop()), "has the jobs of 2 ids"),
    "a circle": (lambda path: _edit(path, lambda lines: lines[0].update(depends_on=[3])), "in a circle: 1, 3, 2, 1"),
    "a stranger": (lambda path: _edit(path, lambda lines: lines[0].update(depends_on=[9])), "a job that there is not"),
    "an edge more": (lambda path: _edit(path, lambda lines: lines[2].update(depends_on=[1, 2])), "has 3 dependencies"),
    "torn": (tools.damage, "has a line that is no job"),
    "gone": (os.remove, "is missing"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_records_that_were_changed(what: str, tmp_path: Path) -> None:
    jobs = [storetools.job(1), storetools.job(2, 1), storetools.job(3, 2)]
    tree = storetools.Tree(str(tmp_path / "1-test"), jobs)
    assert look(tree.store()) == []
    change, why = RECORDS[what]
    change(f"{tree.root}/jobs.jsonl")
    found = [finding for finding in look(tree.store()) if finding.kind == "record"]
    assert any(why in finding.what for finding in found), found
    assert all(finding.fix is None for finding in found)


def test_a_record_that_was_changed_is_said_and_not_acted_on_but_put_back_where_the_rest_tells_what_it_held(
    lab: Lab,
) -> None:
    actions = [{"trigger_type": "on_workflow_complete", "action_type": "run_commands", "commands": ["true"]}]
    data = [{"name": "figures", "data": 1}]
    jobs = ("true", {"name": "next", "depends_on": ["j1"], "input_user_data": ["figures"]})
    lab.submit(*jobs, user_data=data, actions=actions)
    kept = lab.root() / "spec.json"
    for name in ("jobs.jsonl", "user_data.jsonl", "actions.jsonl", "spec.json"):
        path = lab.root() / name
        whole = path.read_text()
        path.write_text(whole.replace("1", "2") if path != kept else whole[:-1])
        (finding,) = lab.torc("fsck", 1, "--repair", "-f", "json", code=1).json["findings"]
        assert finding["what"] == f"the record {name} is not as it was submitted: its digest is another"
        if path == kept:
            assert finding["repair"] == "nothing: put it back from a copy of the spool"
            path.write_text(whole)
        assert path.read_text() == whole
        path.rename(lab.root() / "renamed")
        kinds = [each["kind"] for each in lab.torc("fsck", 1, "--repair", "-f", "json", code=1).json["findings"]]
        assert sorted(kinds) == ["foreign", "record"]
        assert path.read_text() == whole
    assert lab.torc("fsck", 1).stdout == "sound\n"
    lab.run(1)


def test_the_document_names_every_kind() -> None:
    here = Path(__file__).resolve().parent.parent
    source = "".join((here / "torc_spool" / name).read_text() for name in ("check.py", "checkrunners.py"))
    section = (here / "docs" / "spool-format.md").read_text().split("\n## Check and repair\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    made = set(re.findall(r'(?:Finding|_bad|_moved)\(\s*"(\w+)"', source))
    assert documented == made
