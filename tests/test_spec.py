"""A specification becomes exactly the workflow that it says, or one sentence about what is wrong with it."""

from __future__ import annotations

import errno
import graphlib
import io
import itertools
import json
import math
import os
import sys
from fractions import Fraction
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torc_spool import specfile
from torc_spool.errors import EXIT_USAGE, SpecError
from torc_spool.model import Needs, Resources, WorkflowSpec
from torc_spool.quantities import MAX_MEMORY_BYTES, MAX_RUNTIME_S
from torc_spool.spec import from_commands, load, parse, parse_duration, parse_memory
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

LAW = settings(deadline=None)  # no test fails because the machine is busy
ONE_JOB = "jobs: [{name: a, command: run}]"


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


def dump(value: Any, **options: Any) -> str:
    """As yaml.safe_dump does, by libyaml."""
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, **options)
    return text


def message(text: str | bytes, source: str = "w.yaml") -> str:
    """The one sentence with which a text is refused."""
    with pytest.raises(SpecError) as caught:
        parse(text, source)
    assert caught.value.exit_code == EXIT_USAGE
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def document(**fields: Any) -> str:
    """A workflow of one job, with fields replaced or added (None: left out)."""
    whole = {"name": "w", "jobs": [{"name": "a", "command": "run"}]} | fields
    return json.dumps({key: value for key, value in whole.items() if value is not None})


def job(**fields: Any) -> str:
    return document(jobs=[{"name": "a", "command": "run"} | fields])


def requirement(**fields: Any) -> str:
    return document(resource_requirements=[{"name": "r"} | fields])


def schedulers(*items: Any) -> str:
    return document(slurm_schedulers=list(items))


def chain(names: list[str]) -> list[dict[str, Any]]:
    """Jobs each of which depends on the one before it."""
    jobs: list[dict[str, Any]] = [{"name": name, "command": "run"} for name in names]
    for before, after in zip(names, jobs[1:], strict=False):
        after["depends_on"] = [before]
    return jobs


# What is accepted

SEED_RESOURCES = """\
name: seed
resource_requirements:
  - name: small
    num_cpus: 2
    num_gpus: 0
    memory: 4g
    runtime: PT30M
  - name: large
    num_cpus: 16
    num_gpus: 2
    memory: 128g
    runtime: PT8H
jobs:
  - name: preprocessing
    command: ./preprocess.sh
    resource_requirements: small
  - name: model_training
    command: python train.py
    resource_requirements: large
"""

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


def test_both_spellings_of_scheduler_may_agree() -> None:
    text = document(
        slurm_schedulers=[{"name": "s"}],
        jobs=[{"name": "a", "command": "run", "scheduler": "s", "slurm_scheduler": "s"}],
    )
    assert parse(text, "w").jobs[0].scheduler == "s"


def test_anchors_aliases_and_merges_are_understood() -> None:
    workflow = parse(
        """
        name: w
        slurm_schedulers: [{name: s}, {name: t}]
        jobs:
          - &base {name: a, command: &run ./run, priority: 5, scheduler: s}
          - {<<: *base, name: b, priority: 7}
          - {name: c, command: *run, <<: [{priority: 1}, *base]}
          - {name: d, command: x}
        """,
        "w.yaml",
    )
    assert [(job.name, job.command, job.priority, job.scheduler) for job in workflow.jobs] == [
        ("a", "./run", 5, "s"),
        ("b", "./run", 7, "s"),
        ("c", "./run", 1, "s"),
        ("d", "x", 0, None),
    ]


