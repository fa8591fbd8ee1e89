"""Names: read and written they stay the same, sorted they are the order of claims, and nothing else is one of ours."""

from __future__ import annotations

import os
import re
import string
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from torc_spool import naming
from torc_spool.errors import BadName
from torc_spool.model import MAX_PRIORITY, Needs
from torc_spool.naming import Cause, JobName, Request
from torc_spool.quantities import MAX_MEMORY_BYTES, MAX_RUNTIME_S

LAW = settings(deadline=None)  # no test fails because the machine is busy
EXAMPLE = "999900-000000042.1-c16g2n1m131072t28800-train_model.json"

SAFE = string.ascii_letters + string.digits + "_"
slugs = st.builds(str.__add__, st.sampled_from(SAFE), st.text(alphabet=SAFE + ".-", max_size=79))
keys = st.text(alphabet=string.digits + string.ascii_lowercase, min_size=1, max_size=32)
ids = st.integers(1, 999_999_999)
causes = st.builds(Cause, ids, ids)
needs = st.builds(
    Needs,
    st.integers(1, 999_999),
    st.integers(0, 999_999),
    st.integers(1, 999_999),
    st.integers(1, 10**13 - 1),
    st.integers(0, 10**12 - 1),
)
job_names = st.builds(
    JobName, st.integers(0, MAX_PRIORITY), ids, ids, needs, slugs, st.none() | keys, st.none() | causes
)
hosts = st.text(max_size=120) | st.text(alphabet=string.ascii_letters + "-._0123456789", max_size=120)
runners = st.builds(naming.new_runner_name, hosts, st.integers(1, 4_194_304))


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


def mutated(draw: st.DrawFn, text: str) -> str:
    """The text with one of its characters removed, replaced or doubled, or with one put in."""
    at = draw(st.integers(0, len(text)))
    character = draw(st.sampled_from([*"0123456789-.~_acgnmt /\n\0é"]) | st.characters())
    kind = draw(st.sampled_from(["remove", "replace", "insert", "swap"]))
    if kind == "remove":
        return text[:at] + text[at + 1 :]
    if kind == "replace":
        return text[:at] + character + text[at + 1 :]
    if kind == "insert":
        return text[:at] + character + text[at:]
    return text[at:] + text[:at]


near_misses = st.composite(lambda draw: mutated(draw, str(draw(job_names))))()


# --- a job's file


def test_the_name_in_the_format_document_says_what_the_table_says() -> None:
    assert naming.parse_job(EXAMPLE) == JobName(
        rank=999_900, id=42, attempt=1, needs=Needs(16, 2, 1, 131_072, 28_800), slug="train_model"
    )
    assert naming.parse_job(EXAMPLE).priority == 99


def test_a_submitted_job_gets_the_name_in_the_format_document() -> None:
    name = naming.job_name(priority=99, job=42, needs=Needs(16, 2, 1, 131_072, 28_800), name="train model")
    assert str(name) == EXAMPLE


@LAW
@given(job_names)
def test_what_is_written_is_read_back_the_same(name: JobName) -> None:
    assert naming.parse_job(str(name)) == name


@LAW
@given(st.text() | near_misses | job_names.map(str))
@example(EXAMPLE + "\n")
@example(EXAMPLE.replace("c16", "c016"))
@example(EXAMPLE.replace("42", "4\u0968"))
@example(EXAMPLE.replace("000000042", "000000000"))
def test_any_text_is_refused_or_is_exactly_what_would_be_written(text: str) -> None:
    try:
        name = naming.parse_job(text)
    except BadName:
        assert naming.job_id(text) is None
    else:
        assert str(name) == text
        assert naming.job_id(text) == (name.id, name.attempt)


