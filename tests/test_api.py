"""The Python API: the records, rows and errors of the command line, from a program."""

from __future__ import annotations

import enum
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import cliutil
import pytest
import yaml
from cliutil import Lab, wait_until

import torc_spool
from torc_spool import (
    Job,
    NotFound,
    Resources,
    RunnerLost,
    SpecError,
    Spool,
    StorageError,
    SubmittedWorkflow,
    UsageError,
    Workflow,
    spec,
)

lab = cliutil.lab


@pytest.fixture
def spool(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Spool:
    for name in set(os.environ) - set(lab.env):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TORC_SPOOL_DIR", str(lab.spool))
    monkeypatch.chdir(lab.cwd)
    return Spool()


def flow(*commands: str, **fields: Any) -> Workflow:
    return Workflow("flow", [Job(f"j{number}", command, **fields) for number, command in enumerate(commands, 1)])


# -- names --------------------------------------------------------------------------------------------------


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(torc_spool, name) for name in torc_spool.__all__)
    assert set(torc_spool.__all__) <= set(dir(torc_spool))
    with pytest.raises(AttributeError, match="no attribute 'Workflw'"):
        _ = torc_spool.Workflw  # type: ignore[attr-defined]


def test_the_import_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import torc_spool; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['torc_spool']\n"


# -- building -----------------------------------------------------------------------------------------------


def test_what_is_built_is_what_a_file_would_give() -> None:
    large = Resources(name="large", num_cpus=4, num_gpus=1, memory="4g", runtime=timedelta(hours=2))
    built = Workflow("w", description="d", user="u", slurm_schedulers=[{"name": "gpu", "nodes": 2}])
    first = built.job("first", "echo 1", priority=5, resources=Resources(memory=2**20))
    built.add(Job("second", "echo 2", depends_on=[first], resources=large, scheduler="gpu", supports_termination=True))
    built.add(Job("third", "echo 3", depends_on=("first", "second"), cancel_on_blocking_job_failure=False))
    text = """
        name: w
        description: d
        user: u
        slurm_schedulers: [{name: gpu, nodes: 2}]
        resource_requirements:
          - {name: large, num_cpus: 4, num_gpus: 1, memory: 4g, runtime: PT2H}
          - {name: a little, memory: 1048576}
        jobs:
          - {name: first, command: echo 1, priority: 5, resource_requirements: a little}
          - {name: second, command: echo 2, depends_on: [first], resource_requirements: large, scheduler: gpu,
             supports_termination: true}
          - {name: third, command: echo 3, depends_on: [first, second], cancel_on_blocking_job_failure: false}
    """
    assert built.check() == spec.parse(text, "w.yaml")


def test_equal_resources_are_one_requirement() -> None:
    built = Workflow("w", resource_requirements=[{"name": "resources of a", "num_cpus": 9}])
    named = Resources(name="named", num_cpus=2)
    for name, resources in [("a", Resources(num_cpus=2)), ("b", Resources(num_cpus=2)), ("c", Resources(num_cpus=3))]:
        built.job(name, "true", resources=resources)
    built.job("d", "true", resources=named)
    built.job("e", "true", resources=Resources(name="named", num_cpus=2))
    built.job("f", "true", resources="named")
    document = built.document()
    assert [item["name"] for item in document["resource_requirements"]] == [
        "resources of a",
        "resources of a 2",
        "resources of c",
        "named",
    ]
    assert [job["resource_requirements"] for job in document["jobs"]] == [
        *["resources of a 2"] * 2,
        "resources of c",
        *["named"] * 3,
    ]
    assert [job.resources.num_cpus for job in built.check().jobs] == [2, 2, 3, 2, 2, 2]


def test_a_workflow_can_be_submitted_twice_and_grow_between(spool: Spool) -> None:
    built = flow("true")
    spool.submit(built)
    built.job("more", "true", resources=Resources(num_cpus=2))
    assert len(spool.submit(built).jobs()) == 2


class Color(enum.StrEnum):
    RED = "red"


