"""A specification becomes exactly the workflow that it says, or one sentence about what is wrong with it."""

from __future__ import annotations

import json

import msgspec
import pytest
from spectext import ONE_JOB, SEED_RESOURCES, cases, chain, document, job, message, requirement, schedulers

from torc_spool.model import Needs, Resources
from torc_spool.spec import parse
from torc_spool.specread import describe
from torc_spool.specrecords import (
    ActionRecord,
    FileRecord,
    HandlerRecord,
    JobRecord,
    RequirementRecord,
    RuleRecord,
    SchedulerRecord,
    SpecRecord,
    StdioRecord,
    UserDataRecord,
    WorkflowRecord,
)

SEED_SCHEDULERS = """\
name: seed
slurm_schedulers:
  - name: gpu_cluster
    partition: gpu
    account: myproject
  - name: highmem_cluster
    partition: highmem
    account: myproject
resource_requirements:
  - name: large
    num_cpus: 16
  - name: highmem
    memory: 512g
jobs:
  - name: model_training
    command: python train.py
    resource_requirements: large
    slurm_scheduler: gpu_cluster # Binds to specific scheduler
  - name: large_analysis
    command: ./analyze.sh
    resource_requirements: highmem
    slurm_scheduler: highmem_cluster
"""


def test_jobs_with_resource_requirements() -> None:
    workflow = parse(SEED_RESOURCES, "seed.yaml")
    small, large = workflow.jobs
    assert (small.id, small.name, small.command) == (1, "preprocessing", "./preprocess.sh")
    assert small.resources == Resources(num_cpus=2, memory_bytes=4 * 2**30, runtime_s=1800)
    assert large.resources.needs == Needs(16, 2, 1, 128 * 1024, 8 * 3600)


def test_jobs_bound_to_schedulers() -> None:
    workflow = parse(SEED_SCHEDULERS, "seed.yaml")
    assert [job.scheduler for job in workflow.jobs] == ["gpu_cluster", "highmem_cluster"]
    assert workflow.schedulers[0] == {"name": "gpu_cluster", "partition": "gpu", "account": "myproject"}


def test_defaults_of_a_bare_job() -> None:
    (only,) = parse(f"name: w\n{ONE_JOB}", "w.yaml").jobs
    assert only.resources == Resources()
    assert (only.priority, only.scheduler, only.depends_on, only.attempts) == (0, None, (), ())
    assert only.cancel_on_blocking_job_failure
    assert not only.supports_termination


def test_every_field_of_a_job() -> None:
    workflow = parse(
        """
        name: w
        description: all of it
        user: me
        slurm_schedulers: [{name: s}]
        resource_requirements: [{name: r, num_cpus: 3, num_gpus: 1, num_nodes: 2, memory: 1m, runtime: PT1S}]
        jobs:
          - {name: a, command: first}
          - name: b
            command: |
              set -e
              second
            resource_requirements: r
            priority: 999999
            scheduler: s
            depends_on: [a]
            cancel_on_blocking_job_failure: no
            supports_termination: true
        """,
        "w.yaml",
    )
    assert (workflow.name, workflow.description, workflow.user) == ("w", "all of it", "me")
    second = workflow.jobs[1]
    assert second.command == "set -e\nsecond\n"
    assert (second.priority, second.scheduler, second.depends_on) == (999_999, "s", (1,))
    assert second.resources.needs == Needs(3, 1, 2, 1, 1)
    assert not second.cancel_on_blocking_job_failure
    assert second.supports_termination


def test_null_is_the_same_as_absent() -> None:
    nothing = {"resource_requirements": None, "priority": None, "scheduler": None, "depends_on": None}
    with_nulls = document(
        jobs=[{"name": "a", "command": "run", "supports_termination": None, **nothing}],
        resource_requirements=[{"name": "r", "num_cpus": None, "memory": None, "runtime": None}],
        slurm_schedulers=[{"name": "s", "gres": None, "qos": "high"}],
    ).replace('"name": "w"', '"name": "w", "user": null, "description": null')
    without = document(resource_requirements=[{"name": "r"}], slurm_schedulers=[{"name": "s", "qos": "high"}])
    assert parse(with_nulls, "w") == parse(without, "w")


def test_scheduler_fields_are_kept_as_they_are_written() -> None:
    (kept,) = parse(
        "name: w\n" + ONE_JOB + "\nslurm_schedulers:\n- name: s\n  walltime: 04:00:00\n  account: 0123\n"
        "  nodes: 2\n  mem: 8G\n  extra: --constraint=v100\n  until: 2030-01-01\n  other: {deep: [1.5, ~]}\n",
        "w.yaml",
    ).schedulers
    assert kept == {
        "name": "s",
        "walltime": "04:00:00",
        "account": "0123",
        "nodes": 2,
        "mem": "8G",
        "extra": "--constraint=v100",
        "until": "2030-01-01",
        "other": {"deep": [1.5, None]},
    }


