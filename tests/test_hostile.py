"""Hostile input: what is given, or lies there, may be anything. No traceback, no hang, no write outside, no escape."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import hostile
import hostilespool
import pytest
from hostile import WORDS, call
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from spooltools import directory_in_memory, without_syncs_and_searches
from torc_spool_cli import logs
from torc_spool_cli import main as cli

from torc_spool import sbatch, squeue, submission
from torc_spool.allocation import hostnames
from torc_spool.errors import SpecError
from torc_spool.siteprofile import parse_sinfo

quick = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory deep below one that is watched, with a spool that has something of everything."""
    before = os.getcwd()
    with (
        directory_in_memory(tmp_path_factory.mktemp("hostile")) as memory,
        without_syncs_and_searches(),
        pytest.MonkeyPatch.context() as patch,
    ):
        base = Path(os.path.realpath(memory)) / "a" / "b"
        work = base / "c" / "work"
        work.mkdir(parents=True, mode=0o755)
        patch.setenv("TORC_SPOOL_DIR", "spool")
        patch.chdir(work)
        hostilespool.make(work)
        shutil.copytree(work, base / "template", symlinks=True)
        yield work
        os.chdir(before)


def fresh(place: Path) -> None:
    """The directory as it was."""
    os.chdir(place.parent)
    shutil.rmtree(place)
    shutil.copytree(place.parent.parent / "template", place, symlinks=True)
    os.chdir(place)


# -- the command line ----------------------------------------------------------------------------------------------


def commands(
    command: click.Command = cli.cli, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*words, name))


COMMANDS = [each for each in commands() if each[0] != ("doctor",)]  # it makes its directory where it is told to
KNOWN = ("1", "2", "spec.json", "a", "b", "u", "gpu", "spool/1-flow")
PATIENT = {"wait_for_new_jobs", "timeout"}  # asked to wait, they do
SHORT = ("0", "0.05", "1e-3", "-1", "nan", "x", "")


@st.composite
def command_lines(draw: Callable[..., Any]) -> list[str]:
    """Any command with any options, with values of which few make sense."""
    words, command = draw(st.sampled_from(COMMANDS))
    value = st.sampled_from(KNOWN) | st.sampled_from(WORDS)
    before = draw(st.sampled_from([[], ["-f", "json"], ["--spool", draw(value)], ["--allow-shared"]]))
    line = [*before, *words]
    for each in command.params:
        if isinstance(each, click.Argument):
            line += [draw(value) for _ in range(draw(st.integers(0, 2)) if each.nargs == -1 else 1)]
    options = [each for each in command.params if isinstance(each, click.Option) and each.name != "follow"]
    for option in draw(st.lists(st.sampled_from(options), max_size=3)):
        given = st.sampled_from(SHORT) if option.name in PATIENT else value
        line += [draw(st.sampled_from(option.opts)), *([] if option.is_flag else [draw(given)])]
    return [*line, *(["--timeout", "0"] if words in (("wait",), ("watch",)) else [])]


def check_command_line(place: Path, line: list[str], stdin: bytes) -> None:
    fresh(place)
    call(line, place.parent.parent.parent, stdin=stdin, raw=line[0] == "logs")


STDIN = st.sampled_from([b"", b"{}", b"\xff\0", b"null", b"- a"])


@settings(quick, max_examples=30)
@given(command_lines(), STDIN)
def test_any_command_line_ends_well(place: Path, line: list[str], stdin: bytes) -> None:
    check_command_line(place, line, stdin)


@pytest.mark.slow
@settings(thorough, max_examples=600)
@given(command_lines(), STDIN)
def test_very_many_command_lines_end_well(place: Path, line: list[str], stdin: bytes) -> None:
    check_command_line(place, line, stdin)


@pytest.mark.parametrize(
    "words",
    [
        "jobs show 1 N",
        "run N",
        "execution-plan N",
        "preview 1 --scheduler N",
        "slurm script 1 --scheduler N",
        "status N",
    ],
)
def test_a_number_of_any_length_is_refused_by_a_sentence(place: Path, words: str) -> None:
    """`int` itself raises for more than 4300 digits."""
    assert call(words.replace("N", "9" * 5000).split(), place).code == 2


