"""What makes pytest run the suite as trial does: in a temporary folder, so that `mktemp` litters nothing.

And what makes it faster: what was imported and collected, hundreds of thousands of objects, is no business of the
garbage collector afterwards. Objects that tests make are collected as ever.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("suite"))
    yield
    os.chdir(before)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