@cases(
    "name",
    {
        "empty": "",
        "another program's": "README",
        "a temporary": f".{EXAMPLE}.tmp",
        "an editor's copy": EXAMPLE + "~",
        "another ending": EXAMPLE.replace(".json", ".JSON"),
        "a path": f"any/{EXAMPLE}",
        "a line break at its end": EXAMPLE + "\n",
        "a line break in it": EXAMPLE.replace("train", "tr\nain"),
        "seven digits of rank": "9" + EXAMPLE,
        "five digits of rank": EXAMPLE[1:],
        "a negative rank": "-00001" + EXAMPLE[6:],
        "no job 0": EXAMPLE.replace("000000042", "000000000"),
        "eight digits of id": EXAMPLE.replace("000000042", "00000042"),
        "no attempt 0": EXAMPLE.replace("42.1", "42.0"),
        "an attempt with a leading zero": EXAMPLE.replace("42.1", "42.01"),
        "no attempt": EXAMPLE.replace("42.1", "42"),
        "an empty key": EXAMPLE.replace("999900-", "999900.-"),
        "a key in capitals": EXAMPLE.replace("999900-", "999900.A-"),
        "a key of 33": EXAMPLE.replace("999900-", f"999900.{'a' * 33}-"),
        "no cpu": EXAMPLE.replace("c16", "c0"),
        "no node": EXAMPLE.replace("n1", "n0"),
        "no memory": EXAMPLE.replace("m131072", "m0"),
        "a leading zero": EXAMPLE.replace("c16", "c016"),
        "digits that are not ASCII": EXAMPLE.replace("c16", "c\u0661\u0666"),
        "a part of the needs is missing": EXAMPLE.replace("g2", ""),
        "parts in another order": EXAMPLE.replace("c16g2", "g2c16"),
        "an empty slug": EXAMPLE.replace("train_model", ""),
        "a slug that begins with a dot": EXAMPLE.replace("train", ".train"),
        "a slug that begins with a dash": EXAMPLE.replace("train", "-train"),
        "a slug with a space": EXAMPLE.replace("_", " "),
        "a slug of 81": EXAMPLE.replace("train_model", "a" * 81),
        "a cause that is no attempt": EXAMPLE.replace(".json", "~000000001.json"),
        "two causes": EXAMPLE.replace(".json", "~000000001.1~000000001.1.json"),
        "a cause in job 0": EXAMPLE.replace(".json", "~000000000.1.json"),
    },
)
def test_what_is_not_a_job_name_is_refused(name: str) -> None:
    assert naming.job_id(name) is None
    with pytest.raises(BadName, match="not the name of a job's file"):
        naming.parse_job(name)


@LAW
@given(st.lists(st.builds(lambda name, i: name._replace(id=i, cause=None), job_names, ids), unique_by=lambda n: n.id))
def test_sorted_names_are_the_order_of_claims(names: list[JobName]) -> None:
    by_name = sorted(names, key=str)
    assert by_name == sorted(names, key=lambda name: (-name.priority, name.key or "", name.id))


@LAW
@given(st.integers(0, MAX_PRIORITY), st.integers(0, MAX_PRIORITY), ids, ids, keys, keys)
@example(0, 0, 9, 10, "a", "a")
@example(0, 0, 1, 2, "ab", "a")
@example(9, 10, 1, 2, "a", "a")
def test_order_of_claims_is_priority_then_key_then_id(
    one: int, other: int, first: int, second: int, key: str, other_key: str
) -> None:
    assume(first != second)

    def name(priority: int, job: int, key: str) -> JobName:
        return naming.job_name(priority=priority, job=job, needs=Needs(), name="a", key=key)

    wanted = (-one, key, first) < (-other, other_key, second)
    assert (str(name(one, first, key)) < str(name(other, second, other_key))) == wanted


@LAW
@given(st.integers(0, MAX_PRIORITY), ids, needs, st.text())
def test_whatever_a_job_is_called_its_file_has_a_good_name(priority: int, job: int, wanted: Needs, text: str) -> None:
    name = naming.job_name(priority=priority, job=job, needs=wanted, name=text)
    assert naming.parse_job(str(name)) == name
    assert (name.priority, name.id, name.attempt, name.needs) == (priority, job, 1, wanted)


@cases(
    "wrong",
    {
        "priority too high": {"priority": MAX_PRIORITY + 1},
        "priority below 0": {"priority": -1},
        "job 0": {"job": 0},
        "an id of ten digits": {"job": 10**9},
        "attempt 0": {"attempt": 0},
        "no cpu": {"needs": Needs(num_cpus=0)},
        "gpus below 0": {"needs": Needs(num_gpus=-1)},
        "no node": {"needs": Needs(num_nodes=0)},
        "no memory": {"needs": Needs(memory_mib=0)},
        "runtime below 0": {"needs": Needs(runtime_s=-1)},
        "a key with a dash": {"key": "a-b"},
        "an empty key": {"key": ""},
    },
)
def test_what_no_name_can_hold_is_not_made_into_one(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadName, match="no file name holds this"):
        naming.job_name(**({"priority": 0, "job": 1, "needs": Needs(), "name": "a"} | wrong))