def test_a_dependency_given_twice_counts_once() -> None:
    jobs = [*chain(["a"]), {"name": "b", "command": "run", "depends_on": ["a", "a"]}]
    assert parse(document(jobs=jobs), "w").jobs[1].depends_on == (1,)


def test_a_job_may_depend_on_a_later_one() -> None:
    jobs = [{"name": "b", "command": "run", "depends_on": ["a"]}, {"name": "a", "command": "run"}]
    assert parse(document(jobs=jobs), "w").jobs[0].depends_on == (2,)


# What is refused: fields


@cases(
    ("text", "expected"),
    {
        "no-name": (document(name=None), "w: name: is missing"),
        "no-jobs": (document(jobs=None), "w: jobs: is missing"),
        "empty-jobs": (document(jobs=[]), "w: jobs: is empty"),
        "jobs-text": (document(jobs="a"), "jobs: must be a list whose items begin with `- name:`"),
        "jobs-mapping": (document(jobs={"a": "run"}), "jobs: must be a list"),
        "job-text": (document(jobs=["run"]), "job number 1: must be a mapping with name and command"),
        "job-null": (document(jobs=[None]), "job number 1: must be a mapping"),
        "unknown-field": (document(job=[]), "unknown field 'job'; did you mean 'jobs'?"),
        "strange-field": (document(zzz=1), "unknown field 'zzz'; known fields are name, jobs"),
        "null-field": (document(zzz=None).replace("{", '{"zzz": null, ', 1), "unknown field 'zzz'"),
        "user": (document(user=5), "user: must be text, got the number 5; put it in quotes"),
        "description": (document(description=["a"]), "description: must be text, got a list"),
        "reqs": (document(resource_requirements="r"), "resource_requirements: must be a list"),
        "schedulers": (document(slurm_schedulers={}), "slurm_schedulers: must be a list"),
        "comand": (job(comand="x"), "job 'a': unknown field 'comand'; did you mean 'command'?"),
        "label": (job(label="x"), "unknown field 'label'; bind the job with scheduler"),
        "cmd": (job(cmd="x"), "unknown field 'cmd'; did you mean 'command'?"),
        "deps": (job(deps=["a"]), "did you mean 'depends_on'?"),
        "cpus-of-a-job": (
            job(cpus=4),
            "unknown field 'cpus'; give num_cpus to one of the resource_requirements, and its name to the job",
        ),
        "timeout-of-a-job": (job(timeout=4), "give runtime to one of the resource_requirements"),
        "retries-of-a-job": (job(retries=4), "give max_retries to one of the failure_handlers"),
        "mem": (requirement(mem="4g"), "unknown field 'mem'; did you mean 'memory'?"),
        "cpus": (requirement(cpus=1), "did you mean 'num_cpus'?"),
        "gpus-alone": (requirement(gpus=1), "did you mean 'num_gpus'?"),
        "nodes-alone": (requirement(nodes=1), "did you mean 'num_nodes'?"),
        "walltime": (requirement(walltime="PT1H"), "did you mean 'runtime'?"),
        "time": (requirement(time="PT1H"), "did you mean 'runtime'?"),
        "runtime-digits": (requirement(runtime="90"), "write PT90S for 90 seconds"),
        "no-command": (job(command=None), "job 'a': command: is missing"),
        "no-job-name": (job(name=None), "job number 1: name: is missing"),
        "command-list": (job(command=["echo", "a"]), "job 'a': command: must be text, got a list"),
        "command-number": (job(command=5), "job 'a': command: must be text, got the number 5"),
        "command-fraction": (job(command=1.5), "got the number 1.5; put it in quotes"),
        "name-long-number": (job(name=10**30), "got a number of more than 20 digits"),
        "priority-low": (job(priority=-1), "priority: must be a whole number from 0 to 999999"),
        "priority-high": (job(priority=10**6), "job 'a': priority: must be"),
        "priority-truth": (job(priority=True), "priority: must be a whole number from 0 to 999999, got true"),
        "priority-text": (job(priority="5"), "got the text '5'; write it without quotes"),
        "priority-fraction": (job(priority=1.5), "got the number 1.5"),
        "truth-text": (job(supports_termination="yes"), "must be true or false, got the text 'yes'"),
        "truth-1": (job(cancel_on_blocking_job_failure=1), "must be true or false, got the number 1"),
        "depends-on-text": (job(depends_on="b"), "depends_on: must be a list of job names"),
        "depends-on-1": (job(depends_on=[1]), "one of its items is the number 1; put it in quotes"),
        "depends-on-null": (job(depends_on=[None]), "one of its items is null"),
        "inline-needs": (job(resource_requirements={"num_cpus": 1}), "must be text, got a mapping"),
        "cpus-0": (requirement(num_cpus=0), "requirement 'r': num_cpus: must be a whole number from 1"),
        "cpus-many": (requirement(num_cpus=100_001), "num_cpus: must be"),
        "cpus-truth": (requirement(num_cpus=True), "num_cpus: must be a whole number"),
        "gpus": (requirement(num_gpus=-1), "num_gpus: must be a whole number from 0 to 10000"),
        "gpus-many": (requirement(num_gpus=10_001), "num_gpus: must be"),
        "nodes": (requirement(num_nodes=0), "num_nodes: must be a whole number from 1"),
        "nodes-absurd": (requirement(num_nodes=10**30), "num_nodes: must be"),
        "memory": (requirement(memory="4x"), "requirement 'r': memory: '4x' is not an amount"),
        "memory-0": (requirement(memory=0), "memory: the number is not more than zero"),
        "memory-negative": (requirement(memory=-5), "memory: the number is not more than zero"),
        "memory-absurd": (requirement(memory=2**60), "more memory than there is"),
        "memory-truth": (requirement(memory=True), "memory: must be an amount"),
        "memory-fraction": (requirement(memory=1.5), "memory: must be an amount"),
        "runtime": (requirement(runtime="1h"), "requirement 'r': runtime: '1h' is not a duration"),
        "runtime-number": (requirement(runtime=30), "got the number 30; write PT30S for seconds"),
        "runtime-months": (requirement(runtime="P1M"), "years or months"),
        "num-cpu": (requirement(num_cpu=1), "did you mean 'num_cpus'?"),
        "requirement-name": (requirement(name=" "), "resource requirement number 1: name: is empty"),
        "scheduler-text": (schedulers("s"), "scheduler number 1: must be a mapping with name"),
        "scheduler-number": (schedulers({"name": 5}), "scheduler number 1: name: must be text"),
        "scheduler-empty": (schedulers({"name": ""}), "name: is empty"),
        "any": (schedulers({"name": "any"}), "scheduler 'any': name: this name means every"),
        "directory": (schedulers({"name": "a b"}, {"name": "a_b"}), "'a_b' would be that of 'a b'"),
        "scheduler-value": (schedulers({"name": "s", "x": 2**63}), "'x': is too large a number"),
        "scheduler-deep": (schedulers({"name": "s", "x": json.loads("[" * 20 + "]" * 20)}), "nested"),
    },
)
def test_fields_that_are_refused(text: str, expected: str) -> None:
    sentence = message(text, "w")
    assert expected in sentence
    assert sentence.startswith("w: ")


