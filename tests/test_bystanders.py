"""Processes that are none of a runner's: whoever is its child by `exec`, and what that starts, outlives its jobs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cliutil import TIMEOUT_S, Lab, gone, pid_in, wait_until
from cliutil import lab as lab

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there a runner takes in orphans")

SCRIPT = """
sleep 1000 & echo $! > {dir}/beside
bash -c 'sleep 1000 & echo $! > {dir}/grandchild; read -r _ < {dir}/end' &
exec {run} 2> >(cat > {dir}/said; echo "the last line" >> {dir}/said)
"""
LEAVES = (
    "(env -i setsid bash -c 'echo $$ > {dir}/left; exec sleep 1000' &); until [ -s {dir}/left ]; do sleep 0.01; done"
)


def test_what_a_script_began_beside_its_runner_lives_on_and_hears_all_that_is_said(lab: Lab) -> None:
    """A runner that was started by `exec` has the script's children. It took them for what its jobs had left: the `cat`
    that kept its messages was killed when the first job had ended."""
    lab.submit(LEAVES.format(dir=lab.base), f"echo > {lab.base}/end; exit 1")
    os.mkfifo(lab.base / "end")  # the parent of the grandchild ends while the second job runs
    script = SCRIPT.format(dir=lab.base, run=shlex.join(lab.command("run", 1, "-p", 1, "--wait-for-new-jobs", 0.5)))
    done = subprocess.run(["bash", "-c", script], env=lab._env(None), cwd=lab.cwd, timeout=TIMEOUT_S, check=False)
    beside = [pid_in(lab.base / name) for name in ("beside", "grandchild")]
    try:
        assert done.returncode == 1
        assert not any(map(gone, beside))
        assert gone(pid_in(lab.base / "left")), "what a job leaves is ended"
        wait_until(lambda: "the last line" in _said(lab.base), "its messages are kept to the end")
        assert "failed: job j2" in _said(lab.base)
    finally:
        for pid in beside:
            os.kill(pid, signal.SIGKILL)


def _said(base: Path) -> str:
    path = base / "said"
    return path.read_text() if path.exists() else ""
