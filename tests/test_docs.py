"""The documents tell the truth: what they show is run and compared, what they name exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cliutil
import msgspec
import pytest
from cliutil import Lab

from torc_spool import errors, spec, specnotes, specrecords

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import cli_reference  # noqa: E402  it lies in scripts/

lab = cliutil.lab

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
COMMANDS = dict(cli_reference.commands())
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SAVED = re.compile(r"[Ss]ave this as `([\w.-]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAM_NAMES = ("torc-spool", "torc-spool-job-runner", "torc-spool-slurm-job-runner")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def fences(page: Path, *kinds: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(page.read_text()) if kind in kinds]


# -- what pages show ---------------------------------------------------------------------------------------


def session(text: str) -> list[tuple[str, str]]:
    """(command, what it printed) for each `$ ` line of the console blocks."""
    steps: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        else:
            command, output = steps.pop()
            steps.append((command, f"{output}{line}\n"))
    return steps


def stable(output: str) -> str:
    """Without what differs from run to run: runners' names, times, memory, and the width of columns."""
    lines = []
    for line in output.splitlines():
        line, runners = re.subn(r"\b[\w.-]+-\d+-[0-9a-f]{8}\b", "RUNNER", line)
        if runners:
            line = re.sub(r"\d+\.\d\d +(-|[\d.]+ [KM]iB) +RUNNER", "TIME MEMORY RUNNER", line)
        lines.append(re.sub(r" {2,}", " ", line))
    return "\n".join(lines)


SHOWING = [page for page in PAGES if fences(page, "console")]


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOWING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_its_commands_print(lab: Lab, page: Path) -> None:
    """In a directory with the examples and the files that the page tells to save."""
    shutil.copytree(ROOT / "examples", lab.base / "examples", ignore=shutil.ignore_patterns("spool", "results"))
    for name, body in _SAVED.findall(page.read_text()):
        (lab.base / name).write_text(body)
    steps = session("".join(fences(page, "console")))
    assert len(steps) > 2
    environ = {**lab.env, "PATH": f"{cliutil.PROGRAMS}:{lab.env['PATH']}", "STAND_IN_SECONDS": "0", "LC_ALL": "C.UTF-8"}
    del environ["TORC_SPOOL_DIR"]
    done = subprocess.run(
        ["bash", "-c", "".join(f"printf '\\036'\n{command}\n" for command, _ in steps)],
        cwd=lab.base,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=cliutil.TIMEOUT_S,
    )
    printed = done.stdout.split("\x1e")[1:]
    assert len(printed) == len(steps), done.stdout
    for (command, shown), output in zip(steps, printed, strict=True):
        assert stable(output) == stable(shown), f"{page.name} shows something else for: {command}"


# -- the command line ---------------------------------------------------------------------------------------


def test_the_command_reference_is_what_help_says() -> None:
    page = cli_reference.PAGE.read_text()
    assert cli_reference.render(page) == page, "run .venv/bin/python scripts/cli_reference.py"


def test_every_command_is_in_the_command_reference() -> None:
    assert sorted(cli_reference.documented(cli_reference.PAGE.read_text())) == sorted(COMMANDS)


def named_commands(text: str) -> Iterator[list[str]]:
    """The words of each call of our programs in a shell text, also behind `srun` and the like."""
    for line in text.splitlines():
        for part in re.split(r"&&|[;|]", line):
            words = shlex.split(part, comments=True)
            while words and words[0] not in PROGRAM_NAMES:
                words.pop(0)
            if words:
                yield words


def resolve(words: list[str]) -> tuple[str, click.Command]:
    """The command that these words call."""
    if words[0] != "torc-spool":
        return "torc-spool run", COMMANDS["torc-spool run"]
    path = "torc-spool"
    for word in words[1:]:
        if f"{path} {word}" not in COMMANDS:
            break
        path = f"{path} {word}"
    return path, COMMANDS[path]


@pages
def test_commands_and_options_that_a_page_names_exist(page: Path) -> None:
    inline = re.findall(r"`(torc-spool[^`]*)`", _FENCE.sub("", page.read_text()))
    shared = {name for param in COMMANDS["torc-spool"].params for name in param.opts}
    for words in named_commands("\n".join([*fences(page, "bash", "console"), *inline])):
        if all(word.startswith("-") for word in words[1:]):
            continue  # the program as such
        path, command = resolve(words)
        assert not isinstance(command, click.Group), f"{page.name}: {shlex.join(words)}"
        known = {name for param in command.params for name in param.opts} | shared
        options = {word.partition("=")[0] for word in words if word.startswith("-")} - {"-"}
        unknown = sorted(options - known)
        assert not unknown, f"{page.name}: {path} has no {unknown}"


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", _FENCE.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """As the usual renderers make them of headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md"])
def test_exit_codes_in_the_table_are_those_of_the_program(page: str) -> None:
    text = (ROOT / page).read_text()
    table = re.split(r"\| (?:exit code|`run` returns) \|.*\n.*\n", text)[1].partition("\n\n")[0]
    listed = [int(row.split("|")[1]) for row in table.splitlines()]
    assert listed == [
        errors.EXIT_OK,
        errors.EXIT_JOBS_FAILED,
        errors.EXIT_USAGE,
        errors.EXIT_JOBS_LEFT,
        errors.EXIT_STOPPED,
    ]


