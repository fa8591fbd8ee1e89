"""The command line, as installed: submit, what is shown, errors, and where the spool is looked for."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import stat
import subprocess
from functools import partial
from pathlib import Path

import cliutil
import pytest
from cliutil import TIMEOUT_S, Done, Lab, no_complaint, wait_until
from torc_spool_cli import main as cli

lab = cliutil.lab
slow = partial(pytest.param, marks=pytest.mark.slow)


def workflows(lab: Lab) -> list[str]:
    """The directories that any reader would take for workflows."""
    return sorted(name for name in os.listdir(lab.spool) if not name.startswith("."))


def modes(top: Path) -> dict[str, str]:
    """The modes of a tree: of directories and of files."""
    found: dict[str, set[str]] = {"directories": set(), "files": set()}
    for path in [top, *top.rglob("*")]:
        kind = "directories" if path.is_dir() else "files"
        found[kind].add(f"{stat.S_IMODE(path.lstat().st_mode):o}")
    return {kind: " ".join(sorted(values)) for kind, values in found.items()}


# --- submit


def test_submit_prints_the_id_alone(lab: Lab) -> None:
    lab.spec("true")
    assert lab.torc("submit", "spec.json") == (0, "1\n", "")
    assert lab.torc("submit", "spec.json") == (0, "2\n", "")
    assert workflows(lab) == ["1-flow", "2-flow"]


def test_submit_keeps_the_spec_as_it_was_and_where_it_was_given(lab: Lab) -> None:
    text = "# my workflow\nname: mine\njobs:\n  - {name: a b/c, command: pwd}\n"
    elsewhere = lab.cwd / "specs"
    elsewhere.mkdir()
    (elsewhere / "flow.yaml").write_text(text)
    assert lab.torc("-f", "json", "submit", "specs/flow.yaml").json == {"id": 1, "name": "mine", "jobs": 1}
    assert (lab.root() / "spec.yaml").read_text() == text
    assert lab.store().workflow.cwd == str(lab.cwd)  # of the submit, not of the spec
    assert lab.ls("ready/any") == ["999999-000000001.1-c1g0n1m1t0-a_b_c.json"]


def test_submit_takes_commands_from_stdin_and_one_answer_for_all(lab: Lab) -> None:
    words = "--name batch --num-cpus 2 --num-gpus 1 --num-nodes 3 --memory 1500k --runtime PT2M --priority 7"
    commands = "echo one\n\n# a remark\necho two\n"
    assert lab.torc("submit", "--commands", "-", *words.split(), stdin=commands).stdout == "1\n"
    assert lab.ls("ready/any") == [
        "999992-000000001.1-c2g1n3m2t120-job_000001.json",
        "999992-000000002.1-c2g1n3m2t120-job_000002.json",
    ]
    assert (lab.root() / "commands.txt").read_text() == commands
    assert lab.torc("submit", "-", stdin='{"name": "x", "jobs": [{"name": "a", "command": "true"}]}').stdout == "2\n"


def test_eight_submits_at_once_get_eight_ids(lab: Lab) -> None:
    lab.spec(*["true"] * 20)
    submits = [lab.start("submit", "spec.json") for _ in range(8)]
    assert {submit.wait().stdout for submit in submits} == {f"{number}\n" for number in range(1, 9)}
    assert len(workflows(lab)) == 8
    for number in range(1, 9):
        lab.check(number)
        assert len(lab.ls("ready/any", number)) == 20
        assert lab.store(number).workflow.id == number
    assert os.listdir(lab.spool / ".staging") == []


@pytest.mark.parametrize("written", [0, slow(1), 700, slow(1900)])
def test_a_submit_killed_at_any_moment_leaves_nothing_to_see_and_is_swept(lab: Lab, written: int) -> None:
    lab.spec(*["true"] * 2000)
    submit = lab.start("submit", "spec.json")
    staging = lab.spool / ".staging"

    def staged() -> bool:
        if written == 0:
            return staging.exists() and bool(os.listdir(staging))
        return len(list(staging.glob("*/workflow/ready/any/*"))) >= written

    wait_until(lambda: staged() or not submit.alive, "the submit has begun")
    submit.kill()
    if submit.process.returncode == 0 or workflows(lab):  # faster than its killer, or but for its word: X2
        assert len(lab.ls("ready/any", 1)) == 2000
        return
    if lab.torc("workflows", "list", "-f", "json").json:
        pytest.fail("half a workflow is shown")
    lab.spec("true")
    assert lab.torc("submit", "spec.json").stdout in ("1\n", "2\n")
    assert os.listdir(staging) == os.listdir(lab.spool / ".trash") == []


def test_a_submit_that_is_interrupted_says_nothing_and_leaves_nothing(lab: Lab) -> None:
    lab.spec(*["true"] * 2000)
    submit = lab.start("submit", "spec.json")
    staging = lab.spool / ".staging"
    wait_until(lambda: list(staging.glob("*/workflow/ready/any/*")), "the submit has begun")
    submit.signal(signal.SIGINT)
    done = submit.wait(4)
    assert (done.stdout, done.stderr.strip()) == ("", "")
    assert workflows(lab) == os.listdir(staging) == os.listdir(lab.spool / ".trash") == []


@pytest.mark.parametrize(
    ("umask", "options", "directories", "files"),
    [
        slow(0o000, [], "755", "644", id="000"),
        pytest.param(0o002, [], "755", "644", id="002"),
        slow(0o027, [], "750", "640", id="027"),
        pytest.param(0o077, [], "700", "600", id="077"),
        pytest.param(0o002, ["--allow-shared"], "775", "664", id="002-shared"),
        slow(0o007, ["--allow-shared"], "770", "660", id="007-shared"),
    ],
)
def test_group_and_others_never_may_write_unless_the_spool_is_shared(
    lab: Lab, umask: int, options: list[str], directories: str, files: str
) -> None:
    lab.spec("true", {"name": "b", "depends_on": ["j1"], "scheduler": "s"}, slurm_schedulers=[{"name": "s"}])
    lab.torc("submit", "spec.json", *options, umask=umask)
    assert modes(lab.spool) == {"directories": directories, "files": files}
    # a runner of the same user works in it without being told anything, and keeps to it
    lab.run(1, "--any-scheduler", umask=umask)
    left = modes(lab.spool)
    assert left["directories"] == directories
    # the jobs' output files are the user's own, as their umask says
    assert set(left["files"].split()) <= {files, f"{0o666 & ~umask:o}"}


def test_an_id_is_never_used_again(lab: Lab) -> None:
    lab.spec("true")
    lab.torc("submit", "spec.json")
    assert "1" in lab.torc("delete", 1).stdout
    assert workflows(lab) == []
    assert lab.torc("submit", "spec.json").stdout == "2\n"


# --- where the spool is


def test_the_option_wins_over_the_environment_and_that_over_the_directory(lab: Lab) -> None:
    lab.spec("true")
    lab.torc("submit", "spec.json", env={"TORC_SPOOL_DIR": None})
    assert (lab.cwd / "spool" / "1-flow").is_dir()
    lab.torc("submit", "spec.json", env={"TORC_SPOOL_DIR": "deep/by env"})
    assert (lab.cwd / "deep" / "by env" / "1-flow").is_dir()
    lab.torc("--spool", "before", "submit", "spec.json")
    lab.torc("--spool", "before", "submit", "spec.json", "--spool", "after")
    assert (lab.cwd / "before" / "1-flow").is_dir()
    assert (lab.cwd / "after" / "1-flow").is_dir()
    assert not lab.spool.exists()


@pytest.mark.parametrize(
    ("words", "environment", "looked"),
    [
        pytest.param([], None, "{cwd}/spool (no --spool given, TORC_SPOOL_DIR not set)", id="default"),
        pytest.param([], "by-env", "by-env (from TORC_SPOOL_DIR)", id="environment"),
        pytest.param(["--spool", "by-option"], "by-env", "by-option (from --spool)", id="option"),
    ],
)
def test_who_finds_no_spool_is_told_where_was_looked(
    lab: Lab, words: list[str], environment: str | None, looked: str
) -> None:
    for command in (["status", "1"], ["run"]):
        done = lab.torc(*command, *words, code=2, env={"TORC_SPOOL_DIR": environment})
        assert f"no spool at {looked.format(cwd=lab.cwd)}" in done.sentence()
        assert done.stdout == ""


# --- errors

MISTAKES = [
    ("status 7", "no workflow 7 in {spool} (from TORC_SPOOL_DIR); there: 1"),
    ("status one", "'one' is not a workflow's id"),
    ("wait 7", "no workflow 7"),
    ("run 7", "no workflow 7"),
    ("delete 7", "no workflow 7"),
    ("jobs show 1 analyze", "no job 'analyze'; did you mean 'analyse'?"),
    ("logs 1 analyze", "no job 'analyze'; did you mean 'analyse'?"),
    ("logs 1 analyse", "was never started"),
    ("cancel 1 j1 analyze", "no job 'analyze'; did you mean 'analyse'?"),
    ("hold 1 99", "no job '99'"),
    ("release 1 0", "no job '0'"),
    ("retry 1 nothing like it", "no job 'nothing', 'like', 'it'"),
    ("retry 1 j1 --failed", "not both"),
    ("set-priority 1 j1 1000000", "outside 0..999999"),
    ("set-priority 1 j1 high", "'high' is not a valid integer"),
    ("set-priority 1 5", "Missing argument"),
    ("stop 1 nobody", "no running runner 'nobody'; running: none"),
    ("recover 1 --dead nobody", "has no runner nobody"),
    ("run 1 --time-limit 2h", "PT2H"),
    ("preview 1 --time-limit soon", "PT"),
    ("run 1 --scheduler gpus", "no scheduler 'gpus'; it has: 1 gpu"),
    ("run 1 --scheduler-config-id 2", "no scheduler '2'; it has: 1 gpu"),
    ("preview 1 --scheduler 0", "no scheduler '0'"),
    ("preview 1 --limit 1 --max-parallel-jobs 1", "--limit"),
    ("run 1 --num-cpus 0", "--num-cpus"),
    ("run 1 --memory-gb nan", "memory"),
    ("run 1 --memory-gb inf", "memory"),
    ("run 1 --memory-gb -1", "--memory-gb"),
    ("run 1 --max-parallel-jobs 0", "--max-parallel-jobs"),
    ("run 1 --grace -1", "--grace"),
    ("run missing.yaml", "missing.yaml: there is no such file"),
    ("run bad.json", "bad.json: job 'a': unknown field 'comand'; did you mean 'command'?"),
    ("submit bad.json", "bad.json: job 'a': unknown field 'comand'; did you mean 'command'?"),
    ("submit", "either a spec or --commands FILE"),
    ("submit --commands missing", "missing: cannot be read"),
    ("submit spec.json --num-cpus 2", "--num-cpus: only with --commands"),
    ("submit --commands cmds --memory lots", "--memory: 'lots' is not an amount of memory"),
    ("submit --commands cmds --runtime 5", "--runtime: '5' is not a duration; write PT5S for 5 seconds"),
    ("submit --commands cmds --priority -1", "999999"),
    ("submit --commands cmds --num-cpus 0", "--num-cpus: must be"),
    ("statsu 1", "Did you mean 'status'?"),
    ("status 1 --spol x", "--spool"),
    ("status 1 -f xml", "xml"),
    ("jobs list 1 --status done", "done"),
    ("jobs show 1 ²", "no job '²'"),
    ("run 1 --scheduler ²", "no scheduler '²'"),
    ("run 1 --wait-for-new-jobs nan", "'nan' is no time"),
    ("wait 1 --timeout nan", "'nan' is no time"),
    ("preview 1 --num-gpus 99999999", "--num-gpus"),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_exit_code_2(
    lab: Lab, words: str, expected: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lab.submit("true", {"name": "analyse"}, slurm_schedulers=[{"name": "gpu"}])
    lab.spec("true")
    (lab.cwd / "bad.json").write_text('{"name": "x", "jobs": [{"name": "a", "comand": "true"}]}')
    (lab.cwd / "cmds").write_text("true\n")
    if words.startswith("run") or words == "status 7":
        done = lab.torc(*words.split(), code=2)
    else:  # the same without a process for each
        monkeypatch.chdir(lab.cwd)
        monkeypatch.setenv("TORC_SPOOL_DIR", str(lab.spool))
        with pytest.raises(SystemExit) as ended:
            cli.main(words.split())
        assert ended.value.code == 2
        done = Done(2, *capfd.readouterr())
        no_complaint(done.stderr)
    assert expected.format(spool=lab.spool) in done.sentence()
    assert done.stdout == ""
    assert workflows(lab) == ["1-flow"]
    assert set(lab.states().values()) == {"ready"}


def test_a_directory_that_no_record_can_hold_is_refused(lab: Lab) -> None:
    odd = os.fsdecode(b"odd \xff")
    (lab.cwd / odd).mkdir()
    lab.spec("true")
    for words in (["--output-dir", odd], ["--spool", odd]):
        assert "is not UTF-8" in lab.torc("submit", "spec.json", *words, code=2).sentence()
    assert "is not UTF-8" in lab.torc("submit", "../spec.json", code=2, cwd=lab.cwd / odd).sentence()
    lab.submit("true")
    assert "is not UTF-8" in lab.torc("run", 1, "--output-dir", odd, code=2).sentence()
    assert lab.states() == {"j1": "ready"}


def test_what_is_not_a_job_hinders_nothing_when_others_are_named_rightly(lab: Lab) -> None:
    lab.submit("true", "true", "true")
    done = lab.torc("cancel", 1, "j2", "3", "j2")
    assert done.stdout == "j2: canceled\nj3: canceled\n"
    again = lab.torc("cancel", 1, "j1", "j2", code=2)  # a job that was named could not be canceled
    assert again.stdout == "j1: canceled\nj2: is canceled already\n"
    everything = lab.torc("cancel", 1)
    assert (everything.stdout, everything.stderr) == ("", "nothing was changed\n")


# --- what is shown

STATUS_KEYS = {"id", "name", "jobs", "total", "set_aside", "finished", "runners"}
STATES = ["blocked", "ready", "pending", "running", "completed", "failed", "canceled", "terminated", "held"]
RUNNER_KEYS = {"name", "host", "pid", "scheduler", "state", "heartbeat_age_s"}
JOB_KEYS = {
    "id",
    "name",
    "status",
    "priority",
    "scheduler",
    "resources",
    "depends_on",
    "attempt",
    "runner",
    "return_code",
    "start_time",
    "end_time",
    "exec_s",
    "peak_memory_bytes",
    "reason",
}
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


@pytest.fixture
def mixed(lab: Lab) -> Lab:
    """A workflow with a job in almost every state, and nobody at work."""
    lab.submit(
        {"name": "good", "command": "echo out; echo err >&2", "resource_requirements": "big", "priority": 5},
        {"name": "bad", "command": "echo first; exit 7"},
        {"name": "after bad", "depends_on": ["bad"]},
        {"name": "bound", "scheduler": "gpu", "resource_requirements": "big"},
        {"name": "after bound", "depends_on": ["bound", "good"]},
        {"name": "parked"},
        resource_requirements=[{"name": "big", "num_cpus": 2, "memory": "1500k", "runtime": "PT1H"}],
        slurm_schedulers=[{"name": "gpu", "partition": "g"}],
    )
    lab.torc("hold", 1, "parked")
    lab.run(1, "--num-cpus", 2, code=3)
    return lab


def test_every_command_that_shows_speaks_json_and_text(mixed: Lab) -> None:
    status = mixed.torc("-f", "json", "status", 1).json
    assert set(status) >= STATUS_KEYS
    assert list(status["jobs"]) == STATES
    assert {state: count for state, count in status["jobs"].items() if count} == {
        "blocked": 1,
        "ready": 1,
        "completed": 1,
        "failed": 1,
        "canceled": 1,
        "held": 1,
    }
    assert (status["id"], status["name"], status["total"], status["set_aside"]) == (1, "flow", 6, 0)
    assert status["finished"] is False
    (runner,) = status["runners"]
    assert set(runner) >= RUNNER_KEYS
    assert runner["state"] == "ended"

    jobs = {row["name"]: row for row in mixed.torc("jobs", "-f", "json", "list", 1).json}
    assert [row["id"] for row in jobs.values()] == [1, 2, 3, 4, 5, 6]
    assert all(set(row) >= JOB_KEYS for row in jobs.values())
    good, bad, bound = jobs["good"], jobs["bad"], jobs["bound"]
    assert (good["status"], good["priority"], good["return_code"], good["attempt"]) == ("completed", 5, 0, 1)
    assert good["resources"] == {
        "num_cpus": 2,
        "num_gpus": 0,
        "num_nodes": 1,
        "memory_bytes": 1500 * 1024,
        "runtime_s": 3600,
    }
    assert good["runner"] == runner["name"]
    assert UTC.fullmatch(good["start_time"])
    assert UTC.fullmatch(good["end_time"])
    assert good["exec_s"] >= 0
    assert (bad["status"], bad["return_code"], bad["reason"]) == ("failed", 7, "return code 7")
    assert (bound["status"], bound["scheduler"], bound["runner"], bound["start_time"]) == ("ready", "gpu", None, None)
    assert jobs["after bound"]["depends_on"] == ["bound", "good"]
    assert jobs["after bad"]["status"] == "canceled"
    assert "'bad' did not complete" in jobs["after bad"]["reason"]
    assert jobs["parked"]["status"] == "held"

    (listed,) = mixed.torc("workflows", "list", "-f", "json").json
    assert {"id", "name", "jobs", "total", "set_aside", "finished"} <= set(listed)
    results = mixed.torc("results", "list", 1, "-f", "json").json
    assert [(row["name"], row["attempt"], row["outcome"], row["return_code"]) for row in results] == [
        ("good", 1, "completed", 0),
        ("bad", 1, "failed", 7),
    ]
    shown = mixed.torc("jobs", "show", 1, "bad", "-f", "json").json
    assert set(shown) >= JOB_KEYS | {"command", "stdout", "stderr", "attempts", "file"}
    assert Path(shown["stdout"]).read_text() == "first\n"
    assert shown == mixed.torc("-f", "json", "jobs", "show", 1, 2).json  # by id as by name
    assert mixed.torc("-f", "text", "status", 1, "-f", "json").json == status  # what stands later wins

    text = mixed.torc("status", 1).stdout
    assert "1 blocked, 1 ready, 1 completed, 1 failed, 1 canceled, 1 held" in text
    assert "torc-spool run 1" in text
    assert "return code 7" in mixed.torc("results", "list", 1).stdout
    assert "flow" in mixed.torc("workflows", "list").stdout
    assert "exit 7" in mixed.torc("jobs", "show", 1, "bad").stdout


def test_jobs_are_filtered_by_status_and_name(mixed: Lab) -> None:
    for words, expected in (
        ("--status failed", ["bad"]),
        ("-s completed --status held", ["good", "parked"]),
        ("--name *bad", ["bad", "after bad"]),
        ("-n after* -s blocked", ["after bound"]),
        ("-n parked -n b?d", ["bad", "parked"]),
        ("--name nothing", []),
        ("-s set_aside", []),
    ):
        rows = mixed.torc("-f", "json", "jobs", "list", 1, *words.split()).json
        assert [row["name"] for row in rows] == expected, words


def test_logs_go_where_the_job_sent_them(mixed: Lab) -> None:
    assert mixed.torc("logs", 1, "good") == (0, "out\n", "err\n")
    assert set(mixed.torc("logs", 1, "good", "-f", "json").json) >= {"stdout", "stderr", "name", "id"}
    mixed.torc("retry", 1, "bad")
    mixed.run(1, code=3)
    assert mixed.torc("logs", 1, "bad", "--attempt", 1).stdout == "first\n"
    assert "attempt 3" in mixed.torc("logs", 1, "bad", "--attempt", 3, code=2).sentence()
    Path(mixed.job("bad")["stdout"]).unlink()
    assert mixed.torc("logs", 1, "bad").stdout == ""  # what was deleted since is no error


@pytest.mark.slow
def test_logs_follow_waits_for_the_attempt_that_is_to_come(lab: Lab) -> None:
    lab.submit("echo $TORC_ATTEMPT_ID; exit 1")
    lab.run(1, code=1)
    lab.torc("retry", 1)
    assert lab.torc("logs", 1, "j1").stdout == "1\n"
    follow = lab.start("logs", 1, "j1", "--follow")
    lab.run(1, code=1)
    assert follow.wait().stdout == "2\n"


def test_logs_follow_a_job_from_before_its_start_to_its_end(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(f"echo before; {gate.wait}; echo after")
    follow = lab.start("logs", 1, "j1", "--follow")
    runner = lab.start("run", 1)
    wait_until(lambda: follow.stdout == "before\n", "the first line is shown while the job runs")
    gate.open()
    assert follow.wait().stdout == "before\nafter\n"
    runner.wait()


@pytest.mark.parametrize("how", ["canceled", "deleted", "aside"])
def test_logs_follow_ends_when_the_job_never_will_start(lab: Lab, how: str) -> None:
    lab.submit("true", "true")
    follow = lab.start("logs", 1, "j1", "--follow")
    wait_until(lambda: lab.spool.stat() and follow.alive, "it follows")
    if how == "canceled":
        lab.torc("cancel", 1, "j1")
    elif how == "deleted":
        lab.torc("delete", 1)
    else:
        lab.file("j1").write_text("")
        lab.run(1, code=3)
    done = follow.wait(2)
    assert done.stdout == ""
    assert done.sentence()


def test_wait_ends_with_the_workflow_and_has_its_exit_codes(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, {"name": "bad", "command": "exit 1"})
    done = lab.torc("wait", 1, "--timeout", 0, code=4)
    assert "not finished" in done.stderr
    waiting = lab.start("wait", 1, "-f", "json")
    wait_until(lambda: "no runner is at work" in waiting.stderr, "it says that nobody is at work")
    runner = lab.start("run", 1)
    gate.await_jobs("j1")
    assert waiting.alive
    gate.open()
    assert json.loads(waiting.wait(1).stdout)["finished"] is True
    runner.wait(1)
    lab.submit("true")
    lab.run(2)
    lab.torc("wait", 2)


def test_wait_ends_when_the_workflow_is_deleted(lab: Lab) -> None:
    lab.submit("true")
    waiting = lab.start("wait", 1)
    wait_until(lambda: waiting.stderr, "it waits")
    lab.torc("delete", 1)
    assert "workflow" in waiting.wait(2).stderr


def test_a_reader_who_has_seen_enough_is_no_error(lab: Lab) -> None:
    lab.submit(*["true"] * 3000)
    listing = subprocess.Popen(
        lab.command("jobs", "list", 1), env=lab.env, cwd=lab.cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    "closed",
    ["0<&- 1>&- 2>&-", "2>/dev/full", slow("0<&-"), slow("1>&-"), slow("2>&-"), slow("1>/dev/full")],
)
def test_a_runner_needs_nobody_to_talk_to(lab: Lab, closed: str) -> None:
    """Closed streams must not be taken for files of the spool, and a full disk below the log costs no job."""
    lab.submit("readlink /proc/self/fd/0; echo out", "exit 1")
    command = shlex.join(lab.command("run", 1))
    done = subprocess.run(["bash", "-c", f"{command} {closed}"], env=lab.env, cwd=lab.cwd, timeout=TIMEOUT_S)
    assert done.returncode == 1
    lab.check()
    assert lab.states() == {"j1": "completed", "j2": "failed"}
    assert Path(lab.job("j1")["stdout"]).read_text() == "/dev/null\nout\n"
    (runner,) = lab.ls("runners")
    for line in (lab.root() / "runners" / runner / "journal").read_text().splitlines():
        assert json.loads(line)


@pytest.mark.slow
def test_a_large_submit_shows_a_bar_on_a_terminal_and_the_id_alone_on_stdout(lab: Lab) -> None:
    lab.spec(*["true"] * 6000)
    own, terminal = pty.openpty()
    submit = subprocess.Popen(
        lab.command("submit", "spec.json"), env=lab.env, cwd=lab.cwd, stdout=subprocess.PIPE, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(own, 4096):
            shown += data
    os.close(own)
    assert submit.communicate(timeout=TIMEOUT_S)[0] == b"1\n"
    assert b"submitting" in shown


def test_control_characters_of_others_do_not_reach_the_terminal(lab: Lab) -> None:
    lab.submit({"name": "x", "command": "printf '\\033[2J'"}, description="\x1b[2J", name="flow")
    (lab.root() / "ready/any/\x1b]0;evil\x07").write_text("")
    done = lab.run(1, code=0)
    shown = [done.stderr, *(lab.torc(*words.split()).stdout for words in ("jobs show 1 x", "jobs list 1", "status 1"))]
    assert not any("\x1b" in text or "\x07" in text for text in shown)


def test_help_names_every_command_and_option_and_changes_nothing(lab: Lab) -> None:
    text = lab.torc("--help").stdout
    for command in ("submit", "run", "preview", "status", "logs", "wait", "cancel", "retry", "recover", "delete"):
        assert f"\n  {command}" in text
    options = lab.torc("run", "--help").stdout
    for option in (
        "--num-cpus",
        "--memory-gb",
        "--num-gpus",
        "--num-nodes",
        "--max-parallel-jobs",
        "--scheduler",
        "--scheduler-config-id",
        "--any-scheduler",
        "--time-limit",
        "--output-dir",
        "--wait-for-new-jobs",
        "--no-limit-resources",
        "--grace",
    ):
        assert option in options
    assert not lab.spool.exists()
