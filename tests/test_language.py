"""What the fields of the language become, and what is wrong with them: parameters, handlers, actions and the rest."""

from __future__ import annotations

import builtins
import itertools
import json
import os
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectools import document, names, only, read, refused, waits

from torc_spool import json5file, sortkeys, specsummary
from torc_spool.errors import SpecError
from torc_spool.model import (
    Action,
    FailureHandler,
    Needs,
    Rule,
    Stdio,
    StdioMode,
    Trigger,
    UserData,
)
from torc_spool.naming import job_name, user_data_files
from torc_spool.spec import parse

LAW = settings(deadline=None)
SCHEDULERS = [{"name": "gpu", "account": "mine"}]


def row(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


# -- parameters ----------------------------------------------------------------------------------------------------


def test_a_job_becomes_one_for_each_combination() -> None:
    spec = read(row("j_{a:02d}_{b}", command="run {a} {b} {c} ${a}", parameters={"a": "1:2", "b": "['x','y']"}))
    assert names(spec) == ["j_01_x", "j_01_y", "j_02_x", "j_02_y"]
    assert spec.jobs[0].command == "run 1 x {c} ${a}"
    assert [job.id for job in spec.jobs] == [1, 2, 3, 4]


def test_zip_pairs_values_also_of_shared_parameters() -> None:
    spec = read(
        row("{a}{b}", use_parameters=["a"], parameters={"b": "['x','y']"}, parameter_mode="zip"),
        parameters={"a": "[1,2]"},
    )
    assert names(spec) == ["1x", "2y"]


def test_own_parameters_win_over_the_workflows() -> None:
    spec = read(row("j_{a}_{b}", use_parameters=["a", "b"], parameters={"a": [7]}), parameters={"a": "1:9", "b": "1:2"})
    assert names(spec) == ["j_7_1", "j_7_2"]
    assert names(read(row("j_{a}"), parameters={"a": "1:2"})) == ["j_{a}"], "nobody has them unasked"


def test_every_text_of_a_job_has_its_values() -> None:
    spec = read(
        row(
            "j_{p}",
            command="${files.input.in_{p}}",
            invocation_script="#{p}",
            env={"P": "<{p}>", "N": 1},
            resource_requirements="r_{p}",
            scheduler="s_{p}",
            failure_handler="h_{p}",
            depends_on=["first_{p}"],
            depends_on_regexes=["^second_{p}$"],
            input_user_data=["d_{p}"],
            output_file_regexes=["^out_{p}"],
            parameters={"p": "[1,2]"},
        ),
        row("first_{p}", parameters={"p": "1:2"}),
        row("second_1"),
        row("second_2"),
        files=[
            {"name": "in_{p}", "path": "in/{p}.csv", "parameters": {"p": "1:2"}},
            {"name": "out_1", "path": "1"},
            {"name": "out_2", "path": "2"},
        ],
        user_data=[{"name": "d_{p}", "data": {"of_{p}": ["{p}", 5]}, "parameters": {"p": "1:2"}}],
        resource_requirements=[{"name": "r_1"}, {"name": "r_2", "num_cpus": 2}],
        slurm_schedulers=[{"name": "s_1"}, {"name": "s_2"}],
        failure_handlers=[{"name": f"h_{n}", "rules": [{"exit_codes": [n]}]} for n in (1, 2)],
    )
    second = spec.jobs[1]
    assert (second.name, second.command, second.invocation_script) == ("j_2", "in/2.csv", "#2")
    assert second.env == {"P": "<2>", "N": "1"}
    assert (second.resources.num_cpus, second.scheduler, second.failure_handler) == (2, "s_2", "h_2")
    assert waits(spec)["j_2"] == ["first_2", "second_2"]
    assert (second.input_files, second.output_files, second.input_user_data) == (("in/2.csv",), ("2",), ("d_2",))
    assert spec.user_data == (
        UserData(name="d_1", data={"of_1": ["1", 5]}),
        UserData(name="d_2", data={"of_2": ["2", 5]}),
    )


def test_a_job_waits_for_the_one_of_its_own_values() -> None:
    both = {"parameters": {"x": "['p','q']", "n": "1:2"}}
    spec = read(row("make_{x}_{n}", **both), row("use_{x}_{n}", depends_on=["make_{x}_{n}"], **both))
    assert all(waits(spec)[f"use_{x}_{n}"] == [f"make_{x}_{n}"] for x, n in itertools.product("pq", "12"))


def test_several_of_one_name_are_one_job_that_waits_for_all() -> None:
    spec = read(
        row("train_{d}_{m}", output_files=["f_{d}_{m}"], use_parameters=["d", "m"]),
        row(
            "report_{d}",
            command="report {d}",
            depends_on=["train_{d}_{m}"],
            input_files=["f_{d}_{m}"],
            use_parameters=["d", "m"],
        ),
        row("all", depends_on_regexes=["^report_{d}$"], use_parameters=["d", "m"]),
        parameters={"d": "['x','y']", "m": "1:3"},
        files=[{"name": "f_{d}_{m}", "path": "o/{d}/{m}", "use_parameters": ["d", "m"]}],
    )
    assert len(spec.jobs) == 6 + 2 + 1
    assert waits(spec)["report_y"] == ["train_y_1", "train_y_2", "train_y_3"]
    assert spec.jobs[7].input_files == ("o/y/1", "o/y/2", "o/y/3")
    assert waits(spec)["all"] == ["report_x", "report_y"]


def test_a_job_of_many_values_is_united_in_linear_time() -> None:
    spec = read(row("j_{n}", parameters={"n": "1:30000"}), row("z", depends_on=["j_{n}"], parameters={"n": "1:30000"}))
    assert spec.jobs[-1].depends_on == tuple(range(1, 30_001))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"command": "run {n}"}, "job 'a': command: the values of n make several of this name, whose command is not"),
        ({"env": {"N": "{n}"}}, "job 'a': env: the values of n make several of this name, whose env is not the same"),
        ({"invocation_script": "{n}"}, "whose invocation_script is not the same"),
    ],
)
def test_several_of_one_name_that_are_not_alike_are_refused(fields: dict[str, Any], expected: str) -> None:
    assert expected in refused(row(parameters={"n": "1:3"}, **fields))


