"""The container image is built of files that a clone has.

`tests/unit/scripts/test_container.py` reads the Dockerfile; `tests/image/test_container.py` builds and runs it.
"""

import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.container import ignored_patterns, stages

pytestmark = pytest.mark.processes


def test_every_source_of_a_copy_is_in_git_and_in_the_build_context() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    known = [Path(line) for line in listed.stdout.splitlines()]
    sources = [source for stage in stages() for sources, _ in stage.copies for source in sources]
    assert sources
    for source in sources:
        assert any(path == Path(source) or Path(source) in path.parents for path in known), source
        assert not any(fnmatchcase(source.rstrip("/"), pattern) for pattern in ignored_patterns()), source