def test_a_doctor_goes_where_words_lead_only_if_that_is_a_directory(place: Path) -> None:
    fresh(place)
    for word in {word for word in WORDS if not os.path.isdir(word.replace("\0", "")) or not word} - {"--"}:
        assert call(["doctor", "--", word], place).code == 2, word
    assert call(["doctor", "spool", "--peers", "2"], place).code == 2


# -- what lies in a spool ------------------------------------------------------------------------------------------


def check_damaged(place: Path, rng: random.Random) -> None:
    fresh(place)
    vandal = hostilespool.Vandal(place / "spool", place.parent, rng)
    for _ in range(rng.choice([1, 1, 2, 3])):
        note(vandal.strike())
    listed = [*rng.sample(hostilespool.SHOWS, 3), *rng.sample(hostilespool.CHANGES, 2), "run 1 --any-scheduler"]
    for words in [*listed, rng.choice(hostilespool.SHOWS), rng.choice(hostilespool.CHANGES)]:
        note(words)
        call([*words.split(), *rng.choice([[], ["-f", "json"]])], place / "spool")


@settings(quick, max_examples=6)
@given(st.randoms(use_true_random=False))
def test_a_damaged_spool_is_met_with_sentences(place: Path, rng: random.Random) -> None:
    check_damaged(place, rng)


@pytest.mark.slow
@settings(thorough, max_examples=300)
@given(st.randoms(use_true_random=False))
def test_very_many_damaged_spools_are_met_with_sentences(place: Path, rng: random.Random) -> None:
    check_damaged(place, rng)


def test_a_pipe_in_the_trash_is_removed_without_opening_it(place: Path) -> None:
    fresh(place)
    os.mkfifo("spool/.trash/1-deleted")
    assert call(["submit", "spec.json"], place).code == 0
    assert os.listdir("spool/.trash") == []


def test_a_journal_that_says_anything_hinders_no_recovery(place: Path) -> None:
    fresh(place)
    journal = Path(f"spool/1-flow/runners/{hostilespool.DEAD}/journal")
    journal.write_text('{"event":"start","id":4,"attempt":{"a":1}}\n{"event":"start","id":[],"attempt":1}\n[]\n')
    assert json.loads(call(["recover", "1", "-f", "json"], place).stdout)["jobs"][0]["action"] == "requeue"


# -- names ---------------------------------------------------------------------------------------------------------

ACCEPTED = [
    word
    for word in hostile.SAYABLE
    if word.strip() and len(word) <= 200 and not hostile.obeyed(word) & set("\t\r\x1b\x9b\x7f\x85")
]
ACCEPTED = [
    word for word in ACCEPTED if "\n" not in word and "\u2028" not in word and "{" not in word and "$" not in word
]


