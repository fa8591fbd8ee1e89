"""A workflow's graph as Graphviz reads it: pure text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torc_spool.plan import Group, Plan, groups

MAX_NODES = 200  # more than that nobody can read


def digraph(name: str, plan: Plan, *, grouped: bool) -> Iterator[str]:
    """The lines of a digraph: a node a job, or `grouped` a node for the jobs of a stage that are named alike."""
    listed = [[Group((job,)) for job in stage.jobs] if not grouped else groups(stage.jobs) for stage in plan.stages]
    node = {job.id: group.jobs[0].id for stage in listed for group in stage for job in group.jobs}
    edges: Counter[tuple[int, int]] = Counter()
    yield f"digraph {quote(name)} {{"
    yield "  rankdir=LR; node [shape=box];"
    for stage in listed:
        yield f"  {{ rank=same; {' '.join(f'j{group.jobs[0].id};' for group in stage)} }}"
        for group in stage:
            yield f"  j{group.jobs[0].id} [label={_label(str(group))}];"
            for job in group.jobs:
                edges.update((node[other], node[job.id]) for other in dict.fromkeys(job.depends_on) if other in node)
    for (awaited, waiting), count in edges.items():
        label = f" [label={_label(f'{count} edges')}]" if count > 1 else ""
        yield f"  j{awaited} -> j{waiting}{label};"
    yield "}"


def _label(text: str) -> str:
    """Of labels alone Graphviz reads HTML's entities."""
    return quote(text.replace("&", "&amp;"))


def quote(text: str) -> str:
    """A quoted string that stands for this text, whatever it holds; what cannot be printed is spelled out."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