def test_files_and_user_data_of_one_name_that_are_not_alike_are_refused() -> None:
    one = {"name": "f", "parameters": {"n": "1:2"}}
    assert "file 'f': path: the values of n make several" in refused(files=[one | {"path": "{n}"}])
    assert "user data 'f': data: the values of n make several" in refused(user_data=[one | {"data": "{n}"}])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"use_parameters": ["lrr"]},
            "job 'a': use_parameters: there is no 'lrr' among the parameters; did you mean 'lr'?",
        ),
        ({"use_parameters": "lr"}, "use_parameters: must be a list of names of the workflow's parameters"),
        ({"parameter_mode": "zap"}, "job 'a': parameter_mode: must be product or zip, got the text 'zap'"),
        ({"parameters": ["i"]}, "job 'a': parameters: must be a mapping such as {i: \"1:100\"}, got a list"),
        ({"parameters": {"i": "1:0"}}, "job 'a': parameters: i: the range '1:0' is empty"),
        ({"parameters": {"i": None}}, "job 'a': parameters: i: "),
        ({"parameters": {"a": "1:2", "b": "1:3"}, "parameter_mode": "zip"}, "a has 2, b has 3"),
        ({"name": "{i:q}{i:s}", "parameters": {"i": [1]}}, "name: {i:s} does not suit the number 1"),
    ],
)
def test_parameters_that_are_refused(fields: dict[str, Any], expected: str) -> None:
    sentence = refused(row() | fields, parameters={"lr": "1:2"})
    assert expected in sentence
    assert sentence.count("job ") == 1


def test_parameters_that_nobody_uses_are_checked() -> None:
    assert refused(parameters={"lr": "1:0"}).startswith("parameters: lr: the range '1:0' is empty")
    assert refused(parameters={"l r": "1:2"}).startswith("parameters: l r: 'l r' is no name of a parameter")