def test_every_name_leaves_room_for_a_temporary_beside_it() -> None:
    longest = JobName(
        MAX_PRIORITY,
        999_999_999,
        999_999_999,
        Needs(999_999, 999_999, 999_999, 10**13 - 1, 10**12 - 1),
        "s" * 80,
        "k" * 32,
        Cause(999_999_999, 999_999_999),
    )
    assert naming.parse_job(str(longest)) == longest
    assert len(f".{longest}.tmp") <= naming.MAX_NAME_BYTES


def test_the_largest_amounts_of_a_specification_have_a_name() -> None:
    largest = Needs(100_000, 10_000, 100_000, MAX_MEMORY_BYTES // 2**20 + 1, MAX_RUNTIME_S)
    assert naming.parse_job(str(naming.job_name(priority=0, job=1, needs=largest, name="a"))).needs == largest


# --- slugs


@LAW
@given(st.text())
@example("")
@example(".")
@example("..")
@example("-")
@example("-" * 80)
@example("a/b")
@example("." + "x" * 200)
def test_a_slug_is_safe_short_and_never_empty(text: str) -> None:
    slug = naming.slugify(text)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", slug, re.ASCII)


@LAW
@given(st.text())
def test_a_slug_stays_as_it_is(text: str) -> None:
    assert naming.slugify(naming.slugify(text)) == naming.slugify(text)


@LAW
@given(slugs)
def test_what_is_safe_already_is_kept(text: str) -> None:
    assert naming.slugify(text) == text


@cases(
    ("text", "slug"),
    {
        "a space": ("train model", "train_model"),
        "each character that is not safe": ("a  b//c", "a__b__c"),
        "letters that are not ASCII": ("größe", "gr__e"),
        "a first dot, which would hide it": (".profile", "_.profile"),
        "a first dash, which would look like an option": ("-rf", "_-rf"),
        "the parent directory": ("..", "_.."),
        "nothing": ("", "_"),
        "what names separate their parts with": ("a~b.json", "a_b.json"),
    },
)
def test_slug_of(text: str, slug: str) -> None:
    assert naming.slugify(text) == slug


def test_a_job_bound_to_no_scheduler_goes_to_any() -> None:
    assert naming.scheduler_directory(None) == "any"
    assert naming.scheduler_directory("gpu cluster") == "gpu_cluster"


# --- workflows


@LAW
@given(ids, st.text())
def test_a_workflow_directory_is_read_back(workflow: int, name: str) -> None:
    assert naming.parse_workflow(naming.workflow_directory(workflow, name)) == (workflow, naming.slugify(name))


@LAW
@given(st.text())
def test_any_directory_is_a_workflow_only_if_it_would_be_written_so(text: str) -> None:
    parsed = naming.parse_workflow(text)
    assert parsed is None or naming.workflow_directory(*parsed) == text


@cases(
    "name", {name: name for name in ("0-a", "01-a", "1", "1-", "1-.a", ".ids", "1-a\n", "1-a/b", "\u0663-a", "-1-a")}
)
def test_what_is_not_a_workflow(name: str) -> None:
    assert naming.parse_workflow(name) is None


# --- runners


@LAW
@given(hosts, st.integers(1, 4_194_304))
@example("", 1)
@example("-", 1)
@example("xn--bcher-kva.example", 1)
@example("node-", 1)
@example("a" * 300, 4_194_304)
def test_whatever_a_host_is_called_its_runner_has_a_name_that_is_recognized(host: str, pid: int) -> None:
    name = naming.new_runner_name(host, pid)
    assert naming.is_runner(name)
    assert naming.owners(name) == (name, name)
    assert name.rsplit("-", 2)[1] == str(pid)


def test_no_two_runners_have_one_name() -> None:
    assert len({naming.new_runner_name("host", 1) for _ in range(100)}) == 100


@LAW
@given(runners, runners)
def test_a_taken_directory_says_who_holds_it_and_whose_it_was(taker: str, owner: str) -> None:
    directory = naming.taken_directory(taker, owner)
    assert naming.owners(directory) == (taker, owner)
    assert not naming.is_runner(directory)
    assert len(directory) <= naming.MAX_NAME_BYTES


@LAW
@given(st.text())
def test_any_directory_is_an_owner_only_if_it_would_be_written_so(text: str) -> None:
    parts = naming.owners(text)
    assert parts is None or text in (parts[0], naming.taken_directory(*parts))


@cases(
    "name",
    {
        "empty": "",
        "no process": "host-0123abcd",
        "capitals in the random part": "host-1-0123ABCD",
        "a short random part": "host-1-0123abc",
        "a long random part": "host-1-0123abcde",
        "hidden": ".host-1-0123abcd",
        "a path": "a/host-1-0123abcd",
        "a line break": "host-1-0123abcd\n",
        "no host": "-1-0123abcd",
        "three of them": "~".join(["host-1-0123abcd"] * 3),
        "a taker of nobody": "host-1-0123abcd~",
        "taken by nobody": "~host-1-0123abcd",
    },
)
def test_what_is_not_an_owner(name: str) -> None:
    assert naming.owners(name) is None
    assert not naming.is_runner(name)


# --- requests


@LAW
@given(causes.map(lambda job: Request(job=job)) | runners.map(lambda runner: Request(runner=runner)))
def test_a_request_is_read_back(request: Request) -> None:
    assert naming.parse_request(str(request)) == request


@LAW
@given(st.text() | st.text().map("stop-{}".format) | st.text().map("cancel-{}".format))
def test_any_name_is_a_request_only_if_it_would_be_written_so(text: str) -> None:
    request = naming.parse_request(text)
    assert request is None or str(request) == text


@cases(
    "name",
    {
        "a job without its attempt": "cancel-000000001",
        "a job by its number": "cancel-1.1",
        "job 0": "cancel-000000000.1",
        "attempt 0": "cancel-000000001.0",
        "no runner's name": "stop-everything",
        "a directory that was taken": "stop-host-1-0123abcd~host-1-0123abcd",
        "both": "cancel-000000001.1stop-host-1-0123abcd",
        "another wish": "pause-000000001.1",
    },
)
def test_what_is_not_a_request(name: str) -> None:
    assert naming.parse_request(name) is None


# --- outputs, and what is set aside


@LAW
@given(st.lists(job_names, unique_by=lambda name: (name.id, name.attempt)), ids)
def test_no_two_attempts_write_into_one_file(names: list[JobName], workflow: int) -> None:
    files = [file for name in names for file in naming.output_names(workflow, name)]
    assert len(set(files)) == 2 * len(names)
    assert all("/" not in file and len(file) <= naming.MAX_NAME_BYTES for file in files)


@LAW
@given(job_names, st.one_of(runners, st.sampled_from(["blocked", "ready/any", "done/canceled"])))
def test_what_was_a_job_is_still_known_when_it_is_set_aside(name: JobName, origin: str) -> None:
    aside = naming.aside_name(str(name), origin)
    assert naming.aside_job_id(aside) == (name.id, name.attempt)
    assert naming.job_id(aside) is None


@LAW
@given(st.text(alphabet=st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1), st.text(max_size=300))
@example("é" * 127, "ready/any")
@example("x" * 255, "r" * 255)
@example("\udcff" * 255, "\udcff" * 300)
def test_whatever_is_set_aside_gets_a_name_that_a_filesystem_takes(name: str, origin: str) -> None:
    origin = origin.replace("\0", "").encode("utf-8", "surrogateescape" if "\udcff" in origin else "replace")
    aside = naming.aside_name(name, os.fsdecode(origin))
    assert len(os.fsencode(aside)) <= naming.MAX_NAME_BYTES
    assert "/" not in aside
    assert naming.aside_name(name, os.fsdecode(origin)) != aside


def test_what_is_set_aside_says_what_it_was_called_and_where_it_lay() -> None:
    assert re.fullmatch(r"README~ready\.any~[0-9a-f]{8}", naming.aside_name("README", "ready/any"))


@LAW
@given(st.text())
def test_what_was_no_job_is_none_when_it_is_set_aside(text: str) -> None:
    assert naming.aside_job_id(text) is None or naming.job_id(text.split(".json~")[0] + ".json") is not None
