"""Parameters from files: lists and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spectools import names, read, refused, waits

CSV = 'model, lr,note\nresnet,0.001,"a,\nb"\n\nvit,1e-4,007\n'
JSON = '[{"model": "resnet", "lr": 0.001, "note": null}, {"model": "vit", "lr": 1, "note": [true]}]'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def row(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": "true", **fields}


def test_a_list_in_a_file_has_a_value_a_line(here: Path) -> None:
    (here / "seeds").write_text("# seeds\n3\n\n 0.50 \nx y\n")
    assert names(read(row("of_{s}", parameters={"s": "@seeds"}))) == ["of_3", "of_0.5", "of_x y"]
    shared = read(row("of_{s}", use_parameters=["s"]), parameters={"s": " @ seeds"})
    assert names(shared) == ["of_3", "of_0.5", "of_x y"]


def test_each_row_of_a_table_makes_one(here: Path) -> None:
    (here / "t.csv").write_text(CSV)
    (here / "t.json").write_text(JSON)
    (here / "t.jsonl").write_text('{"model": "resnet"}\n\n{"model": "vit"}\n')
    spec = read(
        row("train_{model}_{lr:.3f}", command="echo {note} ${files.output.of_{model}}", use_parameters_file=True),
        row("test_{model}", parameters_file="t.json", command="echo {note}", input_files=["of_{model}"]),
        row("all", parameters_file="t.jsonl", depends_on=["test_{model}"]),
        parameters_file="t.csv",
        files=[{"name": "of_{model}", "path": "{model}", "parameters_file": "t.csv"}],
    )
    assert waits(spec) == {
        "train_resnet_0.001": [],
        "train_vit_0.000": [],
        "test_resnet": ["train_resnet_0.001"],
        "test_vit": ["train_vit_0.000"],
        "all": ["test_resnet", "test_vit"],
    }
    assert [job.command for job in spec.jobs] == [
        *("echo a,\nb resnet", "echo 7 vit", "echo null", "echo [true]"),
        "true",
    ]


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (
            {"parameters": {"s": "@none"}},
            "parameters: s: 'none' cannot be read: No such file or directory (for text that",
        ),
        ({"parameters": {"s": "@"}}, "parameters: s: '' cannot be read"),
        ({"parameters": {"s": "@empty.csv"}}, "parameters: s: has no values"),
        ({"parameters_file": "none.csv"}, "job 'a': parameters_file: 'none.csv' cannot be read: No such file"),
        ({"parameters_file": "t.txt"}, "'t.txt' is no table; its name must end in .csv"),
        ({"parameters_file": "empty.csv"}, "the table 'empty.csv' has no rows"),
        ({"parameters_file": "short.csv"}, "line 3 of the table 'short.csv' has 1 cells and its first line 2"),
        ({"parameters_file": "two.csv"}, "has two columns of one name"),
        ({"parameters_file": "name.csv"}, "parameters_file: a b: 'a b' is no name of a parameter"),
        ({"parameters_file": "odd.json"}, "row 2 of the table 'odd.json' has no 'x', unlike the first row"),
        ({"parameters_file": "map.json"}, "the table 'map.json' must be a list of mappings, got a mapping"),
        ({"parameters_file": "nan.json"}, "the table 'nan.json' is no JSON: NaN is no number of JSON"),
        ({"parameters_file": "binary.csv"}, "'binary.csv' cannot be read: it is not UTF-8 text"),
        ({"use_parameters_file": True}, "job 'a': use_parameters_file: the workflow has no parameters_file"),
        ({"parameters_file": "t.csv", "parameters": {"i": 1}}, "job 'a': has a table, and parameters too"),
        ({"parameters_file": "t.csv", "use_parameters_file": True}, "and use_parameters_file too; give one of them"),
    ],
)
def test_lists_and_tables_that_are_refused(here: Path, job: dict[str, Any], expected: str) -> None:
    (here / "empty.csv").write_text("")
    (here / "t.csv").write_text(CSV)
    (here / "short.csv").write_text("x,y\n1,2\n3\n")
    (here / "two.csv").write_text("x,x\n1,2\n")
    (here / "name.csv").write_text("a b\n1\n")
    (here / "odd.json").write_text('[{"x": 1, "y": 2}, {"y": 2}]')
    (here / "map.json").write_text("{}")
    (here / "nan.json").write_text('[{"x": NaN}]')
    (here / "binary.csv").write_bytes(b"\xff\xfe")
    assert expected in refused(row(**job))


def test_a_workflow_has_parameters_or_a_table(here: Path) -> None:
    (here / "t.csv").write_text(CSV)
    expected = "parameters_file: is given, and parameters too; give one of them"
    assert expected in refused(row(), parameters_file="t.csv", parameters={"i": 1})
