"""Who waits for whom: by names, by regular expressions, by files, by user data."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectools import document, names, only, read, refused, waits

from torc_spool.dataflow import unproduced, with_paths
from torc_spool.errors import SpecError
from torc_spool.inputs import check_inputs, missing_inputs
from torc_spool.spec import parse

LAW = settings(deadline=None)
FILES = [{"name": "raw", "path": "data/raw.csv"}, {"name": "tidy", "path": "data/tidy.csv"}]
DATA = [{"name": "config", "data": {"lr": 0.1}}, {"name": "metrics"}]


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


# -- files -------------------------------------------------------------------------------------------------------


def test_who_reads_a_file_waits_for_who_writes_it() -> None:
    spec = read(row("fit", input_files=["tidy"]), row("clean", input_files=["raw"], output_files=["tidy"]), files=FILES)
    assert waits(spec) == {"fit": ["clean"], "clean": []}
    fit, clean = spec.jobs
    assert (fit.input_files, fit.output_files) == (("data/tidy.csv",), ())
    assert (clean.input_files, clean.output_files) == (("data/raw.csv",), ("data/tidy.csv",))


def test_references_in_a_command_are_paths_and_dependencies() -> None:
    spec = read(
        row("clean", command="clean '${files.input.raw}' > ${files.output.tidy}"),
        row("fit", command="fit", invocation_script="stage ${files.input.tidy} ${HOME} ${files_of_mine}"),
        files=FILES,
    )
    clean, fit = spec.jobs
    assert clean.command == "clean 'data/raw.csv' > data/tidy.csv"
    assert fit.invocation_script == "stage data/tidy.csv ${HOME} ${files_of_mine}"
    assert fit.depends_on == (1,)
    assert clean.output_files == fit.input_files == ("data/tidy.csv",)


def test_a_file_named_twice_counts_once() -> None:
    job = only(row("a", command="cat ${files.input.raw} ${files.input.raw}", input_files=["raw", "raw"]), files=FILES)
    assert job.input_files == ("data/raw.csv",)


def test_two_names_of_one_path_are_one_file() -> None:
    files = [*FILES, {"name": "alias", "path": "./data//tidy.csv"}]
    spec = read(row("clean", output_files=["tidy"]), row("fit", input_files=["alias"]), files=files)
    assert waits(spec)["fit"] == ["clean"]
    sentence = refused(row("clean", output_files=["tidy"]), row("fit", output_files=["alias"]), files=files)
    assert sentence.startswith("job 'fit': output_files: file 'alias' is an output of job 'clean' too (as 'tidy'")


def test_files_are_found_by_regexes() -> None:
    files = [{"name": f"part_{n}", "path": f"{n}.csv"} for n in range(3)]
    spec = read(
        row("make", output_file_regexes=["^part_[01]$"]),
        row("last", output_files=["part_2"]),
        row("join", input_file_regexes=["art"]),
        files=files,
    )
    assert waits(spec)["join"] == ["make", "last"]
    assert spec.jobs[0].output_files == ("0.csv", "1.csv")
    assert spec.jobs[2].input_files == ("0.csv", "1.csv", "2.csv")


def test_a_regex_does_not_find_what_is_at_the_jobs_other_end() -> None:
    files = [*FILES, {"name": "sum", "path": "data/sum.csv"}]
    spec = read(row("sum", input_file_regexes=["."], output_files=["sum"]), files=files)
    assert spec.jobs[0].input_files == ("data/raw.csv", "data/tidy.csv")
    sentence = refused(row("sum", input_file_regexes=["sum"], output_files=["sum"]), files=files)
    assert "'sum' is found in nothing but what is at this job's other end" in sentence


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([row("a", input_files=["rw"])], "job 'a': input_files: there is no 'rw' among the files; did you mean 'raw'?"),
        ([row("a", output_files=["zzz"])], "job 'a': output_files: there is no 'zzz' among the files; define it"),
        ([row("a", command="cat ${files.input.tidi}")], "job 'a': command: there is no 'tidi' among the files; did"),
        ([row("a", invocation_script="${files.output.t}")], "job 'a': invocation_script: there is no 't' among"),
        (
            [row("a", command="cat ${files.inputs.raw}")],
            "job 'a': command: holds '${files.inputs.raw}', a reference that cannot be",
        ),
        ([row("a", command="cat ${files.raw}")], "write ${files.input.NAME}"),
        ([row("a", input_file_regexes=["("])], "job 'a': input_file_regexes: '(' is not a regular expression"),
        ([row("a", input_file_regexes=["^b"])], "'^b' is found in none of the names of the files"),
        ([row("a", output_file_regexes=["^b"])], "job 'a': output_file_regexes: '^b' is found in none"),
        ([row("a", input_files=["raw"], output_files=["raw"])], "the file 'raw' is both input and output of this job"),
        (
            [row("a", output_files=["raw"]), row("b", command="> ${files.output.raw}")],
            "job 'b': command: file 'raw' is an output of job 'a' too; one job alone may produce it",
        ),
        (
            [row("p_{d}", command="${files.input.of_{d}}", parameters={"d": ["a"]})],
            "there is no 'of_a' among the files; did you mean 'of_{d}', which must have parameters too?",
        ),
    ],
)
def test_files_that_are_refused(jobs: list[dict[str, Any]], expected: str) -> None:
    assert expected in refused(*jobs, files=[*FILES, {"name": "of_{d}", "path": "{d}.csv"}])


def test_a_circle_through_files_names_the_file() -> None:
    sentence = refused(
        row("a", input_files=["raw"], output_files=["tidy"]),
        row("b", command="x ${files.input.tidy} ${files.output.raw}"),
        files=FILES,
    )
    assert "in a circle: a -> b -> a (each depends on the next)" in sentence
    assert "a because its input_files has the file 'raw', an output of b" in sentence


def test_stages_that_wait_for_each_other_too_often_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [
        row("one_{i}", parameters={"i": "1:3"}),
        row("two_{i}", parameters={"i": "1:3"}, depends_on_regexes=["^one_", "_1$"]),
    ]
    assert waits(read(*stages))["two_2"] == ["one_1", "one_2", "one_3", "two_1"]
    monkeypatch.setattr("torc_spool.dataflow.MAX_WAITS", 8)
    assert "jobs: wait for each other more than 8 times; let one job wait for a whole stage" in refused(*stages)


# -- datasets


SETS = [{"name": "parts", "path": "out/parts/"}, {"name": "again", "path": "out/parts"}]


def test_who_reads_a_dataset_waits_for_all_who_write_it() -> None:
    spec = read(
        row("all", command="cat ${datasets.input.again}/*"),
        row("w_{i}", command="make ${datasets.output.parts}/{i}", parameters={"i": "1:2"}),
        row("last", output_datasets=["parts"], depends_on=["w_2"]),
        datasets=SETS,
    )
    assert waits(spec) == {"all": ["w_1", "w_2", "last"], "w_1": [], "w_2": [], "last": ["w_2"]}
    assert spec.jobs[1].command == "make out/parts//1"
    assert (spec.jobs[0].input_files, spec.jobs[1].output_files) == (("out/parts",), ("out/parts/",))
    assert unproduced(spec.jobs) == {}


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([row("a", input_datasets=["partz"])], "job 'a': input_datasets: there is no 'partz' among the datasets; did"),
        ([row("a", command="ls ${datasets.inputs.parts}")], "write ${files.input.NAME}, ${files.output.NAME}, or user"),
        (
            [row("a", input_datasets=["parts"], output_datasets=["again"])],
            "the dataset 'parts' is both input and output",
        ),
        (
            [row("a", input_datasets=["parts"]), row("b", output_datasets=["parts"], depends_on=["a"])],
            "-> a (each depends on the next), a because its input_datasets has the dataset 'parts', an output of b",
        ),
    ],
)
def test_datasets_that_are_refused(jobs: list[dict[str, Any]], expected: str) -> None:
    assert expected in refused(*jobs, datasets=SETS)


# -- user data ---------------------------------------------------------------------------------------------------


def test_user_data_make_dependencies_as_files_do() -> None:
    spec = read(
        row("train", command="cat ${user_data.input.config}", output_user_data=["metrics"]),
        row("tune", command="echo > ${user_data.output.config}"),
        row("report", input_user_data_regexes=["met"]),
        user_data=DATA,
    )
    assert waits(spec) == {"train": ["tune"], "tune": [], "report": ["train"]}
    train, tune, _ = spec.jobs
    assert (train.input_user_data, train.output_user_data) == (("config",), ("metrics",))
    assert tune.output_user_data == ("config",)
    assert train.command == "cat ${user_data.input.config}", "the path is known at the submit"


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([row("a", input_user_data=["confg"])], "there is no 'confg' among the user_data; did you mean 'config'?"),
        ([row("a", command="${user_data.input.x}")], "job 'a': command: there is no 'x' among the user_data"),
        ([row("a", output_user_data_regexes=["^x"])], "output_user_data_regexes: '^x' is found in none"),
        ([row("a", input_user_data=["config"], output_user_data=["config"])], "user data 'config' is both input and"),
        (
            [row("a", output_user_data=["config"]), row("b", output_user_data=["config"])],
            "job 'b': output_user_data: user data 'config' is an output of job 'a' too",
        ),
    ],
)
def test_user_data_that_are_refused(jobs: list[dict[str, Any]], expected: str) -> None:
    assert expected in refused(*jobs, user_data=DATA)


def test_a_circle_through_user_data_names_them() -> None:
    sentence = refused(
        row("a", input_user_data=["config"], output_user_data=["metrics"]),
        row("b", input_user_data=["metrics"], depends_on=["a"], output_user_data=["config"]),
        user_data=DATA,
    )
    assert "a because its input_user_data has the user data 'config', an output of b" in sentence


# -- names -------------------------------------------------------------------------------------------------------


def test_regexes_find_jobs_anywhere_in_their_names() -> None:
    spec = read(row("train_1"), row("retrain_2"), row("train_all", depends_on_regexes=["train_"]))
    assert waits(spec)["train_all"] == ["train_1", "retrain_2"]
    spec = read(row("train_1"), row("retrain_2"), row("all", depends_on_regexes=["^train_", "_1$"]))
    assert waits(spec)["all"] == ["train_1"]


def test_all_ways_to_wait_are_united() -> None:
    spec = read(
        row("a", output_files=["raw"]),
        row("b"),
        row("c", depends_on=["b"], depends_on_regexes=["^[ab]$"], input_files=["raw"]),
        files=FILES,
    )
    assert waits(spec)["c"] == ["b", "a"]


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        ("[", "job 'b': depends_on_regexes: '[' is not a regular expression"),
        ("^c", "job 'b': depends_on_regexes: '^c' is found in none of the names of the jobs"),
        ("^b$", "job 'b': depends_on_regexes: '^b$' is found in no other job's name"),
        ("(?P<n>", "is not a regular expression"),
        ("a{99999999999999}", "is not a regular expression"),
        ("(" * 10_000, "is not a regular expression"),
    ],
)
def test_regexes_that_are_refused(regex: str, expected: str) -> None:
    assert expected in refused(row("a"), row("b", depends_on_regexes=[regex]))


def test_jobs_that_find_each_other_are_a_circle() -> None:
    sentence = refused(row("a", depends_on_regexes=["."]), row("b", depends_on_regexes=["."]))
    assert "in a circle: a -> b -> a" in sentence


# -- what must be there --------------------------------------------------------------------------------------------


def test_input_files_that_no_job_produces_must_be_there(tmp_path: Any) -> None:
    spec = read(
        row("clean", input_files=["raw"], output_files=["tidy"]), row("fit", input_files=["tidy", "raw"]), files=FILES
    )
    assert unproduced(spec.jobs) == {"data/raw.csv": "clean"}
    assert missing_inputs(spec.jobs, str(tmp_path)) == {"data/raw.csv": "clean"}
    with pytest.raises(
        SpecError, match=r"^1 input file is missing that no job produces: 'data/raw.csv' of job 'clean'"
    ):
        check_inputs(spec.jobs, str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/raw.csv").touch()
    check_inputs(spec.jobs, str(tmp_path))


def test_the_first_of_many_missing_files_are_named(tmp_path: Any) -> None:
    files = [{"name": f"f{n}", "path": f"{tmp_path}/f{n}"} for n in range(20)]
    spec = read(row("a", input_file_regexes=["f"]), files=files)
    with pytest.raises(SpecError) as caught:
        check_inputs(spec.jobs, "/")
    assert "20 input files are missing" in str(caught.value)
    assert "/f4' of job 'a' and 15 more; make them first, or pass --ignore-missing-data" in str(caught.value)


# -- laws ----------------------------------------------------------------------------------------------------------


@LAW
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_files_say_the_same_as_names_do(edges: list[tuple[int, int]]) -> None:
    """Each job writes a file of its own; who names a job, and who reads its file, wait for the same."""
    wanted = {reader: {writer for one, writer in edges if one == reader and writer < reader} for reader in range(10)}
    by_name = read(*(row(f"j{n}", depends_on=[f"j{other}" for other in sorted(wanted[n])]) for n in range(10)))
    by_file = read(
        *(
            row(f"j{n}", output_files=[f"f{n}"], input_files=[f"f{other}" for other in sorted(wanted[n])])
            for n in range(10)
        ),
        files=[{"name": f"f{n}", "path": str(n)} for n in range(10)],
    )
    assert waits(by_name) == waits(by_file)


@LAW
@given(st.text(max_size=30), st.dictionaries(st.sampled_from("abc"), st.text(max_size=5)))
def test_a_text_without_references_stays_as_it_is(text: str, paths: dict[str, str]) -> None:
    assert with_paths(text, "files", paths) == text or "${files." in text


def test_only_references_of_one_kind_are_replaced() -> None:
    text = "${files.input.a} ${user_data.input.a} ${files.input.b} ${a}"
    assert with_paths(text, "files", {"a": "$0"}) == "$0 ${user_data.input.a} ${files.input.b} ${a}"


# -- size ----------------------------------------------------------------------------------------------------------


def test_a_pipeline_of_many_files_and_a_regex_over_all_of_them() -> None:
    size = 5000
    jobs = [row(f"make_{n}", command=f"x > ${{files.output.f{n}}}") for n in range(size)]
    jobs += [row(f"use_{n}", depends_on=[f"make_{n}"]) for n in range(size)]
    jobs += [row("all", depends_on_regexes=["^use_"], input_file_regexes=["^f"])]
    files = [{"name": f"f{n}", "path": f"out/{n}"} for n in range(size)]
    spec = parse(document(*jobs, files=files), "w.json")
    assert len(names(spec)) == 2 * size + 1
    assert set(spec.jobs[-1].depends_on) == set(range(1, 2 * size + 1))
    assert all(job.depends_on == (job.id - size,) for job in itertools.islice(spec.jobs, size, 2 * size))