@pytest.mark.parametrize("written", ["123", "yes", "No", "on", "true", "1.5", "-7"])
def test_what_yaml_does_not_take_for_text_must_be_quoted(written: str) -> None:
    assert "name: must be text" in message(f"name: {written}\n{ONE_JOB}")
    assert "put it in quotes" in message(f"name: {written}\n{ONE_JOB}")
    assert parse(f"name: '{written}'\n{ONE_JOB}", "w.yaml").name == written


@pytest.mark.parametrize("written", ["010", "0x1f", "0o17", "1_000", "12:30", "2024-01-01", "1e3", ".inf", "y"])
def test_what_versions_of_yaml_disagree_on_stays_text(written: str) -> None:
    assert parse(f"name: {written}\n{ONE_JOB}", "w.yaml").name == written


def test_words_that_yaml_1_1_takes_for_truth_are_text_where_text_is_meant() -> None:
    text = "name: w\nenv: {DEBUG: on}\njobs: [{name: 'of_{c}', command: c, parameters: {c: [se, no, true]}}]"
    workflow = parse(text, "w.yaml")
    assert workflow.env == {"DEBUG": "on"}
    assert [job.name for job in workflow.jobs] == ["of_se", "of_no", "of_true"]


@cases(
    ("name", "expected"),
    {
        "empty": ("", "is empty"),
        "blank": (" \t ", "is empty"),
        "line-break": ("a\nb", "control character or a line break"),
        "nul": ("a\0b", "control character"),
        "escape": ("a\x1b[1m", "control character"),
        "next-line": ("a\x85b", "control character"),
        "line-separator": ("a\u2028b", "control character"),
        "long": ("x" * 256, "is 256 characters long"),
    },
)
@pytest.mark.parametrize("kind", ["workflow", "job", "requirement", "scheduler", "user"])
def test_names_that_are_refused(kind: str, name: str, expected: str) -> None:
    named = {
        "workflow": document(name=name),
        "job": job(name=name),
        "requirement": requirement(name=name),
        "scheduler": schedulers({"name": name}),
        "user": document(user=name),
    }[kind]
    assert expected in message(named)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 255, "train model", "../../etc", "-rf", "日本", "a/b"])
