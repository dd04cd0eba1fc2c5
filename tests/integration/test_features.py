"""Features can be removed: without their folders and their names, the system has no trace of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_feature import copy_without

FEATURES = ("dead_letters", "models", "notifications", "review", "sharing")


@pytest.mark.parametrize(
    "features", [FEATURES, *(pytest.param((each,), marks=pytest.mark.thorough) for each in FEATURES)], ids="-".join
)
def test_without_features_the_rest_works_and_names_them_nowhere(features: tuple[str, ...], tmp_path: Path) -> None:
    copy_without(features, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/web_tier/test_features.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
