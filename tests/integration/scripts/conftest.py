"""A reader who follows the documents in a checkout of links to this one."""

from pathlib import Path

import pytest

from scripts.run.system import free_port
from tests.support.reader import Reader, make_checkout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def reader(checkout: Path, tmp_path: Path) -> Reader:
    return Reader(checkout, tmp_path, free_port())
