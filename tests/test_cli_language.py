"""The language by its commands, as installed: submits, runs, user data, notes, dry runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cliutil
import pytest
from cliutil import PROGRAMS, Lab

lab = cliutil.lab

TORC = PROGRAMS / "torc-spool"


def output(lab: Lab, name: str, workflow: int = 1) -> str:
    return Path(lab.job(name, workflow)["stdout"]).read_text()


# -- runs ----------------------------------------------------------------------------------------------------------


def test_files_go_from_job_to_job(lab: Lab) -> None:
    (lab.cwd / "raw 1.csv").write_text("3\n")
    lab.spec(
        {"name": "sum", "command": "cat '${files.input.part_1}' '${files.input.part_2}' > ${files.output.sum}"},
        {
            "name": "part_{n}",
            "command": "(cat '${files.input.raw}'; echo {n}) > '${files.output.part_{n}}'",
            "parameters": {"n": "1:2"},
        },
        files=[
            {"name": "raw", "path": "raw 1.csv"},
            {"name": "part_{n}", "path": "part {n}.csv", "parameters": {"n": "1:2"}},
            {"name": "sum", "path": "sum.csv"},
        ],
    )
    lab.run("spec.json")
    assert (lab.cwd / "sum.csv").read_text().split() == ["3", "1", "3", "2"]
    assert set(lab.jobs()["sum"]["depends_on"]) == {"part_1", "part_2"}


def test_user_data_go_from_job_to_job(lab: Lab) -> None:
    """By the path that stands in the command, by the name, and as a file."""
    lab.spec(
        {"name": "tune", "command": f"{TORC} user-data update ${{user_data.output.best}} --data '{{\"lr\": 0.1}}'"},
        {
            "name": "train",
            "command": f"cat ${{user_data.input.best}}; {TORC} user-data get best -f json; "
            f"{TORC} user-data get ${{user_data.input.best}}",
        },
        user_data=[{"name": "best", "data": {"lr": 1}}],
    )
    lab.run("spec.json")
    first, rest = output(lab, "train").split("\n", 1)
    assert json.loads(first) == {"lr": 0.1}
    decoder = json.JSONDecoder()
    named, end = decoder.raw_decode(rest)
    assert named == {"name": "best", "data": {"lr": 0.1}}
    assert json.loads(rest[end:]) == {"lr": 0.1}


def test_an_aggregating_job_runs_once_after_all(lab: Lab) -> None:
    shared = {"use_parameters": ["n"]}
    lab.spec(
        {"name": "work_{n}", "command": "touch done_{n}", **shared},
        {"name": "aggregate", "command": "ls done_* | wc -l", "depends_on": ["work_{n}"], **shared},
        parameters={"n": "1:4"},
    )
    lab.run("spec.json")
    assert output(lab, "aggregate").strip() == "4"
    assert len(lab.jobs()) == 5


def test_jobs_are_claimed_in_the_order_of_the_sort_method(lab: Lab) -> None:
    lab.spec(
        {"name": "small", "resource_requirements": "r1"},
        {"name": "large", "resource_requirements": "r3"},
        {"name": "middle", "resource_requirements": "r2"},
        {"name": "first", "priority": 1},
        resource_requirements=[{"name": f"r{n}", "num_cpus": n} for n in (1, 2, 3)],
        jobs_sort_method="most_cpus",
    )
    assert lab.torc("submit", "spec.json") == (0, "1\n", "")
    preview = lab.torc("preview", 1, "--num-cpus", 16, "-f", "json").json
    assert preview["claimed"] == ["first", "large", "middle", "small"]


def test_a_rebuilt_job_keeps_its_place_in_the_order(lab: Lab) -> None:
    lab.submit("true", "true", jobs_sort_method="gpus_runtime_memory")
    path = lab.file("j2")
    name = path.name
    path.write_text("{")
    lab.run(1, code=3)
    lab.torc("retry", 1, "j2")
    assert lab.file("j2").name == name.replace(".1-c", ".2-c")


# -- submit --------------------------------------------------------------------------------------------------------


def test_missing_inputs_are_refused_by_submit_and_run(lab: Lab) -> None:
    lab.spec({"name": "a", "command": "cat ${files.input.f}"}, files=[{"name": "f", "path": "in.csv"}])
    for words in (("submit",), ("run",), ("submit", "--dry-run")):
        sentence = lab.torc(*words, "spec.json", code=2).sentence()
        assert sentence.startswith("spec.json: 1 input file is missing that no job produces: 'in.csv' of job 'a'")
    assert not lab.spool.exists(), "a spec that is refused leaves nothing"
    assert lab.torc("submit", "spec.json", "--ignore-missing-data").stdout == "1\n"
    lab.run("spec.json", "--ignore-missing-data", code=1)
    (lab.cwd / "in.csv").touch()
    lab.run("spec.json")


def test_inputs_are_looked_for_below_the_directory_of_the_submit(lab: Lab) -> None:
    elsewhere = lab.cwd / "data"
    elsewhere.mkdir()
    (elsewhere / "in.csv").touch()
    spec = lab.spec({"name": "a", "input_files": ["f"]}, files=[{"name": "f", "path": "in.csv"}])
    lab.torc("submit", spec, code=2)
    lab.torc("submit", spec, cwd=elsewhere)


def test_notes_are_said_once_each_on_stderr(lab: Lab) -> None:
    lab.spec(
        "true", {"name": "b", "termination_signal": "SIGINT"}, use_pending_failed=True, resource_monitor={"enabled": 1}
    )
    done = lab.torc("submit", "spec.json")
    assert done.stdout == "1\n"
    fields = [line.split(":")[1] for line in done.stderr.splitlines()]
    assert fields == [" resource_monitor", " use_pending_failed", " termination_signal"]
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())
    assert "note: use_pending_failed" in lab.run("spec.json").stderr


def test_a_dry_run_shows_what_there_is_and_submits_nothing(lab: Lab) -> None:
    lab.spec(
        {"name": "j_{n}", "parameters": {"n": "1:3"}},
        {"name": "last", "depends_on_regexes": ["^j_"]},
        user_data=[{"name": "d"}],
        use_pending_failed=True,
    )
    row = lab.torc("submit", "spec.json", "--dry-run", "-f", "json").json
    assert (row["jobs"], row["dependencies"], row["user_data"]) == (4, 3, ["d"])
    assert len(row["notes"]) == 1
    shown = lab.torc("submit", "spec.json", "--dry-run")
    assert "dependencies" in shown.stdout
    assert shown.stderr.startswith("note: use_pending_failed")
    assert not lab.spool.exists()


def test_a_dry_run_refuses_what_a_submit_refuses(lab: Lab) -> None:
    lab.spec({"name": "a", "depends_on": ["b"]})
    assert "there is no 'b' among the jobs" in lab.torc("submit", "spec.json", "--dry-run", code=2).sentence()
    (lab.cwd / "commands").write_text("true\nfalse\n")
    assert lab.torc("submit", "--commands", "commands", "--dry-run", "-f", "json").json["jobs"] == 2


def test_json5_is_kept_as_it_was(lab: Lab) -> None:
    text = "{name: 'w', /* here */ jobs: [{name: 'a', command: 'true'}]}"
    (lab.cwd / "w.json5").write_text(text)
    assert lab.torc("submit", "w.json5").stdout == "1\n"
    assert (lab.root() / "spec.json5").read_text() == text


def test_a_command_that_is_too_long_with_its_paths_is_refused_and_leaves_nothing(lab: Lab) -> None:
    command = "${user_data.input.d}" * 4000
    lab.spec({"name": "a", "command": f"echo {command}"}, user_data=[{"name": "d"}])
    sentence = lab.torc("submit", "spec.json", code=2).sentence()
    assert sentence.startswith("spec.json: job 'a': command with the paths of its user data: is ")
    assert [name for name in os.listdir(lab.spool) if not name.startswith(".")] == []
    assert os.listdir(lab.spool / ".staging") == []


# -- user-data -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(lab: Lab) -> Lab:
    values = [{"name": "a b", "data": {"x": [1]}}, {"name": "a_b"}, {"name": "late", "data": "é", "is_ephemeral": True}]
    lab.submit({"name": "j", "command": "true"}, user_data=values)
    return lab


def test_values_are_listed(data: Lab) -> None:
    assert data.torc("user-data", "list", 1, "-f", "json").json == [
        {"name": "a b", "data": {"x": [1]}, "is_ephemeral": False},
        {"name": "a_b", "data": None, "is_ephemeral": False},
        {"name": "late", "data": "é", "is_ephemeral": True},
    ]
    lines = data.torc("user-data", "list", 1).stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["name", "a", "a_b", "late"]
    assert data.ls("user_data") == ["a_b.json", "a_b_2.json", "late.json"]


def test_a_value_is_printed_bare_or_with_its_name(data: Lab) -> None:
    assert data.torc("user-data", "get", 1, "a b").json == {"x": [1]}
    assert data.torc("user-data", "get", 1, "a_b").stdout == "null\n"
    assert data.torc("-f", "json", "user-data", "get", 1, "late").json == {"name": "late", "data": "é"}


def test_the_id_may_be_left_out_inside_a_job(data: Lab) -> None:
    inside = {"TORC_WORKFLOW_ID": "1"}
    assert data.torc("user-data", "get", "late", env=inside).json == "é"
    assert data.torc("user-data", "list", "-f", "json", env=inside).json[2]["data"] == "é"
    data.torc("user-data", "update", "late", "--data", "5", env=inside)
    assert data.torc("user-data", "get", 1, "late").json == 5


def test_a_path_says_which_workflow_and_which_value(data: Lab) -> None:
    path = data.root() / "user_data" / "a_b_2.json"
    data.torc("user-data", "update", path, "--data", "[1, 2]", env={"TORC_SPOOL_DIR": None})
    assert data.torc("user-data", "get", path).json == [1, 2]
    assert data.torc("user-data", "get", 1, "a_b").json == [1, 2]


def test_a_value_comes_from_a_file_or_from_stdin(data: Lab) -> None:
    (data.cwd / "value.json").write_text('{"big": 123456789012345678901234567890,\n "f": 1.50}\n')
    data.torc("user-data", "update", 1, "late", "--file", "value.json")
    assert "123456789012345678901234567890" in data.torc("user-data", "get", 1, "late").stdout, "as it was written"
    assert "1.50" in (data.root() / "user_data/late.json").read_text()
    data.torc("user-data", "update", 1, "late", "--file", "-", stdin="true")
    assert data.torc("user-data", "get", 1, "late").stdout == "true\n"
    assert sorted(os.listdir(data.root() / "user_data")) == ["a_b.json", "a_b_2.json", "late.json"], "no temporaries"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("get", 1, "lat"), "workflow 1 has no user data 'lat'; did you mean 'late'?"),
        (("get", 1, "/tmp/x.json"), "workflow 1 has no user data '/tmp/x.json'"),
        (("get", "late"), "give the workflow's ID (TORC_WORKFLOW_ID is not set: this is not inside a job)"),
        (("get",), "give ID and NAME (inside a job NAME alone), got 0 words"),
        (("get", 1, "late", "x"), "give ID and NAME (inside a job NAME alone), got 3 words"),
        (("get", "x", "late"), "'x' is not a workflow's id"),
        (("get", 7, "late"), "no workflow 7 in"),
        (("get", "/nowhere/user_data/late.json"), "/nowhere was deleted"),
        (("list", 1, 2), "give one ID, got 2 words"),
        (("update", 1, "late"), "give either --data JSON or --file FILE"),
        (("update", 1, "late", "--data", "1", "--file", "-"), "give either --data JSON or --file FILE"),
        (("update", 1, "late", "--data", "{a: 1}"), "'late': not JSON ("),
        (("update", 1, "late", "--data", ""), "'late': not JSON ("),
        (("update", 1, "late", "--data", "NaN"), "'late': not JSON ("),
        (("update", 1, "late", "--data", '{"a": 1, "a": 2}'), "'late': not JSON (a key is given twice)"),
        (("update", 1, "late", "--file", "none.json"), "none.json: cannot be read: No such file or directory"),
        (("update", 1, "new", "--data", "1"), "workflow 1 has no user data 'new'"),
    ],
)
def test_what_user_data_refuses(data: Lab, words: tuple[object, ...], expected: str) -> None:
    assert expected in data.torc("user-data", *words, code=2).sentence()
    assert data.torc("user-data", "get", 1, "late").json == "é", "nothing has changed"


def test_a_value_that_was_spoiled_by_hand_is_said_and_made_anew(data: Lab) -> None:
    path = data.root() / "user_data" / "late.json"
    path.write_text("{")
    assert "is not JSON" in data.torc("user-data", "get", 1, "late", code=2).sentence()
    assert data.torc("user-data", "list", 1, "-f", "json").json[2]["data"] is None
    path.unlink()
    assert "is gone; `update` makes it anew" in data.torc("user-data", "get", 1, "late", code=2).sentence()
    data.torc("user-data", "update", 1, "late", "--data", "1")
    assert data.torc("user-data", "get", 1, "late").json == 1


def test_an_update_says_what_is_there_now(data: Lab) -> None:
    assert data.torc("user-data", "update", 1, "late", "--data", "[1]").stdout == ""
    done = data.torc("user-data", "update", 1, "late", "--data", ' {"a": 1} ', "-f", "json")
    assert done.json == {"name": "late", "data": {"a": 1}}


def test_of_many_updates_at_once_one_value_stays_whole(data: Lab) -> None:
    values = [{"by": number, "long": [number] * 2000} for number in range(6)]
    for number, value in enumerate(values):
        (data.cwd / f"{number}.json").write_text(json.dumps(value))
    started = [data.start("user-data", "update", 1, "late", "--file", f"{number}.json") for number in range(6)]
    for one in started:
        one.wait()
    assert data.torc("user-data", "get", 1, "late").json in values
    assert sorted(os.listdir(data.root() / "user_data")) == ["a_b.json", "a_b_2.json", "late.json"]


def test_a_directory_that_others_may_write_to_is_refused(data: Lab) -> None:
    (data.root() / "user_data").chmod(0o777)
    assert "--allow-shared" in data.torc("user-data", "update", 1, "late", "--data", "1", code=2).sentence()
    data.torc("user-data", "update", 1, "late", "--data", "1", "--allow-shared")


def test_a_workflow_without_user_data_has_neither_the_files_nor_values(lab: Lab) -> None:
    lab.submit("true")
    assert not (lab.root() / "user_data").exists()
    assert lab.torc("user-data", "list", 1, "-f", "json").json == []
