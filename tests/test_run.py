import cliutil
from cliutil import Lab

lab = cliutil.lab


def test_first(lab: Lab) -> None:
    lab.submit("echo hi", "exit 3")
    lab.run(1, code=1)
    lab.check()
    assert lab.states() == {"j1": "completed", "j2": "failed"}

def test_cancel_running(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit(gate.wait, gate.wait)
    runner = lab.start("run", 1)
    gate.await_jobs("j1", "j2")
    lab.torc("cancel", 1)
    runner.wait(1)
    lab.check()