def test_names_that_are_accepted(name: str) -> None:
    assert parse(job(name=name), "w").jobs[0].name == name


@cases(
    ("command", "expected"),
    {
        "empty": ("", "is empty"),
        "blank": (" \n", "is empty"),
        "nul": ("echo \0", "holds a NUL character"),
        "long": ("x" * 131_072, "is 131072 bytes long"),
        "long-in-bytes": ("é" * 65_536, "is 131072 bytes long"),
    },
)
def test_commands_that_are_refused(command: str, expected: str) -> None:
    assert f"w.yaml: job 'a': command: {expected}" in message(job(command=command))


def test_the_longest_command_is_accepted() -> None:
    assert len(parse(job(command="x" * 131_071), "w").jobs[0].command) == 131_071


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("job", document(jobs=chain(["a", "b", "a"]))),
        ("resource requirement", document(resource_requirements=[{"name": n} for n in "aba"])),
        ("scheduler", document(slurm_schedulers=[{"name": n} for n in "aba"])),
    ],
)
def test_a_name_given_twice_is_refused(kind: str, text: str) -> None:
    expected = f"w.yaml: {kind} number 3: name: 'a' is the name of {kind} number 1 too"
    assert expected in message(text)


BARE = {"name": "a", "command": "run"}
FIRST = {"name": "first", "command": "run"}


@cases(
    ("text", "expected"),
    {
        "requirement": (
            document(resource_requirements=[{"name": "tiny"}], jobs=[BARE | {"resource_requirements": "tin"}]),
            "resource_requirements: there is no 'tin' among the resource_requirements; did you mean 'tiny'?",
        ),
        "scheduler": (
            document(slurm_schedulers=[{"name": "gpu"}], jobs=[BARE | {"scheduler": "gpus"}]),
            "scheduler: there is no 'gpus' among the slurm_schedulers; did you mean 'gpu'?",
        ),
        "no-schedulers": (
            job(slurm_scheduler="gpu"),
            "slurm_scheduler: there is no 'gpu' among the slurm_schedulers; define it under",
        ),
        "dependency": (
            document(jobs=[FIRST, BARE | {"depends_on": ["frist"]}]),
            "depends_on: there is no 'frist' among the jobs; did you mean 'first'?",
        ),
        "endless-name": (job(depends_on=["x" * 10_000]), "depends_on: there is no 'xxxxxx"),
        "itself": (job(depends_on=["a"]), "depends_on: it depends on itself"),
        "two-schedulers": (
            document(
                slurm_schedulers=[{"name": "s"}, {"name": "t"}],
                jobs=[BARE | {"scheduler": "s", "slurm_scheduler": "t"}],
            ),
            "scheduler is 's' but slurm_scheduler is 't'",
        ),
    },
)
def test_references_that_are_refused(text: str, expected: str) -> None:
    assert f"w.yaml: job 'a': {expected}" in message(text)


def test_a_cycle_is_named_in_order() -> None:
    jobs = chain(["x", "a", "b", "c"])
    jobs[1]["depends_on"].append("c")
    expected = "w.yaml: jobs: jobs wait for each other in a circle: a -> c -> b -> a (each depends on the next)"
    assert expected in message(document(jobs=jobs))


def test_a_long_cycle_is_named_in_short() -> None:
    jobs = chain([f"j{n}" for n in range(10_000)])
    jobs[0]["depends_on"] = ["j9999"]
    sentence = message(document(jobs=jobs))
    assert "j0 -> j9999 -> j9998" in sentence
    assert "... 9981 more ..." in sentence
    assert len(sentence) < 500


def test_a_chain_of_many_jobs_in_reverse_order_is_accepted() -> None:
    jobs = chain([f"j{n}" for n in range(20_000)])[::-1]
    assert parse(document(jobs=jobs), "w").jobs[0].depends_on == (2,)


def test_many_jobs_into_one_and_one_into_many() -> None:
    names = [f"j{n}" for n in range(20_000)]
    middle = [{"name": name, "command": "run", "depends_on": ["first"]} for name in names]
    last = {"name": "last", "command": "run", "depends_on": names}
    workflow = parse(document(jobs=[last, *middle, {"name": "first", "command": "run"}]), "w")
    assert workflow.jobs[0].depends_on == tuple(range(2, 20_002))
    assert workflow.jobs[1].depends_on == (20_002,)


RECORDS = [WorkflowRecord, JobRecord, FileRecord, UserDataRecord, RequirementRecord, SchedulerRecord, HandlerRecord]
RECORDS += [RuleRecord, StdioRecord, ActionRecord]


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_says_what_it_expects(record: type[SpecRecord]) -> None:
    for field in msgspec.structs.fields(record):
        assert describe(field.type) != "something else", field.name
