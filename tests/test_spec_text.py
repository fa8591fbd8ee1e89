"""The many ways to write one specification, the texts that are none, and where they are read from."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import pytest
import yaml
from spectext import ONE_JOB, SEED_RESOURCES, cases, document, message

from torc_spool import specfile
from torc_spool.errors import SpecError
from torc_spool.model import Resources
from torc_spool.spec import from_commands, load, parse


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