@cases(
    "text",
    {
        "byte-order-mark": b"\xef\xbb\xbfname: w\n" + ONE_JOB.encode(),
        "dos-line-ends": f"name: w\r\n{ONE_JOB}\r\n",
        "document-markers": f"---\nname: w\n{ONE_JOB}\n...\n",
        "tagged-text": f"name: !!str w\n{ONE_JOB}",
        "quoted": f'name: "w"\n{ONE_JOB}',
        "json": '{"name": "w", "jobs": [{"name": "a", "command": "run"}]}',
        "json-with-a-comma-too-many": '{"name": "w", "jobs": [{"name": "a", "command": "run"},]}',
        "json-with-tabs": '\n {"name": "w",\n\t"jobs": [{"name": "a", "command": "run"}]}',
    },
)
def test_other_ways_to_write_the_same(text: str | bytes) -> None:
    assert parse(text, "w.yaml") == parse(f"name: w\n{ONE_JOB}", "w.yaml")


def test_json_escapes_beyond_the_basic_plane() -> None:
    (only,) = parse('{"name": "w", "jobs": [{"name": "\\ud83d\\ude00", "command": "run"}]}', "w.json").jobs
    assert only.name == "\U0001f600"


def test_yaml_without_libyaml_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = parse(SEED_RESOURCES, "seed.yaml")
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert parse(SEED_RESOURCES, "seed.yaml") == expected
    assert "w.yaml:2:1" in message("name: x\nname: y")
    assert "w.yaml" in message("a: \0")


# What is refused: the text of the file


@cases(
    ("text", "expected"),
    {
        "empty": ("", "is empty"),
        "only-a-comment": ("# nothing\n", "is empty"),
        "only-a-marker": ("---\n", "is empty"),
        "list": ("[]", "must be a mapping with name and jobs, got a list"),
        "word": ("hello", "must be a mapping with name and jobs, got the text 'hello'"),
        "number": ("7", "must be a mapping with name and jobs, got the number 7"),
        "latin-1": (b"name: \xff", "is not UTF-8 text (at byte 7)"),
        "utf-16": ("name: w".encode("utf-16"), "is not UTF-8 text"),
        "surrogate": ("name: \ud800", "is not UTF-8 text"),
        "tab-place": ("name: w\n\tjobs: []", "w.yaml:2:"),
        "tab-advice": ("jobs:\n\t- name: a", "indent with spaces, not tabs"),
        "indentation": ("name: w\n jobs: 5", "w.yaml:2:6: this is not YAML"),
        "open-quote": ("name: 'w", "this is not YAML"),
        "colon": ("name: echo a: b", "put text that holds a colon and a space in quotes"),
        "at-sign": ("name: @file", "put text that begins with @"),
        "open-brace": ('{"name": "w"', "this is not JSON"),
        "nul": ("a: 1\n\nb: \0", "w.yaml:3: this is not YAML: control characters"),
        "key-twice": ("name: w\nname: v", "w.yaml:2:1: the key 'name' is given twice"),
        "key-twice-json": ('{"name": "w",\n "name": "v"}', "w.yaml:2:2: the key 'name' is given twice"),
        "merge-twice": ("a: {<<: {}, <<: {}}", "<< is given twice"),
        "merge-number": ("a: {<<: 5}", "the value of << must be a mapping"),
        "merge-list-of-numbers": ("a: {<<: [5]}", "the value of << must be a mapping"),
        "mapping-as-key": ("{a: b}: c", "cannot be a key"),
        "list-as-key": ("? [a]\n: c", "cannot be a key"),
        "alias-as-key": ("a: &x b\n*x : c", "an alias cannot be a key"),
        "alias-of-nothing": ("a: *x", "the alias *x stands for nothing"),
        "alias-of-itself": ("a: &x [*x]", "the alias *x stands for nothing"),
        "two-documents": ("a: 1\n---\nb: 2", "w.yaml:2:1: a second document"),
        "python-tag": ("!!python/object:os.system {}", "is not understood"),
        "scalar-tag": ("a: !!int 5", "is not understood"),
        "yaml-of-the-future": ("%YAML 3.0\n---\na: b", "this is not YAML"),
        "deep-lists": ("[" * 100_000, "nested more than"),
        "deep-block-lists": ("- " * 100_000, "nested more than"),
        "deep-json": ('{"a":' * 100_000, "nested more than"),
    },
)
def test_text_that_is_refused(text: str | bytes, expected: str) -> None:
    assert expected in message(text)
    assert message(text).startswith("w.yaml")


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert "stand for too much text" in message("\n".join(lines))


