"""`reinitialize` and `reset-status` as commands, with real runners and real files."""

from __future__ import annotations

import os
from pathlib import Path

import cliutil
import msgspec
import pytest
from cliutil import Lab

from torc_spool import fingerprints
from torc_spool.model import Job, Status, WorkflowSpec
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

lab = cliutil.lab


def submit(lab: Lab, *jobs: Job, hash_inputs: bool = False) -> None:
    """Jobs that say which files they read and write."""
    spec = WorkflowSpec(name="flow", jobs=tuple(jobs))
    Spool(str(lab.spool)).submit(spec, Verbatim(b"{}"), cwd=str(lab.cwd), hash_inputs=hash_inputs)


def copies(lab: Lab, *, hash_inputs: bool = False) -> None:
    """raw -> a -> b -> c, beside d, which reads another file; all has run."""
    for name in ("raw", "other"):
        (lab.cwd / name).write_text(f"{name}\n")
    submit(
        lab,
        Job(id=1, name="a", command="cp raw a.out", input_files=("raw",), output_files=("a.out",)),
        Job(id=2, name="b", command="cp a.out b.out", depends_on=(1,), input_files=("a.out",), output_files=("b.out",)),
        Job(id=3, name="c", command="cp b.out c.out", depends_on=(2,), input_files=("b.out",), output_files=("c.out",)),
        Job(id=4, name="d", command="cp other d.out", input_files=("other",), output_files=("d.out",)),
        hash_inputs=hash_inputs,
    )
    lab.run(1)


def attempts(lab: Lab) -> dict[str, int]:
    return {name: row["attempt"] for name, row in lab.jobs().items()}


def again(lab: Lab, *options: object) -> dict[str, list[str]]:
    """What a dry run shows; doing it shows the same."""
    shown = lab.torc("reinitialize", 1, *options, "--dry-run", "-f", "json").json
    assert shown["dry_run"] is True
    done = lab.torc("reinitialize", 1, *options, "-f", "json").json
    assert done == {**shown, "dry_run": False}
    return {job["name"]: job["reasons"] for job in shown["jobs"]}


def test_nothing_changed_nothing_to_do(lab: Lab) -> None:
    copies(lab)
    done = lab.torc("reinitialize", 1)
    assert (done.stdout, done.stderr) == ("nothing to do\n", "")
    assert lab.torc("reset-status", 1, "--failed").stdout == "nothing to do\n"


def test_only_what_follows_a_changed_input_runs_again(lab: Lab) -> None:
    copies(lab)
    (lab.cwd / "raw").write_text("corrected\n")
    assert again(lab) == {
        "a": ["input raw has changed"],
        "b": ["'a', which it waits for, runs again"],
        "c": ["'b', which it waits for, runs again"],
    }
    lab.run(1)
    assert attempts(lab) == {"a": 2, "b": 2, "c": 2, "d": 1}
    assert (lab.cwd / "c.out").read_text() == "corrected\n"
    assert again(lab) == {}
    lab.check()


def test_only_what_follows_a_missing_output_runs_again(lab: Lab) -> None:
    copies(lab)
    (lab.cwd / "b.out").unlink()
    shown = again(lab)
    assert list(shown) == ["b", "c"]
    assert shown["b"] == ["output b.out does not exist"]
    assert "input b.out is gone" in shown["c"]
    lab.run(1)
    assert attempts(lab) == {"a": 1, "b": 2, "c": 2, "d": 1}


def test_with_sums_a_touched_input_is_no_change(lab: Lab) -> None:
    copies(lab, hash_inputs=True)
    os.utime(lab.cwd / "raw", ns=(1, 1))
    assert again(lab, "--hash") == {}
    (lab.cwd / "other").write_text("OTHER\n")
    assert again(lab, "--hash") == {"d": ["the content of input other has changed"]}


def test_without_sums_size_and_time_tell(lab: Lab) -> None:
    copies(lab)
    os.utime(lab.cwd / "other", ns=(1, 1))
    assert again(lab, "--hash") == {"d": ["input other has changed (by size and time: no sum was recorded)"]}


@pytest.mark.parametrize("command", ["submit", "run"])
def test_sums_are_asked_for_at_submit(lab: Lab, command: str) -> None:
    lab.torc(command, lab.spec("true"), "--hash-inputs")
    assert lab.store().workflow.hash_inputs


def test_a_command_is_changed_by_the_specification(lab: Lab) -> None:
    first = lab.spec({"name": "a", "command": "echo 1 > out"}, {"name": "b", "command": "cat out", "depends_on": ["a"]})
    lab.run(first)
    changed = lab.spec(
        {"name": "a", "command": "echo 2 > out"}, {"name": "b", "command": "cat out", "depends_on": ["a"]}
    )
    done = lab.torc("reinitialize", 1, changed)
    assert done.stdout.splitlines() == [
        "a (completed): its command has changed",
        "b (completed): 'a', which it waits for, runs again",
        "2 jobs changed",
    ]
    lab.run(1)
    assert (lab.cwd / "out").read_text() == "2\n"
    assert lab.job("a")["command"] == "echo 2 > out"
    assert lab.torc("reinitialize", 1, changed).stdout == "nothing to do\n"