def test_names_that_parameters_make_are_checked() -> None:
    assert "name: 'a_1' is the name of job number 1 too" in refused(row("a_1"), row("a_{n}", parameters={"n": "1:2"}))
    assert "is 300 characters long" in refused(row("{n:0300d}", parameters={"n": "1:2"}))
    made_empty = row("{n}", parameters={"n": "['']"})
    assert "job number 1: name: is empty" in refused(made_empty)


@LAW
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data())
def test_as_many_jobs_as_combinations_that_the_name_tells_apart(sizes: list[int], data: st.DataObject) -> None:
    parameters = {f"p{index}": f"1:{size}" for index, size in enumerate(sizes)}
    used = data.draw(st.sets(st.sampled_from(sorted(parameters))))
    spec = read(
        row("".join(f"[{name}={{{name}}}]" for name in sorted(used)) + "j", parameters=parameters),
        row("first_" + "_".join(f"{{{name}}}" for name in parameters), parameters=parameters),
    )
    expected = 1
    for name in used:
        expected *= sizes[int(name[1:])]
    total = len(list(itertools.product(*map(range, sizes))))
    assert len(spec.jobs) == expected + total


# -- environment and output ----------------------------------------------------------------------------------------


def test_env_is_text() -> None:
    spec = read(row(env={"A": "x y", "B": 4, "C": -7, "D": "", "E": None}), env={"OMP_NUM_THREADS": 8})
    assert spec.env == {"OMP_NUM_THREADS": "8"}
    assert spec.jobs[0].env == {"A": "x y", "B": "4", "C": "-7", "D": ""}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"A": True}, "env: 'A': must be text, got true; put it in quotes"),
        ({"A": 3.10}, "env: 'A': must be text, got the number 3.1; put it in quotes"),
        ({"A": ["x"]}, "env: 'A': must be text, got a list"),
        ({"A": "x\0"}, "env: 'A': holds a NUL character"),
        ({"A": 10**30}, "env: 'A': is too large a number"),
        ({"A=B": "x"}, "env: 'A=B': is not the name of a variable"),
        ({"1A": "x"}, "env: '1A': is not the name of a variable"),
        ({"": "x"}, "env: '': is not the name of a variable"),
        (["A=x"], "env: must be a mapping of variables to text"),
    ],
)
def test_env_that_is_refused(env: Any, expected: str) -> None:
    assert f"job 'a': {expected}" in refused(row(env=env))
    assert refused(env=env).startswith(expected)


def test_stdio_is_a_mode_or_a_mapping() -> None:
    spec = read(row(stdio="none"), row("b"), row("c", stdio={"delete_on_success": True}), stdio={"mode": "combined"})
    assert spec.stdio == Stdio(mode=StdioMode.COMBINED)
    assert [job.stdio for job in spec.jobs] == [Stdio(mode=StdioMode.NONE), None, Stdio(delete_on_success=True)]


def test_stdio_may_stand_in_execution_config() -> None:
    spec = read(execution_config={"mode": "direct", "stdio": {"mode": "no_stderr"}})
    assert spec.stdio == Stdio(mode=StdioMode.NO_STDERR)
    assert spec.settings == {"execution_config": {"mode": "direct", "stdio": {"mode": "no_stderr"}}}
    assert spec.notes == ("execution_config: only its stdio is used",)
    assert read(execution_config={"stdio": "none"}).notes == ()


def test_a_scheduler_that_no_allocation_can_have_is_noted() -> None:
    wrong = [{"name": "a", "gres": "gpu:1", "gpus": 2}, {"name": "b", "mem": "1G"}]
    (note,) = read(slurm_schedulers=wrong).notes
    assert note.startswith("slurm_schedulers: a: gres and gpus both ask for GPUs; leave one out; no allocation can be")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"stdio": "both"},
            "stdio: mode: must be separate, combined, no_stdout, no_stderr or none, got the text 'both'",
        ),
        ({"stdio": {"mod": "none"}}, "stdio: unknown field 'mod'; did you mean 'mode'?"),
        ({"stdio": 5}, "stdio: must be a mode such as combined, or a mapping"),
        ({"stdio": {"delete_on_success": "yes"}}, "stdio: delete_on_success: must be true or false"),
    ],
)
def test_stdio_that_is_refused(fields: dict[str, Any], expected: str) -> None:
    assert f"job 'a': {expected}" in refused(row(**fields))
    assert refused(**fields).startswith(expected)


