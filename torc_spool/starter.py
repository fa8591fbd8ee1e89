"""What a job's processes are given: their command line, environment and output files."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping

from torc_spool import fingerprints, fsops, handlers, naming
from torc_spool.contents import Content
from torc_spool.digest import digest
from torc_spool.errors import StorageError
from torc_spool.execution import TASK_VARIABLE, Execution, Outputs
from torc_spool.model import Job, StdioMode, Workflow
from torc_spool.naming import JobName
from torc_spool.processes import ALLOCATION_VARIABLE
from torc_spool.slots import Grant
from torc_spool.spawn import Environment, Order

_BASHES = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")
BASH = next((path for path in _BASHES if os.access(path, os.X_OK)), _BASHES[0])

_OWN_VARIABLES = ("TORC_JOB_ID", "TORC_JOB_NAME", "TORC_ATTEMPT_ID", TASK_VARIABLE)
_OF_NODES = ("TORC_NODELIST", "TORC_NUM_NODES")  # for jobs of several nodes alone
_RETURN_CODE = "TORC_RETURN_CODE"  # for recovery scripts alone
_OUTPUT_TRIES = 3


def command_text(job: Job) -> str:
    """What bash is given to run. A script of one line goes before the command on its line, as `nice` would; one of
    more lines is run first in the same shell, where what it sets holds for the command."""
    script = job.invocation_script
    if not script or not script.strip():
        return job.command
    if "\n" not in script and not script.lstrip().startswith("#"):  # a comment would swallow the command
        return f"{script} {job.command}"
    return script.rstrip("\n") + "\n" + job.command


def script_arguments(text: str, cwd: str) -> tuple[str, ...]:
    """How a recovery script is run. A file that may not be executed is read by what its first line names, or by bash;
    arguments may follow it.
    """
    whole = text.strip()
    first, _, rest = whole.partition(" ")
    for word, arguments in ((whole, ""), (first, rest)):
        path = os.path.join(cwd, word)
        if os.path.isfile(path) and not os.access(path, os.X_OK):
            return ("bash", "-c", f"{_interpreter(path)} {shlex.quote(path)} {arguments}")
    return ("bash", "-c", text)


def _interpreter(path: str) -> str:
    try:
        with open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        return "bash"
    return line[2:].decode(errors="replace").strip() or "bash" if line.startswith(b"#!") else "bash"


class Starter:
    """Starts the jobs of one workflow for one runner: what is the same for all of them is made once."""

    def __init__(
        self,
        workflow: Workflow,
        *,
        user_data: Mapping[str, str],
        runner: str,
        output_dir: str,
        environ: Mapping[str, str],
        spool: str,
        gpu_variable: str | None,
    ) -> None:
        self._workflow, self._runner, self._output_dir = workflow, runner, output_dir
        self._gpu_variable, self._user_data = gpu_variable, user_data
        self._handlers = {handler.name: handler for handler in workflow.failure_handlers}
        fixed = {
            "TORC_WORKFLOW_ID": str(workflow.id),
            "TORC_OUTPUT_DIR": output_dir,
            "TORC_SPOOL_DIR": spool,
            "TORC_RUNNER": runner,
            ALLOCATION_VARIABLE: environ.get("SLURM_JOB_ID", ""),
        }
        self._reserved = {*_OWN_VARIABLES, *_OF_NODES, _RETURN_CODE, gpu_variable, *fixed}
        self._inherited = {**self._givable(environ), **fixed}
        self._environment = Environment(self._inherited, self._givable(workflow.env))
        self._stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._stdin)
        os.close(self._nowhere)

    def prepare(self, filename: str, name: JobName, content: Content, grant: Grant) -> Execution:
        """A job that is about to start, with the paths of its output; nothing is made yet."""
        job = content.job
        stdio = job.stdio or self._workflow.stdio
        execution = Execution(filename, name, content, grant, self._outputs(name, stdio.mode))
        execution.stdio = stdio
        execution.task = f"{self._runner}/{self._workflow.id}/{name.id}.{name.attempt}"
        execution.digest = digest(job, self._workflow.env)
        if job.failure_handler is not None:
            execution.handler = self._handlers.get(job.failure_handler)
        if execution.handler is not None:
            execution.script = handlers.script_before(execution.handler, job.attempts)
        return execution

    def _outputs(self, name: JobName, mode: StdioMode) -> Outputs:
        out, err = (f"{self._output_dir}/{file}" for file in naming.output_names(self._workflow.id, name))
        if mode is StdioMode.SEPARATE:
            return Outputs(out, err)
        if mode is StdioMode.COMBINED:
            return Outputs(out, out)
        return Outputs(out if mode is StdioMode.NO_STDERR else None, err if mode is StdioMode.NO_STDOUT else None)

    def order(self, execution: Execution) -> Order:
        """What a spawner needs to start a job's recovery script, or else its command.

        Raises nothing: what goes wrong is in the spawner's outcome.
        """

        def prepare() -> tuple[int, int, int]:
            # in the spawner's thread: the sums of large files take their time
            paths = fingerprints.input_paths(execution.job, self._user_data)
            if paths:
                execution.inputs = fingerprints.take(paths, self._workflow.cwd, hashed=self._workflow.hash_inputs)
            descriptors = self._open_outputs(execution)
            execution.started, execution.started_clock = time.time(), time.monotonic()
            return self._stdin, *descriptors

        script, cwd = execution.script, self._workflow.cwd
        if script is None:
            arguments: tuple[str, ...] = ("bash", "-c", command_text(execution.job))
        else:
            arguments = script_arguments(script.text, cwd)
        own = self._own_variables(execution)
        return Order(BASH, arguments, self._environment_of(execution.job), own, cwd, prepare)

    def _environment_of(self, job: Job) -> Environment:
        if not job.env:
            return self._environment
        return Environment(self._inherited, self._givable({**self._workflow.env, **job.env}))

    def _givable(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Without those that are this runner's to give."""
        return {name: value for name, value in variables.items() if name not in self._reserved}

    def _own_variables(self, execution: Execution) -> dict[str, str]:
        job, script = execution.job, execution.script
        attempt = script.attempt if script is not None else execution.name.attempt
        own = (str(job.id), job.name, str(attempt), execution.task)
        variables = dict(zip(_OWN_VARIABLES, own, strict=True))
        if script is not None:
            variables[_RETURN_CODE] = str(script.return_code)
        hosts = execution.grant.hosts
        if hosts:
            variables |= dict(zip(_OF_NODES, (",".join(hosts), str(len(hosts))), strict=True))
        if self._gpu_variable is not None:
            variables[self._gpu_variable] = ",".join(execution.grant.devices)
        return variables

    def _open_outputs(self, execution: Execution) -> tuple[int, int]:
        """Descriptors for stdout and stderr; where both go to one file, of one open file, so that nothing is lost."""
        out_path, err_path = execution.outputs
        is_one = out_path is not None and out_path == err_path
        out, out_path = self._open_output(out_path, execution.made)
        execution.outputs = Outputs(out_path, out_path if is_one else err_path)
        try:
            if is_one:
                return out, os.dup(out)
            err, err_path = self._open_output(err_path, execution.made)
        except BaseException:
            os.close(out)
            raise
        execution.outputs = Outputs(out_path, err_path)
        return out, err

    def _open_output(self, path: str | None, made: set[str]) -> tuple[int, str | None]:
        """A new file; where the name is taken (another spool with the same output directory) a name beside it.

        `made` are those that this attempt has made already.
        """
        if path is None:
            return os.dup(self._nowhere), None
        if path in made:
            return fsops.reopen_output(path), path
        candidate = path
        for number in range(1, _OUTPUT_TRIES + 1):
            descriptor = fsops.open_output(candidate)
            if descriptor is not None:
                made.add(candidate)
                return descriptor, candidate
            candidate = f"{path}.{os.getpid()}.{number}"
        raise StorageError("create", path, None)