def test_merges_that_multiply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specfile, "MAX_ALIASED", 10_000)
    lines = ["a0: &a0 {k: " + "x" * 100 + "}"]
    lines += [f"a{n}: &a{n} {{k{n}: [*a{n - 1}, *a{n - 1}], <<: *a{n - 1}}}" for n in range(1, 20)]
    assert "stand for too much text" in message("\n".join(lines))


def test_many_harmless_aliases_are_accepted() -> None:
    jobs = "".join(f"- {{<<: *base, name: j{n}}}\n" for n in range(1000))
    workflow = parse("name: w\njobs:\n- &base {name: base, command: run, priority: 3}\n" + jobs, "w.yaml")
    assert len(workflow.jobs) == 1001


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


# Files


def test_a_file_is_read_with_its_bytes(tmp_path: Any) -> None:
    content = f"name: w  # as it was\r\n{ONE_JOB}\n".encode()
    path = tmp_path / "w.yaml"
    path.write_bytes(content)
    workflow, verbatim = load(str(path))
    assert verbatim == content
    assert workflow.name == "w"


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = f"name: w\n{ONE_JOB}".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert load("-") == (parse(content, "w"), content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"name: 5")))
    with pytest.raises(SpecError, match="standard input: jobs: is missing"):
        load("-")


def test_a_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SpecError, match="standard input: cannot be read: it is closed"):
        load("-")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.yaml", "there is no such file"),
        ("directory", "is a directory"),
        ("file/below", "cannot be read"),
        ("nul\0", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("\udcff", "there is no such file"),
    ],
    ids=["missing", "directory", "below-a-file", "nul", "long", "not-utf-8"],
)
def test_paths_that_are_refused(tmp_path: Any, name: str, expected: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=expected) as caught:
        load(f"{tmp_path}/{name}")
    assert str(caught.value).startswith(f"{tmp_path}/")
    str(caught.value).encode()


def test_a_file_that_may_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: str) -> None:  # root may read every file: this is how others fare
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(specfile, "open", refuse, raising=False)
    with pytest.raises(SpecError, match="may not be read by this user"):
        load("w.yaml")


def test_an_endless_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specfile, "MAX_BYTES", 2**21)
    with pytest.raises(SpecError, match="/dev/zero: cannot be read: it is larger"):
        load("/dev/zero")


# Commands, one a line


def test_commands_become_jobs_in_their_order() -> None:
    needs = Resources(num_cpus=2, memory_bytes=2**20, runtime_s=60)
    lines = ["\ufeffecho 1\n", "\n", "# not this\n", "  # nor this\r\n", "  echo 2\r\n", "   \n", "echo '#3'"]
    workflow = from_commands(lines, name="w", resources=needs, priority=4, scheduler="gpu", source="c.txt")
    assert [(job.id, job.name, job.command) for job in workflow.jobs] == [
        (1, "job_000001", "echo 1"),
        (2, "job_000002", "  echo 2"),
        (3, "job_000003", "echo '#3'"),
    ]
    assert {(job.priority, job.scheduler, job.resources) for job in workflow.jobs} == {(4, "gpu", needs)}
    assert workflow.schedulers == ({"name": "gpu"},)


def not_text() -> Any:
    yield "echo 1\n"
    b"\xff".decode()


