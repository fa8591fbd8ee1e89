"""What holds for all tests."""

import os

import pytest
from hypothesis import settings

SLOW = (
    "test_again_cli",
    "test_allocation_deaths",
    "test_any_damage",
    "test_api",
    "test_causes",
    "test_cli_language",
    "test_crowd",
    "test_damage",
    "test_refusals",
    "test_remedies",
    "test_repair",
    "test_retries",
    "test_run_actions",
    "test_schedule_nodes",
    "test_sick_hosts",
    "test_stress",
    "test_tutorial",
    "test_watching",
)
"""Modules of many real processes, or of very many small ones: together they take longer than all others."""


settings.register_profile("same", max_examples=50, derandomize=True, database=None, deadline=None)
settings.register_profile("random", max_examples=200, deadline=None)
settings.load_profile("same")  # what passed once passes again; `--hypothesis-profile random` looks for more


def pytest_configure() -> None:
    """The same modes for everybody: a spool that the caller's umask lets a group write to would be refused."""
    os.umask(0o022)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
