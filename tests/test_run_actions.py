"""Actions as runners perform them: once, at their time, and what is left when a performer is cut short."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cliutil
import msgspec
import pytest
import spooltools as tools
from cliutil import Lab, wait_until
from spooltools import Do, Wanted

from torc_spool import actions
from torc_spool.model import Trigger
from torc_spool.spool import Spool

lab = cliutil.lab


def submit(lab: Lab, jobs: dict[str, str | Wanted], *do: Do, **workflow: Any) -> int:
    wanted = {name: job if isinstance(job, Wanted) else Wanted(job) for name, job in jobs.items()}
    spec = msgspec.structs.replace(tools.workflow(wanted, actions=do), **workflow)
    return Spool(str(lab.spool)).submit(spec, tools.VERBATIM, cwd=str(lab.cwd))


def log(lab: Lab) -> list[str]:
    """What jobs and actions have written, in order."""
    path = lab.cwd / "log"
    return path.read_text().split() if path.exists() else []


def write(word: str) -> str:
    return f"echo {word} >> log"


def states(lab: Lab, workflow: int = 1) -> list[str]:
    return [row["state"] for row in actions.rows(lab.store(workflow))]


def await_action(lab: Lab, number: int, state: str) -> None:
    wait_until(lambda: states(lab)[number - 1] == state, f"action {number} is {state}")


@pytest.fixture
def pipe(lab: Lab) -> Iterator[cliutil.Gate]:
    yield lab.gate("pipe")


def test_everything_in_its_order(lab: Lab) -> None:
    submit(
        lab,
        {"one": write("one"), "two": Wanted(write("two"), ("one",))},
        Do(Trigger.WORKFLOW_START, (write("start1"), write("start2"))),
        Do(Trigger.WORKER_START, (write("worker"),)),
        Do(Trigger.JOBS_READY, (write("ready"),), ("two",)),
        Do(Trigger.JOBS_COMPLETE, (write("first"),), ("one",)),
        Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)),
        Do(Trigger.WORKER_COMPLETE, (write("leave"),)),
    )
    lab.run(1)
    words = log(lab)
    assert words[:4] == ["start1", "start2", "worker", "one"]
    assert words[-2:] == ["end", "leave"]
    assert sorted(words[4:-2]) == ["first", "ready", "two"]
    assert words.index("ready") < words.index("two")
    assert states(lab) == ["done", "each runner", "done", "done", "done", "each runner"]
    lab.run(1)
    assert log(lab) == words, "a workflow that is finished has nothing left to perform"


def test_what_a_command_gets(lab: Lab) -> None:
    show = "pwd; echo $TORC_WORKFLOW_ID $TORC_ACTION $TORC_ACTION_TRIGGER $TORC_OUTPUT_DIR $TORC_SPOOL_DIR $MINE $OURS"
    do = Do(Trigger.WORKFLOW_START, (show, "echo e >&2", "echo $TORC_RUNNER; exit 0", "echo x"))
    submit(lab, {"one": "true"}, do, env={"OURS": "ours", "TORC_RUNNER": "x"})
    lab.run(1, env={"MINE": "mine", "TORC_JOB_ID": "7"}, cwd=lab.base)
    out = lab.root() / "output"
    (runner,) = [row["runner"] for row in actions.rows(lab.store())]
    assert (out / "1-action-001.1-on_workflow_start.out").read_text().split("\n") == [
        str(lab.cwd),
        f"1 1 on_workflow_start {out} {lab.spool} mine ours",
        runner,
        "x",
        "",
    ]
    assert (out / "1-action-001.1-on_workflow_start.err").read_text() == "e\n"


def test_two_runners_perform_it_once_and_each_its_own(lab: Lab) -> None:
    gate = lab.gate()
    submit(
        lab,
        {f"j{number}": gate.wait for number in range(4)},
        Do(Trigger.WORKFLOW_START, (write("start"),)),
        Do(Trigger.WORKER_START, (write("worker"),)),
        Do(Trigger.JOBS_COMPLETE, (write("complete"),), ("j0", "j1", "j2", "j3")),
        Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)),
        Do(Trigger.WORKER_COMPLETE, (write("leave"),)),
    )
    runners = [lab.start("run", 1, "-p", 2) for _ in range(2)]
    gate.await_jobs("j0", "j1", "j2", "j3")
    gate.open()
    for runner in runners:
        runner.wait(None)  # the one that ends first leaves jobs in the other's hands
    words = log(lab)
    assert sorted(words) == ["complete", "end", "leave", "leave", "start", "worker", "worker"]
    assert words[0] == "start"
    outputs = [name for name in lab.ls("output") if "on_worker_start" in name]
    assert len(outputs) == 4


def test_no_runner_claims_while_another_performs_the_start(lab: Lab, pipe: cliutil.Gate) -> None:
    submit(lab, {"one": write("one")}, Do(Trigger.WORKFLOW_START, (pipe.only_wait, write("start"))))
    first = lab.start("run", 1)
    await_action(lab, 1, "running")
    second = lab.start("run", 1)
    wait_until(lambda: len(lab.ls("pending")) == 2 or len(lab.ls("runners")) == 2, "both are there")
    assert lab.states() == {"one": "ready"}
    pipe.open()
    codes = sorted(runner.wait(code=None).code for runner in (first, second))
    assert codes in ([0, 0], [0, 3])  # who finds the job in the other's hands need not stay
    assert log(lab) == ["start", "one"]


def test_a_performer_that_was_declared_dead_records_no_failure_of_what_was_killed(lab: Lab, pipe: cliutil.Gate) -> None:
    submit(lab, {"one": write("one")}, Do(Trigger.WORKFLOW_START, (pipe.only_wait,)))
    runner = lab.start("run", 1)
    await_action(lab, 1, "running")
    (name,) = lab.ls("pending")
    lab.torc("recover", 1, "--dead", name)
    assert "its jobs were given to others" in runner.wait(code=4).stderr
    assert states(lab) == ["interrupted"]


def test_a_killed_performer_leaves_it_interrupted_until_it_is_repeated(lab: Lab, pipe: cliutil.Gate) -> None:
    note = f"echo $$ > {lab.base}/pid"
    submit(lab, {"one": write("one")}, Do(Trigger.WORKFLOW_START, (f"{note}; {pipe.only_wait}; {write('start')}",)))
    runner = lab.start("run", 1)
    pid = cliutil.pid_in(lab.base / "pid")
    runner.kill()
    wait_until(lambda: states(lab) == ["interrupted"], "the performer is known to be dead")
    done = lab.run(1)
    assert cliutil.gone(pid), "what the dead had left was killed"
    assert "action 1 (on_workflow_start) was interrupted" in done.stderr
    assert log(lab) == ["one"]
    assert lab.torc("status", 1, "-f", "json").json["actions"]["interrupted"] == 1
    assert "waits, as performance 2" in lab.torc("actions", "repeat", 1, 1).stdout
    pipe.open()
    lab.torc("retry", 1)
    lab.run(1)
    assert states(lab) == ["waiting"], "the workflow is finished, and starts no more"


def test_a_start_that_is_put_back_is_performed_by_who_has_begun_already(lab: Lab) -> None:
    gate = lab.gate()
    submit(lab, {"one": gate.wait, "two": write("two")}, Do(Trigger.WORKFLOW_START, (write("start"),)))
    runner = lab.start("run", 1, "-p", 1)
    gate.await_jobs("one")
    lab.torc("actions", "repeat", 1, 1)
    gate.open()
    runner.wait()
    assert log(lab) == ["start", "start", "two"]
    assert states(lab) == ["done"]


def test_what_is_interrupted_is_told_also_by_who_performs_the_end(lab: Lab, pipe: cliutil.Gate) -> None:
    submit(
        lab,
        {"one": "true", "two": Wanted(write("two"), ("one",))},
        Do(Trigger.JOBS_READY, (pipe.only_wait,), ("two",)),
        Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)),
    )
    runner = lab.start("run", 1)
    await_action(lab, 1, "running")
    runner.kill()
    wait_until(lambda: states(lab)[0] == "interrupted", "the performer is known to be dead")
    assert lab.run(1).stderr.count("action 1 (on_jobs_ready) was interrupted") == 1
    assert log(lab) == ["two", "end"]


def test_a_repeat_of_the_end(lab: Lab) -> None:
    submit(lab, {"one": "true"}, Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)))
    lab.run(1)
    lab.torc("actions", "repeat", 1, 1)
    lab.run(1)
    assert log(lab) == ["end", "end"]
    (name,) = lab.ls("actions/done")
    assert name.startswith("001.2-on_workflow_complete~")
    assert name.endswith("~0.json")


def test_the_end_is_performed_by_the_next_run_when_the_last_runner_died(lab: Lab) -> None:
    submit(lab, {"one": "true"}, Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)))

    def live(hand: tools.Hand) -> None:
        hand.take("one")
        hand.finish(1, tools.Status.COMPLETED)

    tools.dead_runner(str(lab.spool), live)
    assert log(lab) == []
    lab.run(1)
    lab.run(1)
    assert log(lab) == ["end"]


def test_a_command_that_fails_is_told_and_the_workflow_goes_on(lab: Lab) -> None:
    submit(lab, {"one": "true"}, Do(Trigger.WORKFLOW_START, (write("a"), "exit 7", write("never"))))
    done = lab.run(1)
    assert "action 1 (on_workflow_start) failed: command 2 ('exit 7') returned 7; stderr: " in done.stderr
    assert log(lab) == ["a"]
    (row,) = lab.torc("actions", "list", 1, "-f", "json").json
    assert (row["state"], row["return_code"]) == ("failed", 7)
    assert Path(done.stderr.split("stderr: ")[1].split("\n")[0]).exists()


def test_failed_and_canceled_jobs_complete_too_and_the_canceled_never_become_ready(lab: Lab) -> None:
    submit(
        lab,
        {"bad": "false", "after": Wanted("true", ("bad",))},
        Do(Trigger.JOBS_COMPLETE, (write("complete"),), ("bad", "after")),
        Do(Trigger.JOBS_READY, (write("ready"),), ("after",)),
    )
    lab.run(1, code=1)
    assert log(lab) == ["complete"]
    assert states(lab) == ["done", "waiting"]
    (_, row) = actions.rows(lab.store())
    assert row["waits_for"] == "after"


def test_a_signal_lets_a_worker_take_its_leave_and_cuts_the_rest_short(lab: Lab, pipe: cliutil.Gate) -> None:
    submit(
        lab,
        {"one": write("one")},
        Do(Trigger.JOBS_COMPLETE, (pipe.only_wait, write("complete")), ("one",)),
        Do(Trigger.WORKER_COMPLETE, (write("leave"),)),
    )
    runner = lab.start("run", 1, "--grace", 30)
    await_action(lab, 1, "running")
    runner.signal(signal.SIGTERM)
    done = runner.wait(None)
    assert "action 1 (on_jobs_complete) was cut short" in done.stderr
    assert log(lab) == ["one", "leave"]
    assert states(lab) == ["interrupted", "each runner"]


def test_the_leave_of_a_stopped_worker_lasts_a_grace(lab: Lab) -> None:
    submit(lab, {"one": "sleep 100"}, Do(Trigger.WORKER_COMPLETE, (write("leave"), "sleep 100")))
    runner = lab.start("run", 1, "--grace", "0.5")
    lab.await_states(one="running")
    runner.signal(signal.SIGTERM)
    runner.wait(4)
    assert log(lab) == ["leave"]


def test_a_stopped_runner_takes_its_leave(lab: Lab) -> None:
    gate = lab.gate()
    submit(lab, {"one": gate.wait, "two": "true"}, Do(Trigger.WORKER_COMPLETE, (write("leave"),)))
    runner = lab.start("run", 1, "-p", 1)
    gate.await_jobs("one")
    lab.torc("stop", 1, lab.runner())
    wait_until(lambda: "asked to stop" in runner.stderr, "it has heard")
    gate.open()
    runner.wait(4)
    assert log(lab) == ["leave"]
    assert lab.states() == {"one": "completed", "two": "ready"}


def test_persistent_actions_are_performed_by_each_runner(lab: Lab) -> None:
    submit(lab, {"one": "once", "two": "true"}, Do(Trigger.WORKFLOW_COMPLETE, (write("end"),), persistent=True))
    lab.run(1, code=1)
    lab.torc("retry", 1)
    lab.run(1, code=1)
    assert log(lab) == ["end", "end"]


def test_a_runner_of_all_workflows_performs_them_too(lab: Lab) -> None:
    for _ in range(2):
        submit(
            lab,
            {"one": "true"},
            Do(Trigger.WORKFLOW_START, (write("start"),)),
            Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)),
        )
    lab.run()
    assert sorted(log(lab)) == ["end", "end", "start", "start"]


def test_what_is_no_action_is_set_aside_and_an_action_is_made_anew(lab: Lab) -> None:
    submit(lab, {"one": write("one")}, Do(Trigger.WORKFLOW_COMPLETE, (write("end"),)))
    (name,) = lab.ls("actions/waiting")
    tools.damage(str(lab.root() / "actions/waiting" / name))
    (lab.root() / "actions/waiting/notes").write_text("x")
    done = lab.run(1)
    assert done.stderr.count("set aside: ") == 2
    assert states(lab) == ["set_aside"]
    lab.torc("actions", "repeat", 1, 1)
    lab.run(1)
    assert log(lab) == ["one", "end"]


def test_actions_that_cannot_be_repeated(lab: Lab, pipe: cliutil.Gate) -> None:
    submit(lab, {"one": "true"}, Do(Trigger.WORKFLOW_START, (pipe.only_wait, write("start"))), Do(Trigger.WORKER_START))
    said = lab.torc("actions", "repeat", 1, 1, code=2).sentence()
    assert said == "action 1 waits already, as its performance 1"
    assert "is performed by each runner" in lab.torc("actions", "repeat", 1, 2, code=2).sentence()
    assert "has no action 3; it has actions 1 to 2" in lab.torc("actions", "repeat", 1, 3, code=2).sentence()
    runner = lab.start("run", 1)
    await_action(lab, 1, "running")
    assert "which may live" in lab.torc("actions", "repeat", 1, 1, code=2).sentence()
    lab.torc("actions", "repeat", 1, 1, "--force")
    pipe.open()
    done = runner.wait()
    assert "what it did here is not recorded" in done.stderr
    assert log(lab) == ["start"] * 2
    assert os.listdir(lab.root() / "actions/running") == []
