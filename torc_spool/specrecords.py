"""The fields of a specification: one record for each kind of mapping, its types and nothing else.

To add a field, add it to its record: its type is what is accepted, its description what a message asks for. What the
reader refuses later, with words of its own, `_shaped` says to editors: it is in the schema alone.
What the program reads and does not act on has a line in `specnotes` too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_VALUE = {"type": ["string", "number", "boolean"]}
# of amounts; what has a brace is one once the file's variables stand in it
_MEMORY = r"^\s*([0-9]+(\.[0-9]+)?|\.[0-9]+)\s*([kmgtpKMGTP]([iI]?[bB])?|[bB])?\s*$|\{"
_PART = "[0-9]+([.,][0-9]+)?"
_DURATION = (
    rf"^\s*[pP](?=.*[0-9])({_PART}[wW])?({_PART}[dD])?"
    rf"([tT](?=.*[0-9])({_PART}[hH])?({_PART}[mM])?({_PART}[sS])?)?\s*$|\{{"
)


def _shaped(description: str, **shape: Any) -> Meta:
    return Meta(description=description, extra_json_schema=shape)


Text = Annotated[str, Meta(description="text")]
Name = Annotated[str, _shaped("text", minLength=1, maxLength=255, pattern=r"\S")]
Command = Annotated[str, _shaped("text", minLength=1, pattern=r"\S")]
Truth = Annotated[bool, Meta(description="true or false")]
Priority = Annotated[int, Meta(ge=0, le=999_999, description="a whole number from 0 to 999999")]
NumCpus = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
NumGpus = Annotated[int, Meta(ge=0, le=10_000, description="a whole number from 0 to 10000")]
NumNodes = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
Positive = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")]
Retries = Annotated[int, Meta(ge=0, le=1_000_000, description="a whole number from 0 to 1000000")]
Count = Annotated[int, Meta(ge=0, le=2**53, description="a whole number from 0")]
ExitCode = Annotated[int, Meta(ge=1, le=255, description="a whole number from 1 to 255")]
Memory = Annotated[
    str | int,
    _shaped(
        "an amount such as 512k, 100m, 4g, or a whole number of bytes", pattern=_MEMORY, minimum=1, maximum=2**60 - 1
    ),
]
Duration = Annotated[str, _shaped("an ISO 8601 duration such as PT30M, PT2H or P1DT12H", pattern=_DURATION)]
JobNames = Annotated[list[str], Meta(description="a list of job names such as [first, second]")]
FileNames = Annotated[list[str], Meta(description="a list of names of files such as [raw, model]")]
DatasetNames = Annotated[list[str], Meta(description="a list of names of datasets such as [partitions]")]
DataNames = Annotated[list[str], Meta(description="a list of names of user data such as [config]")]
ParameterNames = Annotated[list[str], Meta(description="a list of names of the workflow's parameters such as [lr]")]
Regexes = Annotated[list[str], Meta(description="a list of regular expressions such as ['^train_']")]
Commands = Annotated[list[str], Meta(description="a list of commands")]
ExitCodes = Annotated[list[ExitCode], Meta(description="a list of exit codes from 1 to 255 such as [10, 11]")]
Records = Annotated[list[Any], Meta(description="a list whose items begin with `- name:`")]
Jobs = Annotated[list[Any], _shaped("a list whose items begin with `- name:`", minItems=1)]
Rules = Annotated[list[Any], _shaped("a list whose items begin with `- exit_codes:`", minItems=1)]
Actions = Annotated[list[Any], Meta(description="a list whose items begin with `- trigger_type:`")]
Parameters = Annotated[
    dict[str, Any],
    _shaped(
        'a mapping such as {i: "1:100"}',
        propertyNames={"pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"},
        additionalProperties={"anyOf": [_VALUE, {"type": "array", "minItems": 1, "items": _VALUE}]},
    ),
]
Variables = Annotated[
    dict[str, Any],
    _shaped(
        "a mapping of variables to text such as {OMP_NUM_THREADS: '4'}",
        propertyNames={"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        additionalProperties={"type": ["string", "integer", "null"]},
    ),
]
Constants = Annotated[
    dict[str, Any],
    _shaped(
        "a mapping of names to text such as {root: /scratch}",
        additionalProperties={"type": ["string", "number", "null"]},
    ),
]
Options = Annotated[
    dict[str, Any],
    _shaped("a mapping", additionalProperties={"type": ["string", "number", "boolean", "null"]}),
]
Mapping = Annotated[dict[str, Any], Meta(description="a mapping")]
Output = Annotated[str | dict[str, Any], Meta(description="a mode such as combined, or a mapping such as {mode: none}")]
Anything = Annotated[Any, Meta(description="any value")]
HashMode = Annotated[Literal["manifest", "content", "none"], Meta(description="manifest, content or none")]
ParameterMode = Annotated[Literal["product", "zip"], Meta(description="product or zip")]
Mode = Annotated[
    Literal["separate", "combined", "no_stdout", "no_stderr", "none"],
    Meta(description="separate, combined, no_stdout, no_stderr or none"),
]
SortMethod = Annotated[
    Literal["none", "gpus_runtime_memory", "gpus_memory_runtime", "most_cpus"],
    Meta(description="none, gpus_runtime_memory, gpus_memory_runtime or most_cpus"),
]
TriggerType = Annotated[
    Literal[
        "on_workflow_start",
        "on_workflow_complete",
        "on_jobs_ready",
        "on_jobs_complete",
        "on_worker_start",
        "on_worker_complete",
    ],
    Meta(
        description="on_workflow_start, on_workflow_complete, on_jobs_ready, on_jobs_complete, "
        "on_worker_start or on_worker_complete"
    ),
]
ActionType = Annotated[Literal["run_commands", "schedule_nodes"], Meta(description="run_commands or schedule_nodes")]
SchedulerType = Annotated[Literal["slurm", "local"], Meta(description="slurm or local")]


class SpecRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the specification, its types checked and nothing else."""


