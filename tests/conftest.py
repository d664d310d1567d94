"""What makes pytest run the suite as trial does: in a temporary folder, so that `mktemp` litters nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("suite"))
    yield
    os.chdir(before)