@cases(
    ("lines", "options", "expected"),
    {
        "nothing": ([], {}, "holds no command"),
        "only-comments": (["# a\n", "\n"], {}, "holds no command"),
        "nul": (["a", "b\0"], {}, "line 2: holds a NUL character"),
        "long": (["", "x" * 131_072], {}, "line 2: is 131072 bytes long"),
        "surrogate": (["\udcff"], {}, "line 1: holds what is not UTF-8 text"),
        "undecodable": (not_text(), {}, "is not UTF-8 text"),
        "empty-name": (["a"], {"name": ""}, "name: is empty"),
        "priority": (["a"], {"priority": -1}, "priority: must be a whole number from 0"),
        "any": (["a"], {"scheduler": "any"}, "scheduler 'any': name: this name"),
        "empty-scheduler": (["a"], {"scheduler": ""}, "scheduler: is empty"),
        "cpus": (["a"], {"resources": Resources(num_cpus=0)}, "num_cpus: must be"),
        "gpus": (["a"], {"resources": Resources(num_gpus=-1)}, "num_gpus: must be"),
        "nodes": (["a"], {"resources": Resources(num_nodes=0)}, "num_nodes: must be"),
        "memory": (["a"], {"resources": Resources(memory_bytes=0)}, "memory: the number is not"),
        "runtime": (["a"], {"resources": Resources(runtime_s=0)}, "runtime: must be from 1 second"),
    },
)
def test_commands_that_are_not_accepted(lines: Any, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_commands(lines, **({"name": "w", "source": "c.txt"} | options))
    assert str(caught.value).startswith(f"c.txt: {expected}")


# Amounts

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512k", 512 * 2**10),
        ("100m", 100 * 2**20),
        ("4g", 4 * 2**30),
        ("1t", 2**40),
        ("1p", 2**50),
        ("4G", 4 * 2**30),
        ("4gb", 4 * 2**30),
        ("4GiB", 4 * 2**30),
        ("1.5g", 3 * 2**29),
        (".5k", 512),
        ("0.0001k", 1),
        ("100", 100),
        ("100b", 100),
        (" 4 g ", 4 * 2**30),
        (7, 7),
        (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES),
    ],
)
def test_memory(text: str | int, expected: int) -> None:
    assert parse_memory(text) == expected


NOT_MEMORY = ["", "g", "4x", "4ib", "4 4g", "-4g", "+4g", "4.g", "4e3", "1,5g", "\u0664g", "4g\0", "9" * 5000]
NOT_MEMORY += ["0", "0k", "1024p"]


@pytest.mark.parametrize("text", [*NOT_MEMORY, 0, -1, 2**60, True, False, None, 1.5, [], b"4g"])
def test_memory_that_is_refused(text: Any) -> None:
    with pytest.raises(SpecError):
        parse_memory(text)


def test_a_number_too_long_to_print_is_refused() -> None:
    with pytest.raises(SpecError, match="more memory than there is"):
        parse_memory(10**5000)
    with pytest.raises(SpecError, match="a number of more than 20 digits"):
        from_commands(["a"], name="w", priority=10**5000, source="c.txt")


@LAW
@given(st.integers(1, 2**80), st.sampled_from(sorted(UNITS)), st.sampled_from(["", "b", "ib"]), st.booleans())
def test_memory_is_number_times_unit(number: int, unit: str, suffix: str, upper: bool) -> None:
    text = f"{number}{unit}{suffix if unit else ''}"
    text = text.upper() if upper else text
    if number * UNITS[unit] <= MAX_MEMORY_BYTES:
        assert parse_memory(text) == number * UNITS[unit]
    else:
        with pytest.raises(SpecError, match="more memory than there is"):
            parse_memory(text)