def test_stdio_of_execution_config_that_is_refused() -> None:
    assert "execution_config: stdio: mode: must be" in refused(execution_config={"stdio": "both"})
    assert "is given here and in execution_config" in refused(stdio="none", execution_config={"stdio": "none"})


# -- failure handlers ----------------------------------------------------------------------------------------------


def test_failure_handlers_are_read() -> None:
    rules = [{"exit_codes": [10, 255], "recovery_script": "./fix", "max_retries": 0}, {"match_all_exit_codes": True}]
    spec = read(row(failure_handler="h"), failure_handlers=[{"name": "h", "rules": rules}])
    assert spec.failure_handlers == (
        FailureHandler(
            name="h",
            rules=(
                Rule(exit_codes=(10, 255), recovery_script="./fix", max_retries=0),
                Rule(match_all_exit_codes=True, max_retries=3),
            ),
        ),
    )
    assert spec.jobs[0].failure_handler == "h"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], "failure handler 'h': rules: is empty"),
        ([{}], "failure handler 'h': rule number 1: must say when it holds"),
        (
            [{"exit_codes": [0]}],
            "rule number 1: exit_codes: must be a list of exit codes from 1 to 255 such as [10, 11],",
        ),
        ([{"exit_codes": [1, 256]}], "but one of its items is the number 256"),
        ([{"exit_codes": ["1"]}], "but one of its items is the text '1'"),
        ([{"exit_codes": [1], "max_retries": -1}], "max_retries: must be a whole number from 0 to 1000000"),
        ([{"exit_codes": [1], "recovery_script": " "}], "recovery_script: is empty"),
        (
            [{"exit_codes": [1]}, {"exit_code": [1]}],
            "rule number 2: unknown field 'exit_code'; did you mean 'exit_codes'?",
        ),
        ("retry", "rules: must be a list whose items begin with `- exit_codes:`"),
    ],
)
def test_failure_handlers_that_are_refused(rules: Any, expected: str) -> None:
    assert expected in refused(failure_handlers=[{"name": "h", "rules": rules}])


def test_a_job_may_only_refer_to_a_handler_that_there_is() -> None:
    handlers = [{"name": "retry", "rules": [{"exit_codes": [1]}]}]
    sentence = refused(row(failure_handler="retri"), failure_handlers=handlers)
    assert sentence.startswith("job 'a': failure_handler: there is no 'retri' among the failure_handlers; did you mean")
    assert "'retry' is the name of failure handler number 1 too" in refused(failure_handlers=handlers * 2)


# -- actions -------------------------------------------------------------------------------------------------------


def action(**fields: Any) -> dict[str, Any]:
    return {"trigger_type": "on_workflow_start", "action_type": "run_commands", "commands": ["x"]} | fields


def nodes(**fields: Any) -> dict[str, Any]:
    return action(action_type="schedule_nodes", commands=None, scheduler="gpu") | fields