class Index:
    """As numpy's whole numbers are."""

    def __index__(self) -> int:
        return 7


def test_values_that_stand_for_plain_ones() -> None:
    job = Job(Color.RED, "true", priority=Index(), env={"A": "1"}, some_files=[{"name": "x", "path": Path("a/b")}])  # type: ignore[arg-type]
    workflow = Workflow("w", [job], runtime=timedelta(seconds=1.5), pair=(1, 2.5, None), refers=[job])
    assert json.loads(workflow.text()) == {
        "name": "w",
        "runtime": "PT2S",
        "pair": [1, 2.5, None],
        "refers": ["red"],
        "jobs": [
            {
                "name": "red",
                "command": "true",
                "priority": 7,
                "env": {"A": "1"},
                "some_files": [{"name": "x", "path": "a/b"}],
            }
        ],
    }


def circle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("command", Path("run.sh"), "is a path, 'run.sh', and must be text; write str(...)"),
        ("priority", float("nan"), "nan is no number that a specification can hold"),
        ("priority", 10**5000, "is too large a number; put it in quotes"),
        ("env", {1: "x"}, "the key 1 must be text; put it in quotes"),
        ("command", {"a"}, "is a set; make it a list"),
        ("command", object(), "is a object, which no specification can hold; make it text or a number"),
        ("command", b"true", "is a bytes, which no specification can hold; make it text or a number"),
        ("command", "\ud800", "holds what is not UTF-8 text; remove it"),
        ("grace", timedelta(1), "is a timedelta, which only runtime may be; write it as text"),
    ],
    ids=["path", "nan", "large", "key", "set", "object", "bytes", "surrogate", "timedelta"],
)
def test_what_no_file_could_hold_is_refused_with_its_place(field: str, value: Any, complaint: str) -> None:
    workflow = Workflow("w", [Job(**{"name": "a", "command": "true", field: value})])
    with pytest.raises(SpecError) as raised:
        workflow.check()
    assert str(raised.value) == f"workflow 'w': job 'a': {field}: {complaint}"


def test_a_value_that_holds_itself_is_refused() -> None:
    with pytest.raises(SpecError, match="hold themselves"):
        Workflow("w", [], metadata=circle()).document()


def test_resources_are_given_once() -> None:
    with pytest.raises(SpecError, match="give one of them"):
        Job("a", "true", resources=Resources(num_cpus=2), resource_requirements="x")