class Parameterised(SpecRecord, frozen=True, kw_only=True):
    """What may stand for many, one for each combination of the values of its parameters."""

    name: Name
    parameters: Parameters = {}
    parameter_mode: ParameterMode = "product"
    use_parameters: ParameterNames = []
    parameters_file: Text | None = None
    use_parameters_file: Truth = False


class WorkflowRecord(SpecRecord, frozen=True, kw_only=True):
    """The whole file. Its lists are read item by item, so that a message can name the item."""

    name: Name
    jobs: Jobs
    description: Text | None = None
    user: Text | None = None
    project: Text | None = None
    metadata: Anything | None = None
    variables: Constants = {}  # which the text of all other fields has before they are read
    parameters: Parameters = {}
    parameters_file: Text | None = None
    files: Records = []
    datasets: Records = []
    user_data: Records = []
    resource_requirements: Records = []
    failure_handlers: Records = []
    slurm_schedulers: Records = []
    slurm_defaults: Options = {}
    actions: Actions = []
    env: Variables = {}
    stdio: Output | None = None
    execution_config: Mapping | None = None
    jobs_sort_method: SortMethod | None = None
    resource_monitor: Anything | None = None
    use_pending_failed: Truth | None = None
    dynamic_jobs: Anything | None = None
    max_runner_deaths: Count | None = None
    compute_node_expiration_buffer_seconds: Count | None = None
    compute_node_wait_for_new_jobs_seconds: Count | None = None
    compute_node_min_time_for_new_jobs_seconds: Count | None = None
    compute_node_ignore_workflow_completion: Truth | None = None
    compute_node_wait_for_healthy_database_minutes: Count | None = None
    enable_ro_crate: Anything | None = None
    access_groups: Anything | None = None


class JobRecord(Parameterised, frozen=True, kw_only=True):
    """One item of `jobs`."""

    command: Command
    invocation_script: Text | None = None
    resource_requirements: Text | None = None
    priority: Priority = 0
    scheduler: Text | None = None
    slurm_scheduler: Text | None = None
    failure_handler: Text | None = None
    depends_on: JobNames = []
    depends_on_regexes: Regexes = []
    input_files: FileNames = []
    input_file_regexes: Regexes = []
    output_files: FileNames = []
    output_file_regexes: Regexes = []
    input_datasets: DatasetNames = []
    output_datasets: DatasetNames = []
    input_user_data: DataNames = []
    input_user_data_regexes: Regexes = []
    output_user_data: DataNames = []
    output_user_data_regexes: Regexes = []
    env: Variables = {}
    stdio: Output | None = None
    cancel_on_blocking_job_failure: Truth = True
    supports_termination: Truth = False
    termination_signal: Anything | None = None


class FileRecord(Parameterised, frozen=True, kw_only=True):
    """One item of `files`."""

    path: Command
    identifier: Text | None = None
    st_mtime: Annotated[float, Meta(description="a number")] | None = None


class DatasetRecord(Parameterised, frozen=True, kw_only=True):
    """One item of `datasets`."""

    path: Command
    hash_mode: HashMode | None = None
    description: Text | None = None


class UserDataRecord(Parameterised, frozen=True, kw_only=True):
    """One item of `user_data`."""

    data: Anything | None = None
    is_ephemeral: Truth = False


class RequirementRecord(SpecRecord, frozen=True, kw_only=True):
    """One item of `resource_requirements`."""

    name: Name
    num_cpus: NumCpus = 1
    num_gpus: NumGpus = 0
    num_nodes: NumNodes = 1
    memory: Memory | None = None
    runtime: Duration | None = None


class SchedulerRecord(SpecRecord, frozen=True, kw_only=True):
    """What is read of an item of `slurm_schedulers`; its other fields are kept as they are given."""

    name: Name | None = None


class HandlerRecord(SpecRecord, frozen=True, kw_only=True):
    """One item of `failure_handlers`."""

    name: Name
    rules: Rules


class RuleRecord(SpecRecord, frozen=True, kw_only=True):
    """One rule of a failure handler."""

    exit_codes: ExitCodes = []
    match_all_exit_codes: Truth = False
    recovery_script: Text | None = None
    max_retries: Retries = 3


class StdioRecord(SpecRecord, frozen=True, kw_only=True):
    """A `stdio` that is more than a mode."""

    mode: Mode = "separate"
    delete_on_success: Truth = False


class ActionRecord(SpecRecord, frozen=True, kw_only=True):
    """One item of `actions`."""

    trigger_type: TriggerType
    action_type: ActionType
    jobs: JobNames = []
    job_name_regexes: Regexes = []
    commands: Commands = []
    scheduler: Text | None = None
    scheduler_type: SchedulerType = "slurm"
    num_allocations: Positive = 1
    start_one_worker_per_node: Truth = False
    max_parallel_jobs: Positive | None = None
    persistent: Truth = False
