"""Publishing a workflow: all of it or nothing, durable before its id is told.

Everything is made in a staging directory of this process; one rename publishes it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from torc_spool import fsops, naming, processes, sortkeys, trust
from torc_spool.actor import identity, new_name, user_name
from torc_spool.contents import encode
from torc_spool.digest import Sum
from torc_spool.errors import DamagedFile, StorageError, UntrustedSpool
from torc_spool.evidence import Here, of_host
from torc_spool.layout import ACTION_DIRECTORIES, FIXED_DIRECTORIES, IDS, Layout
from torc_spool.model import Action, Job, RunnerRecord, UserData, Workflow, WorkflowSpec
from torc_spool.userdata import Datum, with_user_data

STAGING, TRASH = ".staging", ".trash"
COPY = ".workflow.json"  # beside workflow.json: the same, for a repair
_ID_TRIES = 10_000
_IDS_END = 10**9  # what no directory of a workflow can be called is no id, whoever made it


class Verbatim(msgspec.Struct, frozen=True):
    """What was submitted, byte by byte, and the name it is kept under."""

    data: bytes
    name: str = "spec.yaml"
    source: str | None = None  # what messages call it


def prepare_root(spool: str, *, shared: bool) -> None:
    """Make the spool's directory and its hidden ones where they are missing. Raises UntrustedSpool, StorageError."""
    mode = 0o777 if shared else 0o755
    if not os.path.isdir(spool):
        fsops.make_output_directory(os.path.dirname(os.path.abspath(spool)))
        fsops.make_directory(spool, mode)
    trust.check_directory(spool, shared=shared)
    for name in (IDS, STAGING, TRASH):
        fsops.make_directory(f"{spool}/{name}", mode)