BAD: dict[str, Callable[[], Workflow]] = {
    "no jobs": lambda: Workflow("w"),
    "empty name": lambda: Workflow("", [Job("a", "true")]),
    "name that is no text": lambda: Workflow(3, [Job("a", "true")]),  # type: ignore[arg-type]
    "no job's name": lambda: Workflow("w", [Job(None, "true")]),  # type: ignore[arg-type]
    "empty command": lambda: Workflow("w", [Job("a", " ")]),
    "unknown field": lambda: Workflow("w", [Job("a", "true", priorty=1)]),
    "unknown field of the workflow": lambda: Workflow("w", [Job("a", "true")], descripton="x"),
    "unknown field of resources": lambda: Workflow("w", [Job("a", "true", resources=Resources(cpus=2))]),
    "wrong type": lambda: Workflow("w", [Job("a", "true", priority="high")]),  # type: ignore[arg-type]
    "priority out of range": lambda: Workflow("w", [Job("a", "true", priority=-1)]),
    "dependencies that are no list": lambda: Workflow("w", [Job("a", "true", depends_on="b")]),
    "unknown dependency": lambda: Workflow("w", [Job("a", "true", depends_on=["b"])]),
    "a job of another workflow": lambda: Workflow("w", [Job("a", "true", depends_on=[Job("elsewhere", "true")])]),
    "itself": lambda: Workflow("w", [Job("a", "true", depends_on=["a"])]),
    "circle": lambda: Workflow("w", [Job("a", "true", depends_on=["b"]), Job("b", "true", depends_on=["a"])]),
    "twice": lambda: Workflow("w", [Job("a", "true"), Job("a", "true")]),
    "unknown requirement": lambda: Workflow("w", [Job("a", "true", resources="large")]),
    "unknown scheduler": lambda: Workflow("w", [Job("a", "true", scheduler="gpu")]),
    "memory": lambda: Workflow("w", [Job("a", "true", resources=Resources(memory="4 gigs"))]),
    "runtime": lambda: Workflow("w", [Job("a", "true", resources=Resources(runtime=timedelta(0)))]),
    "two of one name": lambda: Workflow(
        "w", [Job(f"j{cpus}", "true", resources=Resources(name="r", num_cpus=cpus)) for cpus in (1, 2)]
    ),
    "not a job": lambda: Workflow("w", ["true"]),  # type: ignore[list-item]
    "scheduler with an empty name": lambda: Workflow("w", [Job("a", "true")], slurm_schedulers=[{"name": ""}]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_the_words_of_the_file_reader(case: str, spool: Spool) -> None:
    workflow = BAD[case]()
    text = yaml.safe_dump(workflow.document(), sort_keys=False)
    with pytest.raises(SpecError) as of_the_file:
        spec.parse(text, "file.yaml")
    with pytest.raises(SpecError) as of_the_api:
        spool.submit(workflow)
    assert (of_the_api.value.where, of_the_api.value.message) == (of_the_file.value.where, of_the_file.value.message)
    assert of_the_api.value.source == workflow.source
    assert not os.path.exists(spool.path)


def test_a_workflow_from_a_file_can_be_added_to(spool: Spool, lab: Lab) -> None:
    path = lab.spec("true", {"name": "next", "depends_on": ["j1"]})
    workflow = Workflow.from_file(path)
    assert workflow.check() == spec.load(str(path))[0]
    workflow.job("last", "true", depends_on=["next"], resources=Resources(num_cpus=2))
    assert [row["name"] for row in spool.submit(workflow).jobs()] == ["j1", "next", "last"]


def test_a_file_may_leave_the_jobs_to_the_program(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text("name: w\ndescription: d")
    workflow = Workflow.from_file(path)
    with pytest.raises(SpecError, match=r"flow\.yaml: jobs: is empty"):
        workflow.check()
    workflow.job("a", "true")
    assert (workflow.check().description, workflow.name) == ("d", "w")


@pytest.mark.parametrize("text", ["", "- a", "name: x\njobs: 3", "jobs: [", "name: {}\njobs: [a]"])
def test_a_bad_file_gets_the_words_of_the_file_reader(text: str, tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as of_the_file:
        spec.load(str(path))
    with pytest.raises(SpecError) as of_the_api:
        Workflow.from_file(path).check()
    assert str(of_the_api.value) == str(of_the_file.value)


# -- submit, look, change -----------------------------------------------------------------------------------


def test_rows_are_those_of_the_command_line(spool: Spool, lab: Lab) -> None:
    run = spool.submit(flow("echo out; echo err >&2; exit 3", "true", priority=4))
    assert run.run(num_cpus=1).exit_code == 1
    assert run.status() == lab.torc("-f", "json", "status", run.id).json
    assert run.jobs() == lab.torc("-f", "json", "jobs", "list", run.id).json
    assert run.job("j1") == lab.torc("-f", "json", "jobs", "show", run.id, "j1").json
    assert run.results() == lab.torc("-f", "json", "results", "list", run.id).json
    assert [row["name"] for row in run.jobs(statuses="failed")] == ["j1"]
    assert (run.logs("j1"), run.logs("j1", stream="stderr")) == ("out\n", "err\n")
    lab.check(run.id)


def test_jobs_run_where_the_submit_says(spool: Spool, lab: Lab) -> None:
    elsewhere = lab.base / "elsewhere"
    elsewhere.mkdir()
    run = spool.submit(flow("pwd"), cwd=elsewhere, output_dir="out")
    assert run.run().ok
    assert run.logs("j1") == f"{elsewhere}\n"
    assert Path(run.job("j1")["stdout"]).parent == lab.cwd / "out"


def test_the_whole_language_is_there(spool: Spool, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "torc_spool")
    workflow = Workflow(
        "w",
        env={"GREETING": "hello"},
        files=[{"name": "given", "path": Path("given.txt")}, {"name": "made", "path": lab.cwd / "made.txt"}],
    )
    make = workflow.job("make", "echo $GREETING > made.txt", input_files=["given"], output_files=["made"])
    make.fields["stdio"] = {"mode": "no_stderr"}
    workflow.job("use_{i}", "cat made.txt", input_files=["made"], parameters={"i": "1:2"}, stdio={"mode": "combined"})
    with pytest.raises(SpecError, match=r"workflow 'w': .*given\.txt"):
        spool.submit(workflow)
    run = spool.submit(workflow, ignore_missing_data=True)
    assert run.run(num_cpus=2).recorded == {"completed": 3}
    assert run.logs("use_2") == "hello\n"
    assert run.logs("use_2", stream="stderr") == "hello\n"
    with pytest.raises(NotFound, match="job make has no stderr of its attempt 1: it was "):
        run.logs(make, stream="stderr")
    assert run.job("use_1")["depends_on"] == [make.name]
    assert caplog.text == "" or "workflow 'w': " in caplog.text


def test_workflows_are_found_again(spool: Spool) -> None:
    for number in (1, 2):
        assert spool.submit(flow("true")).id == number
    assert [each.id for each in Spool(Path(spool.path)).workflows()] == [1, 2]
    assert spool.workflow(2).status()["total"] == 1
    with pytest.raises(NotFound, match="no workflow 3"):
        spool.workflow(3)
    with pytest.raises(UsageError, match="path is empty"):
        Spool("")
    with pytest.raises(UsageError, match=r"give Workflow\.from_file\('flow.yaml'\)"):
        spool.submit("flow.yaml")  # type: ignore[arg-type]
    spool.workflow(1).delete()
    with pytest.raises(NotFound):
        spool.workflow(1)


def test_changes_say_what_became_of_each_job(spool: Spool) -> None:
    jobs = [Job(name, "true") for name in "abc"]
    run = spool.submit(Workflow("w", jobs))
    assert [tuple(change) for change in run.hold(jobs[0])] == [(1, "a", True, "held")]
    assert [change.what for change in run.release(["a"])] == ["ready"]
    assert [change.what for change in run.set_priority(["b", 3], 9)] == ["priority 9"] * 2
    assert [row["priority"] for row in run.jobs()] == [0, 9, 9]
    assert [change.done for change in run.cancel("c")] == [True]
    assert run.recover() == []
    with pytest.raises(NotFound, match="did you mean"):
        run.hold(["aa"])
    with pytest.raises(UsageError):
        run.set_priority("a", -1)
    with pytest.raises(NotFound, match="has no running runner"):
        run.stop("nobody")


def test_an_empty_list_of_jobs_means_none_of_them(spool: Spool) -> None:
    run = spool.submit(flow("true", "false"))
    before = run.jobs()
    nobody: list[str] = []
    for change in (run.hold, run.release, run.cancel, run.retry):
        assert change(nobody) == []
    assert run.set_priority(nobody, 5) == []
    assert run.jobs() == before
    assert len(run.hold()) == 2


def test_logs_that_are_not_there(spool: Spool) -> None:
    run = spool.submit(flow("echo 1"))
    with pytest.raises(NotFound, match="job j1 has no output: it is ready"):
        run.logs("j1")
    run.run()
    assert run.logs("j1", attempt=1) == "1\n"
    with pytest.raises(NotFound, match="has no output of an attempt 2"):
        run.logs("j1", attempt=2)
    path = Path(run.job("j1")["stdout"])
    path.unlink()
    with pytest.raises(NotFound, match="no longer there"):
        run.logs("j1")
    path.mkdir()
    with pytest.raises(StorageError):
        run.logs("j1")


# -- run ----------------------------------------------------------------------------------------------------


def test_a_result_says_what_is_left(spool: Spool, lab: Lab) -> None:
    run = spool.submit(flow("true", "true", resources=Resources(num_cpus=2)))
    result = run.run(num_cpus=1, output_dir=Path("out"), time_limit="PT1H", grace=1, scheduler=None)  # type: ignore[typeddict-item]
    assert result == (3, run.id, {}, result.left, [])
    assert result.left[0] == {
        "workflow_id": run.id,
        "id": 1,
        "name": "j1",
        "reason": "needs 2 cpus, the runner has 1",
    }
    shown = lab.torc("-f", "json", "run", run.id, "--num-cpus", 1, code=3).json
    assert shown == result._asdict()
    assert not result.ok
    assert run.run(num_cpus=1, max_parallel_jobs=1, time_limit=timedelta(hours=1)).ok


def test_all_workflows_of_a_spool_are_run(spool: Spool) -> None:
    runs = [spool.submit(flow("true")) for _ in range(2)]
    result = spool.run(max_parallel_jobs=1)
    assert (result.workflow_id, result.recorded) == (None, {"completed": 2})
    assert all(run.status()["finished"] for run in runs)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_cpus": 0}, "num_cpus: must be a whole number from 1, got 0"),
        ({"num_cpus": True}, "num_cpus: must be a whole number from 1, got True"),
        ({"num_gpus": 1.5}, "num_gpus: must be a whole number from 0, got 1.5"),
        ({"memory_gb": float("inf")}, "memory_gb: must be a number of GiB, more than 0, got inf"),
        ({"grace": -1}, "grace: must be a number of seconds, 0 or more, got -1"),
        ({"any_scheduler": "yes"}, "any_scheduler: must be True or False, got 'yes'"),
        ({"scheduler": " "}, "scheduler: must be a scheduler's name, or its number from 1, got ' '"),
        ({"time_limit": 0}, None),
        ({"time_limit": "2 hours"}, None),
        ({"cpus": 2}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_make_no_sense_start_no_runner(spool: Spool, options: Any, complaint: str | None) -> None:
    run = spool.submit(flow("true"))
    with pytest.raises(UsageError) as raised:
        run.start(**options)
    (name,) = options
    assert str(raised.value).startswith(f"{name}: ")
    assert complaint is None or str(raised.value) == complaint
    assert run.status()["runners"] == []


def test_errors_of_the_runner_are_raised_here(spool: Spool) -> None:
    run = spool.submit(flow("true"))
    with pytest.raises(NotFound, match="has no scheduler 'gpu'"):
        run.run(scheduler="gpu")
    os.chmod(spool.path, 0o777)
    with pytest.raises(torc_spool.UntrustedSpool) as raised:
        run.run()
    assert raised.value.path == spool.path
    assert raised.value.hint in str(raised.value)
    assert SubmittedWorkflow(Spool(spool.path, allow_shared=True), run.id).run().ok


def test_a_runner_that_is_killed_is_lost_and_its_work_is_taken_back(spool: Spool, lab: Lab) -> None:
    gate = lab.gate()
    run = spool.submit(flow(gate.wait))
    runner = run.start(num_cpus=1)
    gate.await_jobs("j1")
    assert runner.is_running
    os.kill(runner.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RunnerLost, match="was killed by signal 9") as raised:
            runner.wait(cliutil.TIMEOUT_S)
        assert raised.value.return_code == -9
    assert not runner.is_running
    assert [row["job"] for row in run.recover(dry_run=True)] == [1]
    gate.open()
    assert run.run().ok


def test_waiting_has_an_end(spool: Spool, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    gate = lab.gate()
    run = spool.submit(flow(gate.wait))
    told: list[str] = []
    assert not run.wait(timeout=0, tell=told.append)["finished"]
    assert told == [f"no runner is at work; start one with: torc-spool run {run.id}"]
    with run.start(num_cpus=1) as runner:
        gate.await_jobs("j1")
        assert not run.wait(timeout=0, poll=0.01)["finished"]
        with pytest.raises(TimeoutError, match="has not ended after 0 s"):
            runner.wait(timeout=0)
        gate.open()
        assert run.wait(poll=0.01)["jobs"]["completed"] == 1
        assert runner.wait().ok


def test_who_waits_for_what_is_deleted_is_told(spool: Spool) -> None:
    run = spool.submit(flow("true"))

    def delete(_line: str) -> None:
        run.delete()

    with pytest.raises(NotFound, match="was deleted"):
        run.wait(tell=delete, poll=0.01)


def inside(monkeypatch: pytest.MonkeyPatch, left_s: int) -> None:
    """As if this process ran in an allocation of Slurm."""
    monkeypatch.setenv("SLURM_JOB_ID", "80")
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + left_s))


def test_in_an_allocation_a_runner_claims_only_what_can_end_before_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, 1800)
    jobs = [Job(name, "true", resources=Resources(runtime=runtime)) for name, runtime in (("a", "PT1M"), ("b", "PT1H"))]
    result = spool.submit(Workflow("flow", jobs)).run(num_cpus=1)
    assert (result.exit_code, result.recorded) == (3, {"completed": 1})
    assert result.left[0]["reason"].startswith("may run for 3600 s, the runner has ")


@pytest.mark.parametrize("in_allocation", [False, True])
def test_a_runner_is_stopped_at_the_end_of_its_block(
    spool: Spool, lab: Lab, monkeypatch: pytest.MonkeyPatch, in_allocation: bool
) -> None:
    if in_allocation:
        inside(monkeypatch, 3600)
    gate = lab.gate()
    run = spool.submit(flow(gate.wait))
    said: list[str] = []
    with run.start(num_cpus=1, tell=said.append, grace=0) as runner:
        gate.await_jobs("j1")
    assert runner.wait().exit_code == 4
    assert run.job("j1")["status"] == "terminated"
    assert any("SIGINT: jobs have 0 s to end" in line for line in said)


def test_a_program_that_ignores_ctrl_c_can_stop_its_runner(spool: Spool, lab: Lab) -> None:
    """As one does that a script has started with `&`."""
    gate = lab.gate()
    run = spool.submit(flow(gate.wait))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with run.start(num_cpus=1, grace=0) as runner:
            gate.await_jobs("j1")
        assert runner.wait().exit_code == 4
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_runners_say_is_logged_and_not_printed(
    spool: Spool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "torc_spool")
    spool.submit(flow("exit 7")).run()
    assert any("return code 7" in record.getMessage() for record in caplog.records)
    assert capfd.readouterr() == ("", "")


def test_a_listener_that_fails_does_not_stop_the_runner(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    def fail(line: str) -> None:
        raise ValueError(line)

    assert spool.submit(flow("exit 7", "true")).run(tell=fail).recorded == {"failed": 1, "completed": 1}
    assert "could not be told" in caplog.text


def test_runs_in_threads_do_not_meet(spool: Spool) -> None:
    runs = [spool.submit(flow("true", "true")) for _ in range(3)]
    results: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda run=run: results.update({run.id: run.run(num_cpus=1)})) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[run.id].recorded == {"completed": 2} for run in runs)


def _run_it(run: SubmittedWorkflow) -> int:
    return run.run(num_cpus=1).exit_code


def test_runs_under_multiprocessing(spool: Spool) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_run_it, [spool.submit(flow("true")), spool.submit(flow("false"))]) == [0, 1]


def test_a_child_of_the_program_is_left_to_it(spool: Spool) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 5"])
    assert spool.submit(flow("true")).run().ok
    assert child.wait() == 5


PROGRAM = """
import sys
from torc_spool import Spool
run = Spool().workflow(1)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def program(lab: Lab, call: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(call=call)],
        cwd=lab.cwd,
        env=lab.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupt_reaches_the_runner_and_its_end_is_awaited(spool: Spool, lab: Lab) -> None:
    gate = lab.gate()
    run = spool.submit(flow(gate.wait))
    process = program(lab, "run.run(num_cpus=1)")
    gate.await_jobs("j1")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=cliutil.TIMEOUT_S) == ("interrupted\n", "")
    assert run.job("j1")["status"] == "terminated"
    assert [row["state"] for row in run.status()["runners"]] == ["ended"]


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_runner_outlives_the_program_that_started_it(spool: Spool, lab: Lab, end: str) -> None:
    gate = lab.gate()
    run = spool.submit(flow(gate.wait, "exit 1"))
    process = program(lab, "run.run(num_cpus=2)" if end == "kill" else "runner = run.start(num_cpus=2)")
    if end == "kill":
        gate.await_jobs("j1")
        process.kill()
    out, err = process.communicate(timeout=cliutil.TIMEOUT_S)
    assert (out, err) == ("", "")
    gate.await_jobs("j1")
    gate.open()
    assert run.wait(poll=0.05)["jobs"]["completed"] == 1
    wait_until(lambda: run.status()["runners"][0]["state"] == "ended", "the runner has ended")


# -- change and go on, user data, actions, the plan ---------------------------------------------------------------


def test_what_changed_runs_again(spool: Spool, lab: Lab) -> None:
    made = Workflow("flow", [Job("a", "echo a"), Job("b", "echo b", depends_on=["a"]), Job("c", "true")])
    submitted = spool.submit(made)
    assert submitted.run(num_cpus=1).ok
    assert submitted.reinitialize() == []
    made.jobs[0] = Job("a", "echo other")
    assert [row["name"] for row in submitted.reinitialize(made, dry_run=True)] == ["a", "b"]
    assert lab.states() == dict.fromkeys("abc", "completed")
    rows = submitted.reinitialize(made)
    assert [(row["name"], row["status"]) for row in rows] == [("a", "completed"), ("b", "completed")]
    assert all(row["reasons"] for row in rows)
    assert submitted.run(num_cpus=1).ok
    assert submitted.logs("a") == "other\n"
    assert {row["name"] for row in submitted.reset_status()} == {"a", "b", "c"}
    assert submitted.reset_status(failed=True) == []


def test_inputs_are_known_by_their_content(spool: Spool, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("1")
    made = Workflow("flow", [Job("a", "true", input_files=["x"])], files=[{"name": "x", "path": given}])
    submitted = spool.submit(made, hash_inputs=True)
    assert submitted.run(num_cpus=1).ok
    os.utime(given, (1, 1))
    assert [row["name"] for row in submitted.reinitialize(dry_run=True)] == ["a"]
    assert submitted.reinitialize(by_content=True) == []


def test_user_data_is_read_and_set(spool: Spool) -> None:
    submitted = spool.submit(
        Workflow("flow", [Job("a", "true", input_user_data=["x"])], user_data=[{"name": "x", "data": {"n": 1}}])
    )
    assert submitted.user_data("x") == {"n": 1}
    submitted.set_user_data("x", [1, None, "é"])
    assert submitted.user_data("x") == [1, None, "é"]
    with pytest.raises(UsageError, match="user data x: "):
        submitted.set_user_data("x", object())
    with pytest.raises(NotFound, match="no user data 'y'"):
        submitted.user_data("y")


def test_actions_and_the_plan_are_shown(spool: Spool) -> None:
    start = {"trigger_type": "on_workflow_start", "action_type": "run_commands", "commands": ["echo >> started"]}
    jobs = [Job("a", "true"), Job("b", "true", depends_on=["a"])]
    submitted = spool.submit(Workflow("flow", jobs, actions=[start]))
    assert [row["state"] for row in submitted.actions()] == ["waiting"]
    plan = submitted.plan()
    assert (plan["id"], plan["name"], len(plan["stages"])) == (1, "flow", 2)
    assert submitted.run(num_cpus=1).ok
    assert [row["state"] for row in submitted.actions()] == ["done"]
    submitted.repeat_action(1)
    assert [row["state"] for row in submitted.actions()] == ["waiting"]
    with pytest.raises(NotFound):
        submitted.repeat_action(2)


def test_fsck_says_what_is_wrong(spool: Spool, lab: Lab) -> None:
    submitted = spool.submit(flow("true"))
    assert submitted.fsck() == []
    lab.file("j1").unlink()
    assert [row["job"] for row in submitted.fsck()] == [1]
