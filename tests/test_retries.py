"""Failure handlers with real runners: failed jobs are run again, their recovery scripts before them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import cliutil
import pytest
from cliutil import Background, Gate, Lab

from torc_spool.model import FailureHandler, Job, Resources, Rule

lab = cliutil.lab

ON_10 = Rule(exit_codes=(10,))
ON_ALL = Rule(match_all_exit_codes=True)


def job(command: str, **more: Any) -> Job:
    return Job(id=0, name="", command=command, failure_handler="again", **more)


def submit(lab: Lab, rules: list[Rule], *jobs: Job, **more: Any) -> None:
    lab.submit_jobs(*jobs, failure_handlers=(FailureHandler(name="again", rules=tuple(rules)),), **more)


def scripted(script: str, **more: Any) -> Rule:
    return Rule(match_all_exit_codes=True, recovery_script=script, **more)


def history(lab: Lab, name: str = "j1") -> list[tuple[int, str | None, int | None, int | None]]:
    """(attempt, outcome, return code, rule) of each attempt that is recorded."""
    return [
        (entry["attempt"], entry["outcome"], entry["return_code"], entry["retry_rule"])
        for entry in lab.job(name)["attempts"]
    ]


def said(lab: Lab, attempt: int, name: str = "j1") -> str:
    """What an attempt has written to its stdout."""
    (entry,) = [entry for entry in lab.job(name)["attempts"] if entry["attempt"] == attempt]
    return Path(entry["stdout"]).read_text()


def test_a_job_is_run_again_until_it_completes_and_the_output_of_each_attempt_is_kept(lab: Lab) -> None:
    command = "echo this is $TORC_ATTEMPT_ID; echo oh >&2; [ $TORC_ATTEMPT_ID = 3 ] || exit 10"
    submit(lab, [ON_10], job(command), Job(id=0, name="after", command="true", depends_on=(1,)))
    done = lab.run(1)
    assert history(lab) == [(1, "failed", 10, 1), (2, "failed", 10, 1), (3, "completed", 0, None)]
    assert [said(lab, number) for number in (1, 2, 3)] == [f"this is {number}\n" for number in (1, 2, 3)]
    assert lab.states() == {"j1": "completed", "after": "completed"}
    lines = [line for line in done.stderr.splitlines() if "rule 1" in line]
    assert len(lines) == 2
    assert "job j1 (attempt 1): return code 10; attempt 2 follows by rule 1 of failure handler again" in lines[0]
    assert lab.torc("logs", 1, "j1", "--attempt", 1).stdout == "this is 1\n"
    (journal,) = lab.root().glob("runners/*/journal")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    of_j1 = [(event["event"], event["attempt"]) for event in events if event["id"] == 1]
    assert of_j1 == [("start", 1), ("retry", 1), ("start", 2), ("retry", 2), ("start", 3), ("end", 3)]
    lab.check()


def test_retries_are_used_up_and_a_person_who_retries_begins_anew(lab: Lab) -> None:
    waits = Job(id=0, name="waits", command="true", depends_on=(1,))
    submit(lab, [Rule(exit_codes=(10,), max_retries=2)], job("exit 10"), waits)
    lab.run(1, code=1)
    assert history(lab) == [(1, "failed", 10, 1), (2, "failed", 10, 1), (3, "failed", 10, None)]
    assert lab.states() == {"j1": "failed", "waits": "canceled"}
    lab.torc("retry", 1, "j1")
    lab.run(1, code=1)
    assert [rule for _, _, _, rule in history(lab)] == [1, 1, None, 1, 1, None]
    lab.check()


def test_a_code_that_no_rule_has_is_a_failure_at_once(lab: Lab) -> None:
    submit(lab, [ON_10], job("exit 9"), job("exit 0"))
    lab.run(1, code=1)
    assert history(lab) == [(1, "failed", 9, None)]
    assert lab.states() == {"j1": "failed", "j2": "completed"}


def test_a_job_over_its_own_limits_is_run_again(lab: Lab) -> None:
    """Each behaves the second time."""
    grow = "python3 -c 'import time; x = b\"x\" * (200 << 20); time.sleep(1000)'"
    submit(
        lab,
        [Rule(exit_codes=(137, 152))],
        job("[ $TORC_ATTEMPT_ID = 2 ] || sleep 1000", resources=Resources(runtime_s=1)),
        job(f"[ $TORC_ATTEMPT_ID = 2 ] || {grow}", resources=Resources(memory_bytes=64 << 20)),
    )
    lab.run(1, "--memory-gb", 1, "--num-cpus", 2)
    assert history(lab, "j1") == [(1, "terminated", 152, 1), (2, "completed", 0, None)]
    assert history(lab, "j2") == [(1, "failed", 137, 1), (2, "completed", 0, None)]
    lab.check()


def test_what_its_runner_ends_and_what_a_person_cancels_is_not_run_again(lab: Lab) -> None:
    gate = lab.gate()
    submit(lab, [ON_ALL], job(gate.wait), job(gate.wait))
    runner = lab.start("run", 1, "--max-parallel-jobs", 2)
    gate.await_jobs("j1", "j2")
    lab.torc("cancel", 1, "j1")
    lab.await_states(j1="canceled")
    runner.signal(signal.SIGTERM)
    runner.wait(code=None)
    assert lab.states() == {"j1": "canceled", "j2": "terminated"}
    assert [rule for name in ("j1", "j2") for *_, rule in history(lab, name)] == [None, None]
    lab.check()


def test_a_wish_to_cancel_is_not_overrun_by_a_retry(lab: Lab) -> None:
    """The job makes it itself, at its very end."""
    wish = lab.spool / "1-flow" / "requests" / "cancel-000000001.1"
    submit(lab, [ON_ALL], job(f"touch {wish}; exit 1"), Job(id=0, name="after", command="true", depends_on=(1,)))
    lab.run(1, code=1)
    assert lab.states() == {"j1": "canceled", "after": "canceled"}
    assert lab.ls("requests") == []
    assert len(history(lab)) == 1
    lab.check()


# -- recovery scripts


def test_a_recovery_script_runs_before_the_next_attempt_and_knows_what_failed(lab: Lab) -> None:
    script = "pwd; env | grep -E '^(TORC_|MINE)' | sort; echo oh >&2"
    command = "echo command $TORC_ATTEMPT_ID ${TORC_RETURN_CODE-none}; [ $TORC_ATTEMPT_ID = 2 ] || exit 10"
    submit(lab, [scripted(script)], job(command, env={"MINE": "job"}), env={"MINE": "workflow"})
    lab.run(1, env={"TORC_RETURN_CODE": "of an outer job"})
    assert said(lab, 1) == "command 1 none\n"
    lines = said(lab, 2).splitlines()
    assert (lines[0], lines[-1]) == (str(lab.cwd), "command 2 none")
    assert {
        "MINE=job",
        "TORC_ATTEMPT_ID=1",
        "TORC_RETURN_CODE=10",
        "TORC_WORKFLOW_ID=1",
        "TORC_JOB_ID=1",
        "TORC_JOB_NAME=j1",
        f"TORC_OUTPUT_DIR={lab.root()}/output",
    } <= set(lines)
    assert lab.torc("logs", 1, "j1").stderr == "oh\n"
    assert history(lab) == [(1, "failed", 10, 1), (2, "completed", 0, None)]


def test_a_recovery_script_that_fails_ends_the_job(lab: Lab) -> None:
    submit(lab, [scripted("echo sorry; exit 3")], job("echo command; exit 10"))
    done = lab.run(1, code=1)
    assert history(lab) == [(1, "failed", 10, 1), (2, "failed", 3, None)]
    reason = "recovery script of rule 1 returned 3; the command was not run again"
    assert lab.job("j1")["reason"] == reason
    assert reason in done.stderr
    assert said(lab, 2) == "sorry\n"
    lab.torc("retry", 1, "j1")
    lab.run(1, code=1)
    assert said(lab, 3) == "command\n", "a person's retry begins anew, without the script"
    lab.check()


@pytest.mark.parametrize("mode", [0o644, 0o755], ids=["without the run bit", "with it"])
def test_a_recovery_script_may_be_the_path_of_a_file(lab: Lab, mode: int) -> None:
    path = lab.cwd / "scripts" / "mend it.sh"
    path.parent.mkdir()
    path.write_text("#!/bin/bash\necho mended $TORC_RETURN_CODE\n")
    path.chmod(mode)
    text = "scripts/mend it.sh" if mode == 0o644 else "'scripts/mend it.sh'"
    submit(lab, [scripted(text)], job("[ $TORC_ATTEMPT_ID = 2 ] || exit 7"))
    lab.run(1)
    assert said(lab, 2) == "mended 7\n"


def test_a_recovery_script_without_the_run_bit_has_its_interpreter_and_arguments(lab: Lab) -> None:
    path = lab.cwd / "mend.py"
    path.write_text("#!/usr/bin/env python3\nimport sys\nprint('mended', sys.argv[1:])\n")
    path.chmod(0o644)
    submit(lab, [scripted('./mend.py --by "one two"')], job("[ $TORC_ATTEMPT_ID = 2 ] || exit 7"))
    lab.run(1)
    assert said(lab, 2) == "mended ['--by', 'one two']\n"


def at_the_gate(lab: Lab, gate: Gate, *options: object, **more: Any) -> Background:
    """A runner whose job waits in its recovery script."""
    submit(lab, [scripted(gate.wait)], job("echo command; exit 10", **more))
    runner = lab.start("run", 1, *options)
    gate.await_jobs("j1")
    return runner


def test_a_job_is_canceled_in_its_recovery_script(lab: Lab) -> None:
    runner = at_the_gate(lab, lab.gate())
    lab.torc("cancel", 1, "j1")
    runner.wait(code=1)
    assert [entry[:2] for entry in history(lab)] == [(1, "failed"), (2, "canceled")]
    assert lab.job("j1")["reason"] == "in the recovery script of rule 1: canceled by request"
    assert said(lab, 2) == ""
    lab.check()


def test_a_runner_that_ends_terminates_a_recovery_script(lab: Lab) -> None:
    runner = at_the_gate(lab, lab.gate())
    runner.signal(signal.SIGTERM)
    runner.wait(code=None)
    assert [(outcome, rule) for _, outcome, _, rule in history(lab)] == [("failed", 1), ("terminated", None)]
    lab.check()


def test_the_runtime_limits_a_recovery_script_and_begins_anew_for_the_command(lab: Lab) -> None:
    submit(lab, [scripted("sleep 1000")], job("exit 10", resources=Resources(runtime_s=1)))
    lab.run(1, code=1)
    assert history(lab) == [(1, "failed", 10, 1), (2, "terminated", 152, None)]
    reason = "in the recovery script of rule 1: ran longer than its runtime of 1 s"
    assert lab.job("j1")["reason"] == reason


def test_runners_that_die_use_up_no_retry_whatever_they_were_at(lab: Lab) -> None:
    """Killed in the command, in the recovery script, and in the command after it."""
    first, script, second = lab.gate("first"), lab.gate("script"), lab.gate("second")
    command = (
        f"case $TORC_ATTEMPT_ID in 1) {first.wait};; 2) exit 10;; 4) {second.wait};; esac; echo done $TORC_ATTEMPT_ID"
    )
    recovery = f"echo $TORC_ATTEMPT_ID >> scripts; if [ $(wc -l < scripts) = 1 ]; then {script.wait}; fi"
    submit(lab, [scripted(recovery, max_retries=1)], job(command))
    for gate in (first, script, second):
        runner = lab.start("run", 1)
        gate.await_jobs("j1")
        runner.kill()
    lab.run(1)
    assert [(number, outcome, rule) for number, outcome, _, rule in history(lab)] == [
        (1, None, None),
        (2, "failed", 1),
        (3, None, None),
        (4, None, None),
        (5, "completed", None),
    ]
    assert (lab.cwd / "scripts").read_text() == "2\n" * 3, (
        "at least once before each attempt, and told of the failed one"
    )
    assert said(lab, 5) == "done 5\n"
    lab.check()