def publish(
    spool: str,
    spec: WorkflowSpec,
    verbatim: Verbatim,
    *,
    cwd: str,
    output_dir: str | None = None,
    hash_inputs: bool = False,
    shared: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Submit a validated spec (s1 to s9); returns the new workflow's id.

    `progress` is told now and then how many jobs have been written. Raises StorageError: then nothing was
    published, and what was staged has been removed, unless it says that a published workflow could not be synced.
    """
    prepare_root(spool, shared=shared)
    sweep(spool)
    name = new_name()
    staging = f"{spool}/{STAGING}/{name}"
    mode = 0o777 if shared else 0o755
    fsops.make_directory(staging, mode)
    try:
        fsops.create(f"{staging}/owner.json", encode(identity(name, kind="submit")))
        root = f"{staging}/workflow"
        workflow_id = reserve_id(spool, mode)
        target = f"{spool}/{naming.workflow_directory(workflow_id, spec.name)}"
        digests = _write(root, target, spec, verbatim, shared=shared, progress=progress)
        workflow = _workflow(workflow_id, spec, cwd=cwd, output_dir=output_dir, shared=shared)
        workflow = msgspec.structs.replace(workflow, hash_inputs=hash_inputs, digests=digests)
        for record in (COPY, "workflow.json"):
            _create(f"{root}/{record}", encode(workflow), 0o666 if shared else 0o644)
        fsops.sync_filesystem(root)
        _show(root, target)
        try:
            fsops.sync_directory(spool)
        except StorageError as error:
            raise StorageError(f"sync, after publishing workflow {workflow_id},", spool, error.errno) from error
    finally:
        with suppress(StorageError):  # what is left is swept by the next submit
            _discard(spool, name)
    return workflow_id


def _show(root: str, target: str) -> None:
    """s7. What is refused may have happened (a lost reply): the name is nobody else's, and a fresh listing shows it."""
    refused = StorageError("publish", target, None)
    try:
        if fsops.rename_directory(root, target):
            return
    except StorageError as error:
        refused = error
    spool, name = os.path.split(target)
    if name not in fsops.names(spool):
        raise refused


def _create(path: str, data: bytes, mode: int) -> None:
    """A file that nobody else makes: one that is there may be empty, when the reply to its creation was lost."""
    if not fsops.create(path, data, mode):
        raise StorageError("create", path, errno.EEXIST)


def reserve_id(spool: str, mode: int = 0o755) -> int:
    """An id that was never used: whoever makes its directory has it (s3). Ids are never removed."""
    used = (naming.whole(name) for name in fsops.names(f"{spool}/{IDS}"))
    published = (found[0] for name in fsops.names(spool) if (found := naming.parse_workflow(name)))
    first = 1 + max([0, *(number for number in used if number is not None and number < _IDS_END), *published])
    for candidate in range(first, first + _ID_TRIES):
        if fsops.make_directory(f"{spool}/{IDS}/{candidate}", mode):
            return candidate
    raise StorageError("reserve an id below", f"{spool}/{IDS}", None)


def _workflow(workflow_id: int, spec: WorkflowSpec, *, cwd: str, output_dir: str | None, shared: bool) -> Workflow:
    return Workflow(
        id=workflow_id,
        name=spec.name,
        description=spec.description,
        user=spec.user,
        num_jobs=len(spec.jobs),
        num_edges=sum(len(job.depends_on) for job in spec.jobs),
        cwd=cwd,
        output_dir=output_dir,
        shared=shared,
        submitted=time.time(),
        submitted_by=user_name(),
        submitted_on=processes.host_name(),
        num_actions=len(spec.actions),
        project=spec.project,
        metadata=spec.metadata,
        env=spec.env,
        stdio=spec.stdio,
        failure_handlers=spec.failure_handlers,
        schedulers=spec.schedulers,
        slurm_defaults=spec.slurm_defaults,
        jobs_sort_method=spec.jobs_sort_method,
        settings=spec.settings,
    )


def _write(
    root: str,
    target: str,
    spec: WorkflowSpec,
    verbatim: Verbatim,
    *,
    shared: bool,
    progress: Callable[[int], None] | None,
) -> dict[str, str]:
    """Everything but `workflow.json`; returns the digests of what never changes, by file name."""
    directory_mode, file_mode = (0o777, 0o666) if shared else (0o755, 0o644)
    fsops.make_directory(root, directory_mode)
    for part in (*FIXED_DIRECTORIES, *(ACTION_DIRECTORIES if spec.actions else ())):
        fsops.make_directory(f"{root}/{part}", directory_mode)
    layout = Layout(root)
    files = naming.user_data_files(datum.name for datum in spec.user_data)
    paths = {name: Layout(target).user_datum(file) for name, file in files.items()}
    sums = {verbatim.name: Sum(verbatim.data)}
    if files:
        sums["user_data.jsonl"] = _write_user_data(layout, spec.user_data, files, directory_mode, file_mode)
    for scheduler in spec.schedulers:
        fsops.make_directory(layout.ready_for(scheduler["name"]), directory_mode)
    _create(layout.lock, b"", file_mode)
    _create(f"{root}/{verbatim.name}", verbatim.data, file_mode)
    if spec.actions:
        sums["actions.jsonl"] = _write_actions(layout, spec.actions, file_mode)
    jobs = sums["jobs.jsonl"] = Sum()
    record = fsops.open_append(layout.jobs_file, file_mode)
    try:
        lines = bytearray()
        for count, job in enumerate(spec.jobs, 1):
            lines += _write_job(layout, with_user_data(job, paths), spec.jobs_sort_method, file_mode)
            if len(lines) > 1 << 20 or count == len(spec.jobs):
                fsops.write_all(record, bytes(lines), layout.jobs_file)
                jobs.add(bytes(lines))
                lines.clear()
            if progress is not None and count % 500 == 0:
                progress(count)
    finally:
        fsops.close(record, layout.jobs_file)
    return {name: str(each) for name, each in sums.items()}


def _write_user_data(
    layout: Layout, user_data: Sequence[UserData], files: Mapping[str, str], directory_mode: int, file_mode: int
) -> Sum:
    fsops.make_directory(layout.user_data, directory_mode)
    for datum in user_data:
        _create(layout.user_datum(files[datum.name]), encode(datum.data), file_mode)
    record = user_data_record(user_data, files)
    _create(layout.user_data_file, record, file_mode)
    return Sum(record)


def user_data_record(user_data: Sequence[UserData], files: Mapping[str, str]) -> bytes:
    """What `user_data.jsonl` holds; `files` are their files by name."""
    data = [
        Datum(
            name=datum.name,
            file=files[datum.name],
            data=msgspec.Raw(encode(datum.data).strip()),
            is_ephemeral=datum.is_ephemeral,
        )
        for datum in user_data
    ]
    return b"".join(map(encode, data))


def _write_actions(layout: Layout, actions: Iterable[Action], mode: int) -> Sum:
    lines = [(action, encode(action)) for action in actions]
    for action, line in lines:
        once = not action.is_of_each_runner
        name = naming.ActionName(action.number, action.trigger, 1 if once else None)
        _create(f"{layout.actions_waiting if once else layout.actions_persistent}/{name}", line, mode)
    record = b"".join(line for _, line in lines)
    _create(layout.actions_file, record, mode)
    return Sum(record)


def job_records(layout: Layout, spec: WorkflowSpec) -> bytes:
    """What `jobs.jsonl` holds of a workflow that lies there."""
    files = naming.user_data_files(datum.name for datum in spec.user_data)
    paths = {name: layout.user_datum(file) for name, file in files.items()}
    return b"".join(encode(with_user_data(job, paths)) for job in spec.jobs)


def _write_job(layout: Layout, job: Job, sort_method: str | None, mode: int) -> bytes:
    needs = job.resources.needs
    key = sortkeys.key(sort_method, needs)
    name = naming.job_name(priority=job.priority, job=job.id, needs=needs, name=job.name, key=key)
    directory = layout.blocked if job.depends_on else layout.ready_for(job.scheduler)
    line = encode(job)
    # `attempts` stands in every job's file, so that a reader in any language finds a list there
    data = line if job.attempts else line[:-2] + b',"attempts":[]}\n'
    _create(f"{directory}/{name}", data, mode)
    return line


def sweep(spool: str) -> None:
    """Remove what submits and deletes of the dead have left (X1, X2, X19). Says nothing and stops at the first
    refusal of the filesystem: whoever may will do it."""
    here = Here.now()
    try:
        for name in fsops.names(f"{spool}/{STAGING}"):
            if _owner_is_dead(f"{spool}/{STAGING}/{name}", name, here):
                _discard(spool, name)
        for name in fsops.names(f"{spool}/{TRASH}"):
            fsops.remove_tree(f"{spool}/{TRASH}/{name}")
    except (StorageError, UntrustedSpool):
        return


def _owner_is_dead(staging: str, name: str, here: Here) -> bool:
    try:
        content = fsops.read(f"{staging}/owner.json")
    except DamagedFile:
        return False
    record = _owner_record(content.data if content else b"")
    if record is None:
        # killed between s1 and s2: the name itself says host and process
        host, pid, _ = name.rsplit("-", 2) if naming.is_runner(name) else ("", "0", "")
        same_host = host == naming.new_runner_name(here.host, 0).rsplit("-", 2)[0]
        return same_host and processes.start_time(int(pid)) is None
    alive = of_host(record, here, heartbeat_age_s=None, is_running=processes.is_same_process) is None
    both_known = bool(record.boot_id and here.boot_id)
    restarted = record.host == here.host and both_known and record.boot_id != here.boot_id
    return not alive or restarted


def _owner_record(data: bytes) -> RunnerRecord | None:
    try:
        return msgspec.json.decode(data, type=RunnerRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _discard(spool: str, name: str) -> None:
    """By a rename first, so that an owner who lives after all finds his directory gone, and publishes nothing."""
    trash = f"{spool}/{TRASH}/{name}"
    if fsops.rename_directory(f"{spool}/{STAGING}/{name}", trash):
        fsops.remove_tree(trash)
