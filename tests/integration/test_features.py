"""A feature can be removed: without its folder and its name, the system has no trace of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_feature import copy_without


@pytest.mark.parametrize("feature", ["dead_letters", "models", "notifications", "review", "sharing"])
def test_without_a_feature_the_rest_works_and_names_it_nowhere(feature: str, tmp_path: Path) -> None:
    copy_without(feature, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/web_tier/test_features.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