@LAW
@given(st.decimals(min_value="0.001", max_value=1000, places=3), st.sampled_from(sorted(UNITS)))
def test_fractions_of_memory_round_up(number: Any, unit: str) -> None:
    assert parse_memory(f"{number}{unit}") == math.ceil(Fraction(number) * UNITS[unit])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PT30M", 1800),
        ("PT2H", 7200),
        ("P1DT12H", 129_600),
        ("P0DT1M", 60),
        ("PT0.5H", 1800),
        ("PT0,5H", 1800),
        ("P1W", 604_800),
        ("P1W1D", 691_200),
        ("P0.5D", 43_200),
        ("PT90S", 90),
        ("PT1H30M5S", 5405),
        ("PT0.1S", 1),
        ("PT1.000001S", 2),
        ("pt30m", 1800),
        (" PT1S\n", 1),
        ("P3650D", MAX_RUNTIME_S),
    ],
)
def test_duration(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


NOT_DURATIONS = ["", "P", "PT", "P1DT", "1h", "30", "01:00:00", "PT1", "T1H", "PT1M1H", "P1S", "P1H"]
NOT_DURATIONS += ["-PT1H", "PT-1H", "PT1.S", "PT.5H", "PT\u0663H", "P" + "1" * 999]
REFUSED_DURATIONS: dict[str, list[Any]] = {
    "is not a duration": NOT_DURATIONS,
    "years or months": ["P1Y", "P1M", "P1Y2M3DT4H", "P0M", "P1MT1H"],
    "is no time at all": ["PT0S", "P0D", "PT0.0H"],
    "is longer than ten years": ["P3651D", "PT99999999999999999999S"],
    "must be text": [None, 30, True, 1.5, b"PT1H"],
}


@pytest.mark.parametrize(
    ("expected", "text"),
    [(expected, text) for expected, texts in REFUSED_DURATIONS.items() for text in texts],
)
def test_duration_that_is_refused(text: Any, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        parse_duration(text)


SMALL = st.none() | st.integers(0, 99)


@LAW
@given(SMALL, SMALL, SMALL, SMALL, st.none() | st.decimals(min_value=0, max_value=99, places=2))
def test_duration_is_the_sum_of_its_parts(
    weeks: int | None, days: int | None, hours: int | None, minutes: int | None, seconds: Any
) -> None:
    date = "".join(f"{n}{unit}" for n, unit in ((weeks, "W"), (days, "D")) if n is not None)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n is not None)
    total = (weeks or 0) * 604_800 + (days or 0) * 86_400 + (hours or 0) * 3600 + (minutes or 0) * 60
    expected = math.ceil(total + Fraction(seconds or 0))
    text = f"P{date}" + (f"T{time}" if time else "")
    if expected:
        assert parse_duration(text) == expected
    else:
        with pytest.raises(SpecError):
            parse_duration(text)


@LAW
@given(st.text(alphabet="PTYMWDHS0123456789.,-kgib \n٣", max_size=20))
def test_amounts_refuse_in_one_way_only(text: str) -> None:
    for parse_amount in (parse_memory, parse_duration):
        try:
            assert parse_amount(text) > 0
        except SpecError as error:
            assert "\n" not in str(error)


# Laws


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """For each job the ids that it depends on: any graph, self-loops aside."""
    size = draw(st.integers(1, 12))
    ids = st.integers(1, size)
    return [sorted(draw(st.sets(ids, max_size=4)) - {node}) for node in range(1, size + 1)]


def workflow_of(graph: list[list[int]], order: list[int]) -> str:
    """A specification of the graph whose jobs are listed in another order."""
    jobs = [{"name": f"n{i}", "command": "x", "depends_on": [f"n{d}" for d in graph[i - 1]]} for i in order]
    return document(jobs=jobs)


def cycle_in(sentence: str) -> list[int]:
    """The cycle that a message names, its first member repeated at the end."""
    return [int(name[1:]) for name in sentence.split("circle: ")[1].split(" (")[0].split(" -> ")]


def is_cycle(named: list[int], graph: list[list[int]]) -> bool:
    closed = named[0] == named[-1] and len(set(named)) == len(named) - 1
    return closed and all(other in graph[one - 1] for one, other in itertools.pairwise(named))


@LAW
@given(graphs())
def test_a_graph_is_refused_exactly_when_it_has_a_cycle(graph: list[list[int]]) -> None:
    text = workflow_of(graph, list(range(1, len(graph) + 1)))
    try:
        graphlib.TopologicalSorter(dict(enumerate(graph, start=1))).prepare()
    except graphlib.CycleError:
        assert is_cycle(cycle_in(message(text)), graph)
    else:
        parse(text, "w")


@LAW
@given(graphs(), st.randoms())
def test_a_graph_without_cycle_is_accepted_in_any_order(graph: list[list[int]], random: Any) -> None:
    acyclic = [[d for d in wanted if d < node] for node, wanted in enumerate(graph, start=1)]
    order = list(range(1, len(graph) + 1))
    random.shuffle(order)
    workflow = parse(workflow_of(acyclic, order), "w")
    by_id = {job.id: job.name for job in workflow.jobs}
    for found in workflow.jobs:
        expected = [f"n{d}" for d in acyclic[int(found.name[1:]) - 1]]
        assert [by_id[d] for d in found.depends_on] == expected


@LAW
@given(graphs(), st.data())
def test_an_edge_back_is_refused_with_a_real_cycle(graph: list[list[int]], data: st.DataObject) -> None:
    path = [[d for d in wanted if d < node] for node, wanted in enumerate(graph, start=1)]
    size = len(path) + 2
    path += [[], []]
    low = data.draw(st.integers(1, size - 1))
    high = data.draw(st.integers(low + 1, size))
    for node in range(low + 1, high + 1):
        path[node - 1] = sorted({*path[node - 1], node - 1})
    path[low - 1] = [*path[low - 1], high]
    sentence = message(workflow_of(path, list(range(1, size + 1))))
    assert is_cycle(cycle_in(sentence), path)


FIELDS = sorted({*WorkflowRecord.__struct_fields__, *JobRecord.__struct_fields__, *RequirementRecord.__struct_fields__})
WORDS = st.sampled_from(["", "a", "b", "any", "4g", "PT1H", "yes", "5", "a\nb", "\0"])
KEYS = st.sampled_from(FIELDS) | WORDS
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(), FINITE, WORDS, st.text(max_size=5))
FLAT = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(KEYS, SCALARS, max_size=4)
VALUES = FLAT | st.lists(FLAT, max_size=3) | st.dictionaries(KEYS, FLAT, max_size=4)
OPTIONAL = dict.fromkeys(set(JobRecord.__struct_fields__) - {"name", "command"}, VALUES)
JOBS = st.fixed_dictionaries({"name": WORDS, "command": WORDS}, optional=OPTIONAL)
SECTIONS = {
    "jobs": st.lists(JOBS, max_size=3),
    "resource_requirements": st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3),
    "slurm_schedulers": st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3),
}
NEARLY = st.fixed_dictionaries({"name": WORDS | SCALARS}, optional=SECTIONS) | VALUES


