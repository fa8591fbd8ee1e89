"""Who waits for whom, by names, files, datasets and user data: pure, on records whose parameters have been expanded.

A file is known by its path: of two names with one path, one is as good as the other. So is a dataset, a directory that
several jobs may write: who reads it waits for all of them. Who reads or writes it, reads or writes its path.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torc_spool.complaints import quote, refuse_unknown
from torc_spool.errors import SpecError
from torc_spool.graph import cycle
from torc_spool.matching import Names
from torc_spool.model import Job
from torc_spool.specrecords import JobRecord

MAX_WAITS = 50_000_000  # of all jobs together: some hundred megabytes
_CYCLE_SHOWN = 20
_WRITTEN = re.compile(r"\$\{(files|user_data|datasets)\.(input|output)\.([^}]*)\}")
_BEGINNING = re.compile(r"\$\{(?:files|user_data|datasets)\.")
_SINGULAR = {"files": "file", "user_data": "user data", "datasets": "dataset"}


class Flow(NamedTuple):
    """What a job waits for, reads and writes."""

    depends_on: tuple[int, ...] = ()
    input_files: tuple[str, ...] = ()  # paths as given, each once; those of datasets too
    output_files: tuple[str, ...] = ()
    input_user_data: tuple[str, ...] = ()  # names
    output_user_data: tuple[str, ...] = ()


_NOTHING = Flow()


class _Ends(NamedTuple):
    """The names of one kind that a job reads and writes."""

    inputs: dict[str, str]  # and the field that says so
    outputs: dict[str, str]


class _AllEnds(NamedTuple):
    """Those of all kinds."""

    files: _Ends | None
    data: _Ends | None
    sets: _Ends | None


class _Reference(NamedTuple):
    """A `${files.input.NAME}` or the like."""

    field: str  # whose text holds it
    section: str
    role: str  # "input" or "output"
    name: str


class Dataflow:
    """Joins jobs, by their ids from 1 on, to each other. `files` and `datasets` are paths by name."""

    def __init__(
        self,
        jobs: Sequence[JobRecord],
        files: Mapping[str, str],
        user_data: Collection[str],
        datasets: Mapping[str, str] | None = None,
    ) -> None:
        self._jobs = jobs
        self._ids = {job.name: number for number, job in enumerate(jobs, start=1)}
        self._paths, self._dataset_paths = files, datasets or {}
        self._job_names = Names(self._ids, "jobs")
        self._found_ids: dict[str, dict[int, None]] = {}  # by expression
        self._files = Names(files, "files")
        self._user_data = Names(user_data, "user_data")
        self._datasets = Names(self._dataset_paths, "datasets")
        self._keys = _normal(files)
        self._dataset_keys = _normal(self._dataset_paths)

    def flows(self) -> list[Flow]:
        """Of each job. Raises SpecError for an unknown name, two producers, a circle."""
        ends = []
        for job in self._jobs:
            references = tuple(_references(job))
            of_files, of_data = self._ends_of_files(job, references), self._ends_of_user_data(job, references)
            named = references or job.input_datasets or job.output_datasets
            ends.append(_AllEnds(of_files, of_data, self._ends_of_datasets(job, references) if named else None))
        file_makers = self._makers([each.files for each in ends], self._keys, "file")
        data_makers = self._makers([each.data for each in ends], None, "user data")
        set_makers = self._makers_of_datasets([each.sets for each in ends])
        flows = []
        total = 0
        for id_, (job, (of_files, of_data, of_sets)) in enumerate(zip(self._jobs, ends, strict=True), start=1):
            waits = self._explicit(id_, job)
            if of_files is not None:
                _wait_for_makers(waits, (self._keys[name] for name in of_files.inputs), file_makers)
            if of_data is not None:
                _wait_for_makers(waits, of_data.inputs, data_makers)
            if of_sets is not None:
                for name in of_sets.inputs:
                    waits.update(set_makers.get(self._dataset_keys[name], {}))
            total += len(waits)
            if total > MAX_WAITS:
                raise SpecError(
                    f"wait for each other more than {MAX_WAITS} times; let one job wait for a whole stage, "
                    "and the next stage for that job",
                    where="jobs",
                )
            flows.append(self._flow(waits, of_files, of_data, of_sets))
        self._refuse_cycle([flow.depends_on for flow in flows], ends)
        return flows

    def _flow(self, waits: dict[int, None], files: _Ends | None, data: _Ends | None, sets: _Ends | None) -> Flow:
        if not waits and files is None and data is None and sets is None:
            return _NOTHING
        return Flow(
            depends_on=tuple(waits),
            input_files=self._paths_of(files.inputs if files else (), sets.inputs if sets else ()),
            output_files=self._paths_of(files.outputs if files else (), sets.outputs if sets else ()),
            input_user_data=tuple(data.inputs) if data else (),
            output_user_data=tuple(data.outputs) if data else (),
        )

    def _paths_of(self, files: Iterable[str], sets: Iterable[str]) -> tuple[str, ...]:
        paths = {self._keys[name]: self._paths[name] for name in files}
        if sets:
            paths |= {self._dataset_keys[name]: self._dataset_paths[name] for name in sets}
        return tuple(paths.values())

    # -- by names -------------------------------------------------------------------------------------------

    def _explicit(self, id_: int, job: JobRecord) -> dict[int, None]:
        """Ids in the order given, each once."""
        waits: dict[int, None] = {}
        for name in job.depends_on:
            other = self._ids.get(name)
            if other is None:
                refuse_unknown(name, self._ids, f"job {quote(job.name)}: depends_on", "jobs")
            if other == id_:
                raise SpecError(
                    "it depends on itself; remove it from its own list", where=f"job {quote(job.name)}: depends_on"
                )
            waits[other] = None
        for pattern in job.depends_on_regexes:
            where = f"job {quote(job.name)}: depends_on_regexes"
            found = self._job_names.found(pattern, where)
            if found == [job.name]:
                raise SpecError(f"{quote(pattern)} is found in no other job's name; correct or remove it", where=where)
            ids = self._found_ids.get(pattern)
            if ids is None:
                ids = self._found_ids[pattern] = {self._ids[name]: None for name in found}
            waits.update(ids)
        if job.depends_on_regexes:
            waits.pop(id_, None)
        return waits

    # -- by files and user data -----------------------------------------------------------------------------

    def _ends_of_files(self, job: JobRecord, references: Sequence[_Reference]) -> _Ends | None:
        return _ends(
            job,
            references,
            self._files,
            ("input_files", job.input_files, "input_file_regexes", job.input_file_regexes),
            ("output_files", job.output_files, "output_file_regexes", job.output_file_regexes),
            self._keys,
        )

    def _ends_of_user_data(self, job: JobRecord, references: Sequence[_Reference]) -> _Ends | None:
        return _ends(
            job,
            references,
            self._user_data,
            ("input_user_data", job.input_user_data, "input_user_data_regexes", job.input_user_data_regexes),
            ("output_user_data", job.output_user_data, "output_user_data_regexes", job.output_user_data_regexes),
            None,
        )

    def _ends_of_datasets(self, job: JobRecord, references: Sequence[_Reference]) -> _Ends | None:
        return _ends(
            job,
            references,
            self._datasets,
            ("input_datasets", job.input_datasets, "", ()),
            ("output_datasets", job.output_datasets, "", ()),
            self._dataset_keys,
        )

    def _makers_of_datasets(self, ends: Sequence[_Ends | None]) -> dict[str, dict[int, None]]:
        """All jobs that write each, by path."""
        makers: dict[str, dict[int, None]] = {}
        for number, one in enumerate(ends, start=1):
            for name in one.outputs if one else ():
                makers.setdefault(self._dataset_keys[name], {})[number] = None
        return makers

    def _makers(self, ends: Sequence[_Ends | None], keys: Mapping[str, str] | None, kind: str) -> dict[str, int]:
        """The job that writes each file, by path, or each user data, by name."""
        makers: dict[str, tuple[int, str]] = {}
        for number, one in enumerate(ends, start=1):
            for name, field in one.outputs.items() if one else ():
                key = _key(name, keys)
                other, other_name = makers.setdefault(key, (number, name))
                if other == number:
                    continue
                maker = self._jobs[other - 1].name
                path = f" (as {quote(other_name)}, path {quote(key)})" if other_name != name else ""
                raise SpecError(
                    f"{kind} {quote(name)} is an output of job {quote(maker)} too{path}; one job alone may produce it",
                    where=f"job {quote(self._jobs[number - 1].name)}: {field}",
                )
        return {key: number for key, (number, _) in makers.items()}

    # -- circles --------------------------------------------------------------------------------------------

    def _refuse_cycle(self, waits: Sequence[tuple[int, ...]], ends: Sequence[_AllEnds]) -> None:
        members = cycle(dict(enumerate(waits, start=1)))
        if members is None:
            return
        names = [self._jobs[id_ - 1].name for id_ in members]
        if len(names) > _CYCLE_SHOWN:
            half = _CYCLE_SHOWN // 2
            names = [*names[:half], f"... {len(names) - 2 * half} more ...", *names[-half:]]
        through = next(
            (said for one, other in itertools.pairwise(members) if (said := self._through(one, other, ends))),
            "",
        )
        raise SpecError(
            f"jobs wait for each other in a circle: {' -> '.join(names)} (each depends on the next){through}; "
            "remove one of these dependencies",
            where="jobs",
        )

    def _through(self, one: int, other: int, ends: Sequence[_AllEnds]) -> str:
        """By which file, user data or dataset one job waits for another, where it is by one."""
        kinds = (("file", self._keys), ("user data", None), ("dataset", self._dataset_keys))
        for (kind, keys), reader, writer in zip(kinds, ends[one - 1], ends[other - 1], strict=True):
            if reader is None or writer is None:
                continue
            made = _keys(writer.outputs, keys)
            for name, field in reader.inputs.items():
                if _key(name, keys) in made:
                    return (
                        f", {self._jobs[one - 1].name} because its {field} has the {kind} {quote(name)}, "
                        f"an output of {self._jobs[other - 1].name}"
                    )
        return ""


def _normal(paths: Mapping[str, str]) -> dict[str, str]:
    return {name: posixpath.normpath(path) for name, path in paths.items()}


_Side = tuple[str, Sequence[str], str, Sequence[str]]  # the field of names and its value, that of regexes and its


def _ends(
    job: JobRecord,
    references: Sequence[_Reference],
    known: Names,
    reads: _Side,
    writes: _Side,
    keys: Mapping[str, str] | None,
) -> _Ends | None:
    """What a job reads and writes of one kind, by lists, by its texts and by regexes; None for nothing."""
    section = known.section
    references = [found for found in references if found.section == section]
    if not (references or reads[1] or reads[3] or writes[1] or writes[3]):
        return None
    said: dict[str, dict[str, str]] = {}
    for end, (field, names, _, _) in (("input", reads), ("output", writes)):
        said[end] = dict.fromkeys(names, field)
        for found in references:
            if found.role == end:
                said[end].setdefault(found.name, found.field)
        for name, at in said[end].items():
            if name not in known:
                refuse_unknown(name, known.names, f"job {quote(job.name)}: {at}", section)
    inputs, outputs = said["input"], said["output"]
    _add_found(job, known, outputs, writes, _keys(inputs, keys), keys)
    made = _keys(outputs, keys)
    both = next((name for name in inputs if _key(name, keys) in made), None)
    if both is not None:
        raise SpecError(
            f"the {_SINGULAR[section]} {quote(both)} is both input and output of this job; it cannot wait for itself",
            where=f"job {quote(job.name)}: {inputs[both]}",
        )
    _add_found(job, known, inputs, reads, made, keys)
    return _Ends(inputs, outputs)


def _key(name: str, keys: Mapping[str, str] | None) -> str:
    return name if keys is None else keys[name]


def _keys(names: Iterable[str], keys: Mapping[str, str] | None) -> set[str]:
    return {_key(name, keys) for name in names}


def _add_found(
    job: JobRecord,
    known: Names,
    said: dict[str, str],
    side: _Side,
    other: Collection[str],
    keys: Mapping[str, str] | None,
) -> None:
    """Add what the regexes of one end find, less what is at the job's other end."""
    for pattern in side[3]:
        where = f"job {quote(job.name)}: {side[2]}"
        fresh = [name for name in known.found(pattern, where) if _key(name, keys) not in other]
        if not fresh:
            raise SpecError(
                f"{quote(pattern)} is found in nothing but what is at this job's other end; correct or remove it",
                where=where,
            )
        for name in fresh:
            said.setdefault(name, side[2])