def test_actions_are_read_with_the_ids_of_their_jobs() -> None:
    spec = read(
        row("j_{n}", parameters={"n": "1:3"}),
        row("last"),
        slurm_schedulers=SCHEDULERS,
        actions=[
            action(commands=["first", "second"]),
            action(trigger_type="on_jobs_complete", jobs=["last", "j_2"], job_name_regexes=["_[12]$"]),
            action(trigger_type="on_worker_start"),
            nodes(trigger_type="on_jobs_ready", jobs=["last"], scheduler_type="slurm", num_allocations=2),
            nodes(max_parallel_jobs=4, start_one_worker_per_node=True, persistent=True),
        ],
    )
    start, jobs, worker, ready, scheduled = spec.actions
    assert start == Action(number=1, trigger=Trigger.WORKFLOW_START, kind="run_commands", commands=("first", "second"))
    assert (jobs.number, jobs.jobs, jobs.persistent) == (2, (1, 2, 4), False)
    assert worker.persistent
    assert (ready.kind, ready.jobs, ready.scheduler, ready.num_allocations) == ("schedule_nodes", (4,), "gpu", 2)
    assert (scheduled.max_parallel_jobs, scheduled.start_one_worker_per_node, scheduled.persistent) == (4, True, True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            action(trigger_type="on_start"),
            "trigger_type: must be on_workflow_start, on_workflow_complete, on_jobs_ready",
        ),
        (action(trigger_type=None), "action number 1: trigger_type: is missing"),
        (action(action_type="run"), "action_type: must be run_commands or schedule_nodes, got the text 'run'"),
        (action(commands=None), "action number 1: commands: is missing; run_commands needs at least one"),
        (action(commands=["x", " "]), "action number 1: commands: number 2: is empty"),
        (action(commands="x"), "commands: must be a list of commands, got the text 'x'; write it as a list"),
        (action(trigger_type="on_jobs_ready"), "on_jobs_ready needs jobs or job_name_regexes"),
        (action(trigger_type="on_jobs_ready", jobs=["b"]), "action number 1: jobs: there is no 'b' among the jobs"),
        (
            action(trigger_type="on_jobs_ready", jobs=["a_{i}"]),
            "there is no 'a_{i}' among the jobs; {i} is no parameter here",
        ),
        (action(trigger_type="on_jobs_ready", job_name_regexes=["("]), "job_name_regexes: '(' is not a regular"),
        (action(trigger_type="on_jobs_complete", job_name_regexes=["^b"]), "'^b' is found in none of the names"),
        (nodes(scheduler=None), "action number 1: scheduler: is missing; schedule_nodes needs one"),
        (nodes(scheduler="gpus"), "scheduler: there is no 'gpus' among the slurm_schedulers; did you mean 'gpu'?"),
        (nodes(commands=["x"]), "action number 1: commands: is only for run_commands"),
        (nodes(num_allocations=0), "num_allocations: must be a whole number from 1"),
        (nodes(max_parallel_jobs=0), "max_parallel_jobs: must be a whole number from 1"),
        (nodes(scheduler_type="pbs"), "scheduler_type: must be slurm or local"),
        (action(command="x"), "action number 1: unknown field 'command'; did you mean 'commands'?"),
    ],
)
def test_actions_that_are_refused(fields: dict[str, Any], expected: str) -> None:
    assert expected in refused(row(), slurm_schedulers=SCHEDULERS, actions=[fields])


# -- schedulers, order, settings -----------------------------------------------------------------------------------


def test_a_scheduler_without_a_name_has_its_number() -> None:
    spec = read(row(scheduler="scheduler_2"), slurm_schedulers=[{"name": "a"}, {"account": "x", "name": None}])
    assert spec.schedulers == ({"name": "a"}, {"name": "scheduler_2", "account": "x"})
    assert "'scheduler_2' is the name of scheduler number 1 too" in refused(
        slurm_schedulers=[{"name": "scheduler_2"}, {"account": "x"}]
    )


def test_slurm_defaults_are_kept() -> None:
    spec = read(slurm_defaults={"qos": "high", "mail-type": "END,FAIL", "exclusive": True, "requeue": None})
    assert spec.slurm_defaults == {"qos": "high", "mail-type": "END,FAIL", "exclusive": True}


@pytest.mark.parametrize(
    "key", ["partition", "nodes", "walltime", "time", "mem", "gres", "name", "job-name", "job_name"]
)
def test_slurm_defaults_that_belong_to_a_scheduler_are_refused(key: str) -> None:
    assert f"slurm_defaults: {key!r}: belongs to each scheduler" in refused(slurm_defaults={key: "x"})


