"""Lines of code of each folder, beside those that the changelog states of the last release."""

import subprocess
from pathlib import Path

import pytest

from scripts import sizes

CODE = '''"""A module."""

import os
from sys import (
    path,
)

# A comment.
LIMIT = 3
"""Most of something."""


def first() -> int:
    """Return the limit."""
    return LIMIT  # with a comment
'''


def test_code_counts_without_blank_lines_comments_docstrings_and_imports(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(CODE)
    (tmp_path / "page.html").write_text("<p>\n\n</p>\n")
    assert sizes.lines_of_code(tmp_path / "module.py") == 3
    assert sizes.lines_of_code(tmp_path / "page.html") == 2


def test_a_table_has_each_folder_now_and_at_the_last_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("core/a.py", "web/tests/b.py", "web/page.js", "web/notes.txt", "top.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    found = sizes.sizes(tmp_path)
    assert found == {"core": 1, "pages": 1, "tests": 1}
    assert sizes.stated_sizes(f"## 1.0.0\n\n{sizes.sentence({'core': 1_234})}\n") == {"core": 1_234}
    assert sizes.stated_sizes("none") == {}
    (tmp_path / "CHANGELOG.md").write_text(f"{sizes.sentence({'core': 1_234})}\n")
    monkeypatch.setattr(sizes, "ROOT", tmp_path)
    sizes.main()
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1] == ["core", "1", "1,234"]