NAMES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=9).filter(str.strip)
COMMANDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def valid_documents(draw: st.DrawFn) -> dict[str, Any]:
    """What must be accepted, with every field given or not."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    requirements = draw(st.lists(NAMES, max_size=3, unique=True))
    bound = draw(st.lists(st.sampled_from(["cpu", "gpu", "8"]), max_size=3, unique=True))
    optional = {
        "num_cpus": st.integers(1, 100_000),
        "num_gpus": st.none() | st.integers(0, 10_000),
        "memory": st.just("1.5g") | st.integers(1, MAX_MEMORY_BYTES),
        "runtime": st.just("PT1H30M"),
    }
    jobs = []
    for index, name in enumerate(names):
        fields: dict[str, st.SearchStrategy[Any]] = {
            "priority": st.none() | st.integers(0, 999_999),
            "depends_on": st.lists(st.sampled_from(names[:index] or [""]), max_size=3 if index else 0),
            "supports_termination": st.booleans(),
            "cancel_on_blocking_job_failure": st.booleans(),
            "resource_requirements": st.sampled_from([None, *requirements]),
            draw(st.sampled_from(["scheduler", "slurm_scheduler"])): st.sampled_from([None, *bound]),
        }
        required = {"name": st.just(name), "command": COMMANDS}
        jobs.append(draw(st.fixed_dictionaries(required, optional=fields)))
    return {
        "name": draw(NAMES),
        "description": draw(st.none() | st.text()),
        "jobs": jobs,
        "resource_requirements": [
            draw(st.fixed_dictionaries({"name": st.just(name)}, optional=optional)) for name in requirements
        ],
        "slurm_schedulers": [{"name": name, "qos": draw(FINITE | st.text())} for name in bound],
    }


@LAW
@given(valid_documents())
def test_valid_documents_are_accepted_as_yaml_and_as_json(value: dict[str, Any]) -> None:
    workflow = parse(json.dumps(value), "w.json")
    assert parse(dump(value), "w.yaml") == workflow
    assert parse(dump(value, allow_unicode=True, default_flow_style=True), "w.yaml") == workflow
    assert [job.id for job in workflow.jobs] == list(range(1, len(value["jobs"]) + 1))
    for made, said in zip(workflow.jobs, value["jobs"], strict=True):
        assert (made.name, made.command) == (said["name"], said["command"])
        assert made.priority == (said.get("priority") or 0)
        assert made.scheduler == (said.get("scheduler") or said.get("slurm_scheduler"))
        assert [workflow.jobs[i - 1].name for i in made.depends_on] == list(dict.fromkeys(said.get("depends_on", [])))


def outcome(text: str | bytes, source: str) -> WorkflowSpec | None:
    """The workflow, or None where it was refused as it should be."""
    try:
        return parse(text, source)
    except SpecError as error:
        assert "\n" not in str(error)
        return None


@LAW
@given(NEARLY)
def test_documents_are_read_or_refused_and_json_is_read_as_yaml_is(value: Any) -> None:
    as_yaml = outcome(dump(value, allow_unicode=False), "w.yaml")
    as_json = outcome(json.dumps(value), "w.json")
    assert as_yaml == as_json


@LAW
@given(st.text())
@example("a: !<x> b")
@example("? ")
@example("- - ? : -")
@example("&a *a")
def test_any_text_is_read_or_refused(text: str) -> None:
    outcome(text, "w.yaml")
    outcome("{" + text, "w.json")


@LAW
@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    outcome(content, "w.yaml")


PIECES = [
    "name: w\n",
    "jobs:\n",
    "- ",
    "name: a\n",
    "  command: x\n",
    "&a ",
    "*a",
    "<<: ",
    "[",
    "]",
    "{",
    "}",
]
PIECES += [
    ",",
    ": ",
    "!!str ",
    "!",
    "'",
    '"',
    "|\n",
    ">\n",
    "\t",
    "\n",
    "  ",
    "#",
    "---\n",
    "...\n",
    "? ",
    "%",
    "~",
]


@LAW
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_pieces_of_yaml_are_read_or_refused(text: str) -> None:
    outcome(text, "w.yaml")
    outcome(f"name: w\njobs:\n- name: a\n  command: x\n{text}", "w.yaml")


INTEGERS = st.integers(-(10**18) + 1, 10**18 - 1)
PLAIN_SCALARS = st.none() | st.booleans() | INTEGERS | FINITE | st.text()
PLAIN_FLAT = (
    PLAIN_SCALARS
    | st.lists(PLAIN_SCALARS, max_size=4)
    | st.dictionaries(st.text(max_size=100), PLAIN_SCALARS, max_size=4)
)
PLAIN = PLAIN_FLAT | st.lists(PLAIN_FLAT, max_size=4) | st.dictionaries(st.text(max_size=100), PLAIN_FLAT, max_size=4)


@LAW
@given(PLAIN)
def test_what_yaml_writes_is_read_back_as_it_was(value: Any) -> None:
    assert specfile.read_document(dump(value), "w.yaml") == value