def test_slurm_defaults_are_single_values() -> None:
    assert "slurm_defaults: 'qos': must be text, a number or a truth value, got a list" in refused(
        slurm_defaults={"qos": ["x"]}
    )


def test_what_is_not_acted_on_is_kept_and_said_once() -> None:
    spec = read(
        row(supports_termination=True, env={"TORC_X": "1"}),
        row("b", supports_termination=False, termination_signal="SIGUSR1"),
        project="p",
        metadata={"any": ["thing", 1.5]},
        resource_monitor={"enabled": True},
        use_pending_failed=True,
        compute_node_wait_for_new_jobs_seconds=5,
        dynamic_jobs={"max_iterations": 10},
        files=[{"name": "f_{i}", "path": "{i}", "identifier": "urn:{i}", "st_mtime": 1.5, "parameters": {"i": "1:2"}}],
        datasets=[{"name": "s", "path": "s", "hash_mode": "content"}],
        user_data=[{"name": "d", "is_ephemeral": True}],
    )
    assert (spec.project, spec.metadata) == ("p", {"any": ["thing", 1.5]})
    assert spec.settings == {
        "resource_monitor": {"enabled": True},
        "use_pending_failed": True,
        "dynamic_jobs": {"max_iterations": 10},
        "compute_node_wait_for_new_jobs_seconds": 5,
    }
    fields = [note.split(":")[0] for note in spec.notes]
    assert fields == [
        *("resource_monitor", "use_pending_failed", "dynamic_jobs", "termination_signal"),
        *("identifier", "st_mtime", "hash_mode", "is_ephemeral", "env"),
    ]
    assert read().notes == ()


def test_what_actions_say_beyond_their_kind_and_trigger_is_said_once() -> None:
    start = {"trigger_type": "on_workflow_start", "action_type": "run_commands", "commands": ["x"]}
    spec = read(actions=[{**start, "jobs": ["a"]}, {**start, "num_allocations": 2}, {**start, "scheduler": "s"}, start])
    assert [note.split("; ")[0] for note in spec.notes] == [
        "actions: only on_jobs_ready and on_jobs_complete are about jobs",
        "actions: only schedule_nodes is about allocations",
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metadata": 2**70}, "metadata: is too large a number"),
        ({"metadata": json.loads("[" * 20 + "]" * 20)}, "metadata: is nested more than 16 deep"),
        ({"resource_monitor": [2**70]}, "resource_monitor: is too large a number"),
        ({"project": " "}, "project: is empty"),
        ({"jobs_sort_method": "gpus"}, "jobs_sort_method: must be none, gpus_runtime_memory, gpus_memory_runtime or"),
        ({"compute_node_expiration_buffer_seconds": -1}, "must be a whole number from 0"),
        ({"files": [{"name": "f"}]}, "file 'f': path: is missing"),
        ({"files": [{"name": "f", "path": " "}]}, "file 'f': path: is empty; give a path"),
        ({"files": [{"name": "f", "path": "a\0"}]}, "file 'f': path: holds a NUL character"),
        ({"files": [{"name": "f", "path": "a"}, {"name": "f", "path": "b"}]}, "'f' is the name of file number 1 too"),
        ({"files": [{"name": "f", "paht": "a"}]}, "file 'f': unknown field 'paht'; did you mean 'path'?"),
        ({"user_data": [{"data": 1}]}, "user data number 1: name: is missing"),
        ({"user_data": [{"name": "d"}, {"name": "d"}]}, "'d' is the name of user data number 1 too"),
        ({"user_data": [{"name": "d", "data": 2**70}]}, "user data 'd': data: is too large a number"),
        ({"user_data": [{"name": "d", "value": 1}]}, "user data 'd': unknown field 'value'"),
    ],
)
def test_other_fields_that_are_refused(fields: dict[str, Any], expected: str) -> None:
    assert expected in refused(**fields)


