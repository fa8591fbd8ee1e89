"""torc-spool: a filesystem-spooled batch tool. The directory is the state.

    from torc_spool import Job, Resources, Spool, Workflow

Names are imported when they are first used: the command line and every runner come through here, and pay for nothing.
"""

TYPE_CHECKING = False  # as typing's, whose import would cost more than this whole module
if TYPE_CHECKING:
    from torc_spool.api import Spool, SubmittedWorkflow
    from torc_spool.building import Job, Resources, Workflow
    from torc_spool.errors import (
        BadName,
        DamagedFile,
        NotFound,
        RunnerLost,
        SpecError,
        StorageError,
        TorcSpoolError,
        UntrustedSpool,
        UsageError,
    )
    from torc_spool.ownprocess import RunnerProcess, RunResult

__all__ = [
    "BadName",
    "DamagedFile",
    "Job",
    "NotFound",
    "Resources",
    "RunResult",
    "RunnerLost",
    "RunnerProcess",
    "SpecError",
    "Spool",
    "StorageError",
    "SubmittedWorkflow",
    "TorcSpoolError",
    "UntrustedSpool",
    "UsageError",
    "Workflow",
]

_MODULES = {
    "Job": "building",
    "Resources": "building",
    "RunResult": "ownprocess",
    "RunnerProcess": "ownprocess",
    "Spool": "api",
    "SubmittedWorkflow": "api",
    "Workflow": "building",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
