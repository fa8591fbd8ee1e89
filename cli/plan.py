"""`torc-spool execution-plan`: what becomes ready after what, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import click

from torc_spool import dot, report
from torc_spool.errors import UsageError
from torc_spool.model import Action, Job, Status
from torc_spool.plan import Firing, Plan, Stage, as_data, groups, plan, without_runtime
from torc_spool.quantities import format_duration
from torc_spool.spool import Spool

from .common import CommonCommand, State, clean, say, show_json, workflow_or_spec

_GROUPS_SHOWN = 20
_PATH_SHOWN = 20


class _Subject(NamedTuple):
    """What is planned: a spec, or a workflow of the spool with the states of its jobs."""

    name: str
    plan: Plan
    id: int | None = None
    states: Mapping[int, str] | None = None


@click.command("execution-plan", cls=CommonCommand)
@click.argument("spec_or_id", metavar="SPEC_OR_ID")
@click.option("--dot", "as_dot", is_flag=True, help="Print the graph for Graphviz: ... --dot | dot -Tsvg > plan.svg")
@click.option("--all", "every_job", is_flag=True, help="With --dot: a node for every job, however many there are.")
@click.pass_obj
def execution_plan(state: State, spec_or_id: str, as_dot: bool, every_job: bool) -> None:
    """Show in which stages the jobs of a spec or a workflow become ready, and its critical path.

    Nothing is submitted or changed. Runners do not wait for whole stages: a job is ready as soon as the jobs that it
    names have ended.
    """
    if as_dot and state.json:
        raise UsageError("give either --dot or -f json")
    if every_job and not as_dot:
        raise UsageError("--all goes with --dot; -f json names every job")
    workflow_id = workflow_or_spec(state.spool(), spec_or_id)
    subject = _of_spec(spec_or_id) if workflow_id is None else _of_workflow(state.spool(), workflow_id)
    if as_dot:
        _show_dot(subject, every_job)
    elif state.json:
        show_json({"id": subject.id, "name": subject.name, **as_data(subject.plan, subject.states)})
    else:
        for line in _text(subject):
            click.echo(clean(line))


def _of_spec(path: str) -> _Subject:
    from .submit import read_spec

    parsed, _ = read_spec(path)
    return _Subject(parsed.name, plan(parsed.jobs, parsed.actions))


def _of_workflow(spool: Spool, workflow_id: int) -> _Subject:
    store = spool.open(workflow_id)
    found, states = report.plan(store)
    return _Subject(store.workflow.name, found, store.workflow.id, states)


def _show_dot(subject: _Subject, every_job: bool) -> None:
    found = subject.plan
    grouped = found.num_jobs > dot.MAX_NODES and not every_job
    if grouped:
        say(f"{found.num_jobs} jobs: those that are named alike are one node; --all shows every job")
    for line in dot.digraph(subject.name, found, grouped=grouped):
        click.echo(line)


def _text(subject: _Subject) -> Iterator[str]:
    found = subject.plan
    what = f"workflow {subject.name}" if subject.id is None else f"workflow {subject.id} {subject.name}"
    yield f"{what}: {_count(found.num_jobs, 'job')} in {_count(len(found.stages), 'stage')}"
    if not found.stages:
        return
    widest = found.widest
    yield f"widest: stage {widest.number} with {_count(len(widest.jobs), 'job')}"
    yield f"critical path: {format_duration(found.critical_s)}{_unstated(found.critical_path)}: {_path(found)}"
    everything = [job for stage in found.stages for job in stage.jobs]
    yield f"work: {found.cpu_hours:.4g} cpu-hours by stated runtimes{_unstated(everything)}"
    for firing in found.firings:
        if firing.stage is None:
            yield _action(firing.action)
    for stage in found.stages:
        yield ""
        yield from (f"before: {_action(each.action)}" for each in _firings(found.firings, stage, "before"))
        yield from _stage(stage, subject.states)
        yield from (f"after: {_action(each.action)}" for each in _firings(found.firings, stage, "after"))


def _stage(stage: Stage, states: Mapping[int, str] | None) -> Iterator[str]:
    yield f"stage {stage.number}: {_count(len(stage.jobs), 'job')}"
    yield from (f"  {line}" for line in _listed(stage.jobs))
    if stage.waits_for:
        yield f"  waits for: {', '.join(_listed(stage.waits_for))}"
    gpus = f", {_count(stage.num_gpus, 'gpu')}" if stage.num_gpus else ""
    memory = report.memory_text(stage.memory_bytes)
    yield f"  all at once: {_count(stage.num_cpus, 'cpu')}{gpus}, {memory}"
    if stage.longest_runtime_s is not None:
        unstated = without_runtime(stage.jobs)
        others = f" ({_count(unstated, 'job')} without one)" if unstated else ""
        yield f"  longest runtime: {format_duration(stage.longest_runtime_s)}{others}"
    if stage.schedulers != [None]:
        yield f"  schedulers: {', '.join('(any)' if name is None else name for name in stage.schedulers)}"
    if states is not None:
        counts = Counter(states[job.id] for job in stage.jobs)
        known = [*(str(each) for each in Status), report.SET_ASIDE]
        yield f"  now: {', '.join(f'{counts[name]} {name}' for name in known if counts[name])}"


def _listed(jobs: Sequence[Job]) -> list[str]:
    """A line for each group of jobs, the first ones where there are many."""
    found = groups(jobs)
    more = len(found) - _GROUPS_SHOWN
    if more <= 0:
        return [str(group) for group in found]
    rest = sum(len(group.jobs) for group in found[_GROUPS_SHOWN:])
    return [*(str(group) for group in found[:_GROUPS_SHOWN]), f"... and {_count(rest, 'job')} more"]


def _path(found: Plan) -> str:
    names = [job.name for job in found.critical_path]
    if len(names) > _PATH_SHOWN:
        half = _PATH_SHOWN // 2
        names = [*names[:half], f"... {len(names) - 2 * half} more ...", *names[-half:]]
    return " -> ".join(names)


def _unstated(jobs: Sequence[Job]) -> str:
    count = without_runtime(jobs)
    if not count:
        return ""
    which = (
        "the job states none and counts"
        if count == len(jobs) == 1
        else f"{count} of {len(jobs)} jobs state none and count"
    )
    return f" ({which} as 0)"


def _firings(firings: Sequence[Firing], stage: Stage, when: str) -> list[Firing]:
    return [firing for firing in firings if firing.stage == stage.number and firing.when == when]


def _action(action: Action) -> str:
    if action.kind == "run_commands":
        what = "; ".join(action.commands)
    else:
        what = f"{_count(action.num_allocations, 'allocation')} of {action.scheduler or 'no scheduler'}"
    return f"action {action.number} {action.trigger} {action.kind}: {what}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