# -- the JSON and the environment, as docs/cli.md has them --------------------------------------------------


def fields_in(cell: str) -> list[str]:
    """The names in backquotes, those of nested objects apart."""
    return re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)", "", cell))


def documented_json() -> dict[str, list[str]]:
    """Fields by command, of docs/cli.md."""
    page = (ROOT / "docs/cli.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.split("## JSON")[1].split("\n## ")[0], re.MULTILINE)
    return {name: fields_in(cell) for names, cell in rows for name in re.findall(r"`([^`]+)`", names)}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What commands print with `-f json`: of a workflow with a job that fails, one that waits and one that is bound."""
    lab = Lab(tmp_path_factory.mktemp("json"))
    fails, waits = {"name": "fails", "command": "exit 1"}, {"name": "waits", "depends_on": ["fails"]}
    end = {"trigger_type": "on_workflow_complete", "action_type": "run_commands", "commands": ["true"]}
    lab.spec(fails, waits, {"name": "bound", "scheduler": "s"}, slurm_schedulers=[{"name": "s"}], actions=[end])
    calls = {
        "submit": "submit spec.json",
        "preview": "preview 1 --num-cpus 2",
        "execution-plan": "execution-plan 1",
        "hold": "hold 1 bound",
        "run": "run 1",
        "status": "status 1",
        "jobs list": "jobs list 1",
        "jobs show": "jobs show 1 fails",
        "results list": "results list 1",
        "workflows list": "workflows list",
        "logs": "logs 1 fails",
        "recover": "recover 1 --dry-run",
        "fsck": "fsck 1",
        "delete": "delete 1",
    }
    found = {name: lab.torc("-f", "json", *words.split(), code=None).json for name, words in calls.items()}
    found["stages"] = found["execution-plan"]["stages"]
    yield {**found, "runners": found["status"]["runners"], "attempts": found["jobs show"]["attempts"]}
    lab.close()


@pytest.mark.parametrize(
    "command",
    [
        "submit",
        "run",
        "preview",
        "execution-plan",
        "stages",
        "status",
        "runners",
        "jobs list",
        "attempts",
        "recover",
        "fsck",
        "logs",
        "hold",
        "delete",
    ],
)
def test_json_fields_are_documented(outputs: dict[str, Any], command: str) -> None:
    rows = outputs[command] if isinstance(outputs[command], list) else [outputs[command]]
    for row in rows:
        assert sorted(row) == sorted(documented_json()[command])


def test_json_that_is_documented_as_the_same_and_more(outputs: dict[str, Any]) -> None:
    fields = documented_json()
    assert sorted(outputs["jobs show"]) == sorted([*fields["jobs list"], *fields["jobs show"]])
    assert all(sorted(row) == sorted([*fields["attempts"], "id", "name"]) for row in outputs["results list"])
    assert all(sorted(row) == sorted(set(fields["status"]) - {"runners"}) for row in outputs["workflows list"])


def test_variables_that_a_job_sees_are_documented(lab: Lab) -> None:
    lab.submit("env | grep -o '^TORC_[A-Z_]*' | sort")
    lab.run(1)
    page = (ROOT / "docs/cli.md").read_text().split("A job has its runner's environment")[1]
    documented = set(re.findall(r"TORC_[A-Z_]+", page)) - {"TORC_NODELIST", "TORC_NUM_NODES"}  # of several nodes
    assert sorted(documented) == Path(lab.job("j1")["stdout"]).read_text().split()


# -- the spec -----------------------------------------------------------------------------------------------


@pages
def test_specs_that_a_page_shows_are_valid(page: Path) -> None:
    for text in fences(page, "yaml"):
        assert spec.parse(text, page.name).jobs


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("The file", specrecords.WorkflowRecord),
        ("A job", specrecords.JobRecord),
        ("A file", specrecords.FileRecord),
        ("A dataset", specrecords.DatasetRecord),
        ("A user data", specrecords.UserDataRecord),
        ("A resource requirement", specrecords.RequirementRecord),
        ("A scheduler", specrecords.SchedulerRecord),
        ("A failure handler", specrecords.HandlerRecord),
        ("A rule of a failure handler", specrecords.RuleRecord),
        ("An action", specrecords.ActionRecord),
        ("Stdio", specrecords.StdioRecord),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_of_the_spec_are_documented(heading: str, record: type[msgspec.Struct]) -> None:
    section = (ROOT / "docs/spec.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|", section, re.MULTILINE)
    defaults = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    fields = {field.name: field for field in msgspec.structs.fields(record)}
    assert sorted(defaults) == sorted(fields)
    for name, field in fields.items():
        if field.required:
            assert defaults[name] == "must be given"
        elif isinstance(field.default, int):
            assert defaults[name] == str(field.default).lower()
        elif isinstance(field.default, str):
            assert defaults[name] == f"`{field.default}`" or name == "parameter_mode"


def test_what_is_read_and_not_acted_on_is_documented() -> None:
    section = (ROOT / "docs/spec.md").read_text().split("\n## Read but not acted on\n")[1].split("\n## ")[0]
    of_items = {*specnotes._OF_JOBS, *specnotes._OF_FILES, *specnotes._OF_DATASETS}
    assert {*specnotes.KEPT, *of_items} <= set(re.findall(r"`(\w+)`", section))