def _references(job: JobRecord) -> Iterator[_Reference]:
    """Each `${files.input.NAME}` and the like in its texts. Raises SpecError for what only looks like one."""
    for field, text in (("command", job.command), ("invocation_script", job.invocation_script)):
        if text is None or "${" not in text:
            continue
        for beginning in _BEGINNING.finditer(text):
            found = _WRITTEN.match(text, beginning.start())
            if found is None:
                said = text[beginning.start() :].split("}")[0].split("\n")[0] + "}"
                raise SpecError(
                    f"holds {quote(said)}, a reference that cannot be understood; write ${{files.input.NAME}}, "
                    "${files.output.NAME}, or user_data or datasets in place of files",
                    where=f"job {quote(job.name)}: {field}",
                )
            yield _Reference(field, found[1], found[2], found[3])


def _wait_for_makers(waits: dict[int, None], wanted: Iterable[str], makers: Mapping[str, int]) -> None:
    for key in wanted:
        maker = makers.get(key)
        if maker is not None:
            waits[maker] = None


def with_paths(text: str, section: str, paths: Mapping[str, str]) -> str:
    """A command with the paths in place of its references to files, or to user data."""
    if "${" not in text:
        return text
    return _WRITTEN.sub(lambda match: paths[match[3]] if match[1] == section and match[3] in paths else match[0], text)


def unproduced(jobs: Iterable[Job]) -> dict[str, str]:
    """The paths that jobs read and none writes, in the order of the jobs; of each, the first job that reads it."""
    jobs = list(jobs)
    made = {posixpath.normpath(path) for job in jobs for path in job.output_files}
    wanted: dict[str, str] = {}
    for job in jobs:
        for path in job.input_files:
            if posixpath.normpath(path) not in made:
                wanted.setdefault(path, job.name)
    return wanted
