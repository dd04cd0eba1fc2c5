"""The recipes of CONTRIBUTING.md are true: their examples work in a copy of the code, and no other file changes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recipes import RECIPES, apply, changes_of, copy_code, named_tests

pytestmark = pytest.mark.processes

MAX_FILES = {
    "A scaling policy": 5,
    "An image format": 5,
    "A field of a result": 6,
    "A format of results": 4,
    "An operator's action": 4,
}
"""Files that a change touches at most, with CHANGELOG.md."""

OF_FORMATS = (
    "tests/unit/core/test_images.py::test_each_allowed_format_is_known_by_its_content",
    "tests/unit/core/test_images.py::test_every_format_has_a_sample_for_the_tests_of_all_decoders",
    "tests/unit/test_client.py",
)
"""Tests of every format and column; the other examples have a test of their own."""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the example of each recipe."""
    folder = tmp_path_factory.mktemp("recipes")
    copy_code(folder)
    for recipe in RECIPES:
        apply(recipe, folder)
    return folder


def run(folder: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_change_by_a_recipe_touches_few_files() -> None:
    assert {recipe: 1 + len([*changes_of(recipe)]) for recipe in RECIPES} == MAX_FILES


def test_the_example_of_each_recipe_is_well_formed_and_works(changed: Path) -> None:
    files = {path: "\n".join(hunks) for recipe in RECIPES for path, hunks in changes_of(recipe)}
    modules = [path for path in files if path.endswith(".py")]
    run(changed, "ruff", "check", "--no-cache", *modules)
    run(changed, "ruff", "format", "--no-cache", "--check", *modules)
    own = [f"{path}::{name}" for path in modules for name in re.findall(r"(?m)^\+def (test_\w+)", files[path])]
    assert len(own) == len(RECIPES) - 1
    run(changed, "pytest", "-q", "-p", "no:cacheprovider", *own, *OF_FORMATS)


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_tests_that_a_recipe_names_pass_with_its_example(recipe: str, changed: Path) -> None:
    run(changed, "pytest", "-q", "-p", "no:cacheprovider", *named_tests(recipe))