def test_null_is_absent_in_every_record() -> None:
    nothing = {"parameters": None, "use_parameters": None, "parameter_mode": None}
    lists = dict.fromkeys(["depends_on_regexes", "input_files", "output_user_data", "env", "stdio", "failure_handler"])
    spec = read(
        row(**nothing, **lists),
        files=[{"name": "f", "path": "f", **nothing}],
        user_data=[{"name": "d", "data": None, **nothing}],
        failure_handlers=[{"name": "h", "rules": [{"exit_codes": [1], "recovery_script": None, "max_retries": None}]}],
        actions=[action(jobs=None, persistent=None)],
        env=None,
        stdio=None,
        slurm_defaults=None,
        resource_monitor=None,
        jobs_sort_method=None,
    )
    assert spec.jobs == (only(),)
    assert spec.failure_handlers[0].rules == (Rule(exit_codes=(1,)),)
    assert spec.notes == ()


def test_a_blank_invocation_script_is_none() -> None:
    assert only(row(invocation_script=" \n")).invocation_script is None
    assert "invocation_script: holds a NUL" in refused(row(invocation_script="a\0"))


def test_a_command_is_measured_with_its_paths() -> None:
    files = [{"name": "f", "path": "x" * 100_000}]
    assert "job 'a': command: is 200001 bytes long" in refused(
        row(command="${files.input.f} ${files.input.f}"), files=files
    )


def test_the_summary_counts_what_there_is() -> None:
    spec = read(
        row(input_files=["f"], output_files=["g"]),
        row("b", depends_on=["a"]),
        files=[{"name": "f", "path": "f"}, {"name": "g", "path": "g"}],
        actions=[action()],
        use_pending_failed=True,
    )
    assert specsummary.summary(spec) == {
        "name": "w",
        "jobs": 2,
        "dependencies": 1,
        "input_files": 1,
        "output_files": 1,
        "user_data": [],
        "schedulers": [],
        "failure_handlers": [],
        "actions": ["on_workflow_start: run_commands"],
        "notes": ["use_pending_failed: a job that fails has failed; retry runs it again"],
    }


# -- names of files ------------------------------------------------------------------------------------------------

NEEDS = st.builds(
    Needs,
    st.integers(1, 999_999),
    st.integers(0, 999_999),
    st.integers(1, 999_999),
    st.integers(1, 10**13 - 1),
    st.integers(0, 10**12 - 1),
)
WANTED = {
    "gpus_runtime_memory": lambda needs: (-needs.num_gpus, -needs.runtime_s, -needs.memory_mib),
    "gpus_memory_runtime": lambda needs: (-needs.num_gpus, -needs.memory_mib, -needs.runtime_s),
    "most_cpus": lambda needs: -needs.num_cpus * needs.num_nodes,
}


@LAW
@given(st.sampled_from(sorted(WANTED)), st.lists(NEEDS, min_size=2, max_size=8))
def test_names_sort_as_the_method_says_and_then_by_id(method: str, needs: list[Needs]) -> None:
    made = [
        job_name(priority=5, job=id_, needs=each, name="x", key=sortkeys.key(method, each))
        for id_, each in enumerate(needs, start=1)
    ]
    by_text = [name.id for name in sorted(made, key=str)]
    assert by_text == sorted(range(1, len(needs) + 1), key=lambda id_: (WANTED[method](needs[id_ - 1]), id_))


def test_without_a_method_there_is_no_key() -> None:
    assert sortkeys.key(None, Needs()) is None
    assert read(jobs_sort_method="none").jobs_sort_method is None
    assert read(jobs_sort_method="most_cpus").jobs_sort_method == "most_cpus"


@LAW
@given(st.lists(st.text(max_size=6) | st.sampled_from(["a b", "a_b", "a/b", "a_b_2"]), unique=True))
def test_user_data_have_files_of_their_own(given_names: list[str]) -> None:
    files = user_data_files(given_names)
    assert list(files) == given_names
    assert len(set(files.values())) == len(given_names)
    assert all(file.endswith(".json") and "/" not in file and not file.startswith(".") for file in files.values())


# -- variables ------------------------------------------------------------------------------------------------------


