"""Commands that show: status, workflows list, jobs list, jobs show, results list."""

from __future__ import annotations

import click

from torc_spool import changes, report
from torc_spool.model import Status
from torc_spool.spool import nobody_works

from .common import WORKFLOW, CommonCommand, CommonGroup, State, clean, show_fields, show_json, show_table


@click.command(cls=CommonCommand)
@WORKFLOW
@click.pass_obj
def status(state: State, workflow_id: int) -> None:
    """Show how a workflow stands: jobs by state, and its runners."""
    spool = state.spool()
    store = spool.open(workflow_id)
    row = report.status(store)
    if state.json:
        show_json(row)
        return
    counts = ", ".join(f"{count} {name}" for name, count in row["jobs"].items() if count)
    aside = f", {row['set_aside']} set aside" if row["set_aside"] else ""
    done = "finished" if row["finished"] else "not finished"
    total = "1 job" if row["total"] == 1 else f"{row['total']} jobs"
    click.echo(f"workflow {row['id']} {clean(row['name'])}: {done}; {total}: {counts or 'none'}{aside}")
    acts = ", ".join(f"{count} {name}" for name, count in row.get("actions", {}).items() if count)
    if acts:
        click.echo(f"actions: {acts}; see torc-spool actions list {row['id']}")
    for runner in row["runners"]:
        if runner["state"] == "ended":
            continue
        age = runner["heartbeat_age_s"]
        beat = f", heartbeat {age:.0f} s ago" if age is not None else ""
        evidence = f" ({clean(runner['evidence'])})" if runner["evidence"] else ""
        taker = f", taken back by {runner['recovered_by']}" if runner["recovered_by"] else ""
        click.echo(f"runner {runner['name']}: {runner['state']}{evidence}{taker}{beat}")
    for sick in row["sick_hosts"]:
        where = f"see torc-spool sick-hosts list {row['id']}"
        click.echo(f"sick host {clean(sick['host'])}: {clean(sick['reason'])}; {where}")
    if not row["finished"] and not any(runner["state"] in ("alive", "silent") for runner in row["runners"]):
        click.echo(clean(nobody_works(store, spool.path)))


@click.group(cls=CommonGroup)
def workflows() -> None:
    """The workflows of a spool."""


@workflows.command("list")
@click.pass_obj
def workflows_list(state: State) -> None:
    """List all workflows of the spool."""
    rows = report.workflows(state.spool())
    if state.json:
        show_json(rows)
        return
    show_table(
        ("id", "name", "total", "waiting", "running", "completed", "unsuccessful", "finished"),
        [_workflow_cells(row) for row in rows],
    )


def _workflow_cells(row: report.Row) -> tuple[object, ...]:
    if "error" in row:
        return (row["id"], row["name"], row["error"], "", "", "", "", "")
    jobs_in = row["jobs"]
    return (
        row["id"],
        row["name"],
        row["total"],
        jobs_in["blocked"] + jobs_in["ready"] + jobs_in["held"],
        jobs_in["pending"] + jobs_in["running"],
        jobs_in["completed"],
        jobs_in["failed"] + jobs_in["canceled"] + jobs_in["terminated"],
        "yes" if row["finished"] else "no",
    )


@click.group(cls=CommonGroup)
def jobs() -> None:
    """The jobs of a workflow."""


@jobs.command("list")
@WORKFLOW
@click.option(
    "-s",
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([*(str(each) for each in Status), "set_aside"]),
    help="Only jobs in this state; may be given several times.",
)
@click.option("-n", "--name", "names", multiple=True, help="Only jobs with this name; * and ? stand for anything.")
@click.pass_obj
def jobs_list(state: State, workflow_id: int, statuses: tuple[str, ...], names: tuple[str, ...]) -> None:
    """List jobs in order of id."""
    rows = report.jobs(state.spool().open(workflow_id), statuses=statuses, names=names)
    if state.json:
        show_json(rows)
        return
    show_table(
        ("id", "name", "status", "priority", "scheduler", "attempt", "return_code", "exec_s", "reason"),
        [
            (
                row["id"],
                row["name"],
                row["status"],
                row["priority"],
                row["scheduler"],
                row["attempt"],
                row["return_code"],
                None if row["exec_s"] is None else f"{row['exec_s']:.2f}",
                row["reason"],
            )
            for row in rows
        ],
    )


@jobs.command("show")
@WORKFLOW
@click.argument("job", metavar="JOB")
@click.pass_obj
def jobs_show(state: State, workflow_id: int, job: str) -> None:
    """Show everything about one job, by its name or id."""
    store = state.spool().open(workflow_id)
    row = report.job(store, changes.find_jobs(store, [job])[0])
    if state.json:
        show_json(row)
        return
    show_fields({**row, **_outputs(row, row)}, skip=["attempts", "recoveries"])
    for attempt in row["attempts"]:
        outcome = attempt["outcome"] or "lost"
        click.echo(f"attempt {attempt['attempt']}: {outcome}, return code {clean(attempt['return_code'])}")
        fields = {**attempt, **_outputs(row, attempt)}
        show_fields({f"  {key}": value for key, value in fields.items() if value is not None and key != "attempt"})
    for found in row["recoveries"]:
        click.echo(
            f"recovery of attempt {found['attempt']}: {found['decision']}, by {found['recovered_by']} "
            f"at {found['time']}; runner {found['runner']} was dead: {clean(found['evidence'])}"
        )


def _outputs(row: report.Row, attempt: report.Row) -> dict[str, str | None]:
    """Where an attempt's output is, or why it is nowhere."""
    return {
        "stdout": attempt["stdout"] or report.why_not_kept(row, attempt, "stdout"),
        "stderr": attempt["stderr"] or report.why_not_kept(row, attempt, "stderr"),
    }


@click.group(cls=CommonGroup)
def results() -> None:
    """The results of a workflow's jobs."""


@results.command("list")
@WORKFLOW
@click.pass_obj
def results_list(state: State, workflow_id: int) -> None:
    """List every recorded attempt, in order of job and attempt."""
    rows = report.results(state.spool().open(workflow_id))
    if state.json:
        show_json(rows)
        return
    show_table(
        ("id", "name", "attempt", "outcome", "return_code", "exec_s", "peak_memory", "runner", "cause", "reason"),
        [
            (
                row["id"],
                row["name"],
                row["attempt"],
                row["outcome"] or "lost",
                row["return_code"],
                None if row["exec_s"] is None else f"{row['exec_s']:.2f}",
                report.memory_text(row["peak_memory_bytes"]),
                row["runner"],
                row["cause"],
                row["reason"],
            )
            for row in rows
        ],
    )