def test_a_job_that_needed_more_memory_is_given_it(lab: Lab) -> None:
    def needing(memory: str) -> Path:
        needs = [{"name": "r", "memory": memory}]
        job = {"name": "a", "command": "test -e enough", "resource_requirements": "r"}
        return lab.spec(job, resource_requirements=needs)

    lab.run(needing("100m"), code=1)
    (lab.cwd / "enough").touch()
    shown = again(lab, needing("200m"))
    assert shown == {"a": ["its resources have changed"]}
    (name,) = lab.ls("ready/any")
    assert "m200t" in name
    lab.run(1)


def test_a_runner_that_waits_for_work_runs_the_new_definition(lab: Lab) -> None:
    lab.run(lab.spec({"name": "a", "command": "echo 1 > out"}))
    runner = lab.start("run", "--wait-for-new-jobs", 3600)
    lab.torc("reinitialize", 1, lab.spec({"name": "a", "command": "echo 2 > out"}))
    lab.await_states(a="completed")
    cliutil.wait_until(lambda: attempts(lab) == {"a": 2} and lab.states() == {"a": "completed"}, "it has run again")
    assert (lab.cwd / "out").read_text() == "2\n"
    runner.signal(15)
    runner.wait(None)


def test_a_specification_with_other_jobs_is_refused_in_one_sentence(lab: Lab) -> None:
    lab.run(lab.spec("true"))
    before = {path: path.read_bytes() for path in lab.root().rglob("*") if path.is_file()}
    refused = lab.torc("reinitialize", 1, lab.spec("true", "true"), code=2)
    assert refused.sentence() == (
        "job 'j2' is not among the jobs that were submitted; which jobs there are cannot change; "
        "submit it as a new workflow"
    )
    after = {path: path.read_bytes() for path in lab.root().rglob("*") if path.is_file()}
    assert after == before


def test_the_whole_is_refused_while_a_job_runs_that_would_have_to_wait(lab: Lab) -> None:
    gate = lab.gate()
    submit(
        lab,
        Job(id=1, name="a", command="touch out", output_files=("out",)),
        Job(id=2, name="b", command=gate.wait, depends_on=(1,)),
        Job(id=3, name="alone", command="touch alone", output_files=("alone",)),
    )
    runner = lab.start("run", 1)
    gate.await_jobs("b")
    lab.await_states(alone="completed")
    (lab.cwd / "out").unlink()
    (lab.cwd / "alone").unlink()
    before = {path for path in lab.root().rglob("*.json") if "runners" not in path.parts}
    for options in ((), ("--dry-run",)):
        refused = lab.torc("reinitialize", 1, *options, code=2)
        assert "job 'b' is running in the hands of" in refused.sentence()
        assert "which is to run again. Wait until it has ended" in refused.sentence()
    assert {path for path in lab.root().rglob("*.json") if "runners" not in path.parts} == before
    gate.open()
    runner.wait()
    assert set(again(lab)) == {"a", "b", "alone"}


def test_all_is_reset(lab: Lab) -> None:
    lab.run(lab.spec("true", "false"), code=1)
    assert (
        lab.torc("reset-status", 1, "--failed-only", "--dry-run").stdout
        == "j2 (failed): it is failed\n1 job would change\n"
    )
    assert lab.torc("reset-status", 1).stdout.splitlines()[-1] == "2 jobs changed"
    assert lab.states() == {"j1": "ready", "j2": "ready"}
    lab.run(1, code=1)
    assert attempts(lab) == {"j1": 2, "j2": 2}


def test_fingerprints_are_of_what_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("abc")
    (tmp_path / "directory").mkdir()
    found = fingerprints.take(["file", "missing", "directory", "bad\0name"], str(tmp_path), hashed=True)
    assert set(found) == {"file", "directory"}
    size, _, content = found["file"]
    assert (size, content) == (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert found["directory"][2] is None
    assert fingerprints.take([str(tmp_path / "file")], "/", hashed=False)[str(tmp_path / "file")][2] is None


def test_a_job_without_inputs_records_none(lab: Lab) -> None:
    lab.run(lab.spec("true"))
    content = msgspec.json.decode(lab.file("j1").read_bytes(), type=Job)
    assert content.attempts[0].inputs == {}
    assert content.attempts[0].outcome is Status.COMPLETED
    assert b'"inputs"' not in lab.file("j1").read_bytes()


def test_one_file_that_cannot_be_read_leaves_all_as_it_was_and_says_what_mends_it(lab: Lab) -> None:
    lab.submit("true", {"name": "next", "depends_on": ["j1"]})
    lab.run(1)
    file = lab.file("j1")
    whole = file.read_bytes()
    for words, content, why in (
        ("reinitialize", whole[:30], "is no job's JSON"),
        ("reset-status", whole.split(b'"attempts"')[0] + b'"attempts":[]}', "without a result of its attempt"),
    ):
        file.write_bytes(content)
        said = lab.torc(words, 1, code=2).sentence()
        assert str(file) in said
        assert why in said
        assert "nothing was done: mend it first with torc-spool fsck 1 --repair, then" in said
    assert lab.states() == {"j1": "completed", "next": "completed"}
    lab.torc("fsck", 1, "--repair", code=1)
    lab.torc("reinitialize", 1)
    lab.run(1)
    assert attempts(lab) == {"j1": 2, "next": 2}