def test_variables_stand_in_every_text() -> None:
    spec = read(
        row("j_{i}", command="run {root} {i} ${root} {other}", parameters={"i": "1:2"}, output_files=["{kind}_{i}"]),
        name="of_{kind}",
        variables={"root": "/r", "kind": "part", "who": "me", "level": 3},
        env={"ROOT": "{root}/{level:02d}"},
        files=[{"name": "{kind}_{i}", "path": "{root}/{i}", "parameters": {"i": "1:2"}}],
        slurm_schedulers=[{"name": "gpu", "account": "{who}"}],
        actions=[action(commands=["ls {root}"])],
    )
    assert (spec.name, names(spec)) == ("of_part", ["j_1", "j_2"])
    assert spec.jobs[0].command == "run /r 1 ${root} {other}"
    assert spec.jobs[1].output_files == ("/r/2",)
    assert spec.env == {"ROOT": "/r/03"}
    assert spec.schedulers[0]["account"] == "me"
    assert spec.actions[0].commands == ("ls /r",)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"i": "x"}, "variables: 'i': is the name of a parameter too"),
        ({"x": ["a"]}, "variables: 'x': must be text, got a list"),
        ({"x": True}, "variables: 'x': must be text, got true; put it in quotes"),
        ("x", "variables: must be a mapping of names to text"),
        ({"x": "text"}, "jobs: item 'j_{i}': {x:d} does not suit the text 'text'"),
    ],
)
def test_variables_that_are_refused(variables: Any, expected: str) -> None:
    assert expected in refused(row("j_{i}", command="{x:d}", parameters={"i": "1:2"}), variables=variables)


# -- JSON5 ---------------------------------------------------------------------------------------------------------

JSON5 = "{ // a comment\n name: 'w', jobs: [{name: 'a', command: 'true', priority: +5,},], }"


def test_json5_is_read() -> None:
    expected = parse(document(row(priority=5)), "w.json")
    assert parse(JSON5, "w.json5") == expected
    assert parse(JSON5, "w.json") == expected, "what is not strict JSON and no YAML either"
    comments = document(row(priority=5)).replace('"jobs"', '/* of one kind */ // and the other\n"jobs"')
    assert parse(comments, "w.json") == expected, "YAML would take the comments for a key"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name: 'w',\n name: 'v'}", "w.json5: the key 'name' is given twice"),
        ("{name: 'w',\n jobs: }", 'w.json5:2:8: this is not JSON5: Unexpected "}"'),
        ("", "w.json5: is empty"),
        ("[" * 100_000, "w.json5: lists and mappings are nested too deep"),
        ("{name: '\\ud800'}", "w.json5: holds half of a character"),
        ("[]", "w.json5: must be a mapping with name and jobs"),
        (JSON5.replace("+5", "NaN"), "priority: must be a whole number from 0 to 999999"),
        (JSON5.replace("{ //", "{metadata: Infinity, //"), "metadata: is no number that JSON can hold"),
    ],
)
def test_json5_that_is_refused(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text, "w.json5")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json5_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "json5":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.delitem(sys.modules, "json5", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SpecError, match=r"^w\.json5: reading JSON5 needs the library json5; install it with: .*pip"):
        parse(JSON5, "w.json5")
    with pytest.raises(SpecError, match=r"this is not JSON:"):
        parse(JSON5, "w.json")


def test_much_that_is_no_json_is_not_tried_as_json5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json5file, "_TRIED", 10)
    with pytest.raises(SpecError, match=r"this is not JSON:"):
        parse(JSON5, "w.json")


def test_kdl_is_not_read() -> None:
    with pytest.raises(SpecError, match=r"^w\.kdl: KDL is not read; give the same workflow as YAML"):
        parse("name w\njob a {\n}\n", "w.kdl")


def test_the_examples_are_valid() -> None:
    """Whatever there is: those that need files name some that are not there, which only the submit minds."""
    top = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples")
    for name in sorted(os.listdir(top)):
        if name.endswith((".yaml", ".json", ".json5")):
            with open(os.path.join(top, name), "rb") as file:
                assert parse(file.read(), name).jobs