def test_names_that_try_to_escape_are_safe_everywhere(place: Path) -> None:
    """In files, in the environment, in commands that are to be pasted, on the terminal, as a graph, as JSON."""
    spec = {
        "name": "$(touch x)`touch x`/../\u202e;",
        "jobs": [
            {"name": word, "command": 'printf %s "$TORC_JOB_NAME" > seen_$TORC_JOB_ID', "env": {"SAID": word}}
            for word in ACCEPTED
        ],
        "user_data": [{"name": word, "data": {word: word}} for word in ACCEPTED],
    }
    fresh(place)
    Path("spec.json").write_text(json.dumps(spec))
    assert call(["submit", "spec.json"], place).stdout == "2\n"
    shown = ["status 2", "jobs list 2", "execution-plan 2", "results list 2", "user-data list 2", "preview 2", "fsck 2"]
    for words in (*shown, "run 2", *shown, "jobs show 2 3", "execution-plan 2 --dot", "slurm status 2"):
        assert call(words.split(), place).code == 0
        if "--dot" not in words and words != "run 2":
            json.loads(call([*words.split(), "-f", "json"], place).stdout)
    for number, word in enumerate(ACCEPTED, 1):
        assert Path(f"seen_{number}").read_text() == word
    (root,) = Path("spool").glob("2-*")
    names = [name for _, directories, files in os.walk(root) for name in (*directories, *files)]
    assert all(set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-~") for name in names)
    assert not Path("x").exists()


def test_a_hint_names_a_job_so_that_a_shell_gives_it_back(place: Path) -> None:
    fresh(place)
    spec = {"name": "f", "jobs": [{"name": name, "command": "true"} for name in ("-rf", "a b;c", "\u200b", "plain")]}
    Path("spec.json").write_text(json.dumps(spec))
    call(["submit", "spec.json"], place)
    call(["hold", "2"], place)
    said = call(["run", "2"], place).stderr
    for word in ("1", "'a b;c'", "3", "plain"):
        assert f"let it go with: torc-spool release 2 {word}\n" in said


@pytest.mark.parametrize("word", ["a\n#SBATCH --uid=0", "a\rb", "a\x7f", "\x9b1m", "\x85", "\u2028"])
def test_no_line_of_a_batch_script_can_be_forged(word: str) -> None:
    with pytest.raises(SpecError, match="control character"):
        sbatch.directive("account", word)


# -- the terminal --------------------------------------------------------------------------------------------------


def test_json_shows_what_a_terminal_would_obey_as_escapes(place: Path) -> None:
    text = "\x9b31m\u202e\x7f\U000e0001\N{ROCKET}"
    fresh(place)
    call(["user-data", "update", "1", "u", "--data", json.dumps(text, ensure_ascii=False)], place)
    shown = call(["user-data", "get", "1", "u"], place).stdout
    assert json.loads(shown) == text and "\N{ROCKET}" in shown


def test_a_terminal_sees_colours_of_logs_and_obeys_nothing_else(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    class Terminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    terminal = Terminal()
    target = logs._Target(terminal)  # type: ignore[arg-type]
    said = "a\x1b[1;31mred\x1b[0m\x1b]0;title\x07\x1b[2J\N{ROCKET}\x9b\r50 %\n".encode() + b"\xff"
    for at in range(len(said)):  # torn anywhere
        target.show(said[at : at + 1], is_all=False)
    target.show(b"\x1b[3", is_all=True)
    assert terminal.text == ("a\x1b[1;31mred\x1b[0m\\x1b]0;title\\x07\\x1b[2J\N{ROCKET}\\x9b\r50 %\n\\xff\\x1b[3")


# -- records -------------------------------------------------------------------------------------------------------


def test_an_id_that_no_workflow_can_have_hides_no_workflow(place: Path) -> None:
    """A foreign name in `.ids` once made an id that no reader takes for one."""
    fresh(place)
    for name in ("9" * 200, "999999999999", "²"):
        Path(f"spool/.ids/{name}").mkdir()
    assert submission.reserve_id("spool") == 2


def test_the_record_of_an_allocation_is_of_the_number_in_its_name(place: Path) -> None:
    for said in ('"--me"', '"' + "9" * 5000 + '"', '"78"', "7"):
        fresh(place)
        Path("spool/1-flow/slurm/77.json").write_text(f'{{"job_id":{said},"scheduler":"gpu","key":"k"}}')
        assert call(["slurm", "status", "1"], place).code == 0
        assert call(["cancel", "1"], place).code == 0


@given(
    st.text()
    | st.lists(st.sampled_from([*hostile.SAYABLE, "|", "\n", "77", "RUNNING", " " * 9]), max_size=12).map("".join)
)
@settings(quick, max_examples=60)
def test_any_answer_of_slurm_is_read(text: str) -> None:
    squeue.parse_squeue(text)
    squeue.parse_sacct(text)
    squeue.parse_sacct(text.replace(" ", "|"))
    hostnames(text)
    with contextlib.suppress(SpecError):
        parse_sinfo(text)


@pytest.mark.parametrize("line", ["77| |x|y|z|w", "77|RUNNING|" + "9" * 5000 + "||u|n", "٣|RUNNING|1|2|u|n"])
def test_a_torn_line_of_sacct_tells_nothing(line: str) -> None:
    assert all(seen.start is None for seen in squeue.parse_sacct(line).values())


def test_a_list_of_too_many_nodes_is_none() -> None:
    assert hostnames("n[1-999999999]") == []
    assert hostnames("n[1-999][1-999][1-999]") == []
    assert len(hostnames("n[1-9000]")) == 9000
