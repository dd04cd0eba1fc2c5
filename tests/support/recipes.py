"""The recipes of CONTRIBUTING.md: examples of changes, which can be applied to a copy of the code."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT
from tests.support.documents import code_blocks, code_in

_SECTIONS = re.split(r"(?m)^##+ (.+)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
RECIPES = {
    title: text for title, text in zip(_SECTIONS[1::2], _SECTIONS[2::2], strict=True) if code_blocks(text, "diff")
}
"""Sections with an example, by their title."""


def copy_code(folder: Path) -> None:
    """Copy all files but hidden ones; modules keep what was compiled of them, since their times stay."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*"), symlinks=True, dirs_exist_ok=True)


def changes_of(recipe: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each file of a recipe's example with its hunks."""
    [example] = code_blocks(RECIPES[recipe], "diff")
    parts = re.split(r"(?m)^\+\+\+ (.+)\n", example)
    for path, hunks in zip(parts[1::2], parts[2::2], strict=True):
        yield path, re.split(r"(?m)^@@\n", hunks)


def apply(recipe: str, folder: Path) -> None:
    """Change the copy in `folder` as the recipe's example says; each hunk must match one place."""
    for path, hunks in changes_of(recipe):
        text = (folder / path).read_text(encoding="utf-8")
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] != "+")
            new = "".join(line[1:] for line in lines if line[0] != "-")
            assert not old or text.count(old) == 1, f"{path}, {text.count(old)} times:\n{old}"
            text = text.replace(old, new) if old else text + new
        (folder / path).write_text(text, encoding="utf-8")


def named_tests(recipe: str) -> list[str]:
    """Return the paths of the tests that the recipe names for its check."""
    [command] = (code for code in code_in(RECIPES[recipe]) if code.startswith("./scripts/test.sh "))
    return command.split()[1:]
