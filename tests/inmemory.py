"""Spools in memory, for tests that make very many of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import spooltools as tools


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with tools.without_syncs_and_searches():
        yield


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tools.directory_in_memory(tmp_path_factory.mktemp("memory")) as path:
        yield path
