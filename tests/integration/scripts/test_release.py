"""`python -m scripts.release`: a release is whole or not there, and its files are the same each time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


def run(folder: Path, *command: str, umask: int = -1) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, umask=umask, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )


def git(folder: Path, *arguments: str) -> str:
    done = run(folder, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def release(clone: Path, *arguments: str, umask: int = -1) -> "subprocess.CompletedProcess[str]":
    return run(clone, sys.executable, "-m", "scripts.release", *arguments, umask=umask)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone on main with a person who may commit, and one change to release."""
    folder = tmp_path / "clone"
    if run(tmp_path, "git", "clone", "--quiet", "--shared", str(ROOT), str(folder)).returncode:
        pytest.skip("this is no git checkout")
    git(folder, "switch", "--quiet", "--force-create", "main")
    git(folder, "config", "user.name", "Ada")
    git(folder, "config", "user.email", "ada@example.org")
    git(folder, "config", "user.signingkey", "")  # also if this machine's user has a key
    changelog = folder / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    changelog.write_text(text.replace("## Unreleased\n", "## Unreleased\n\n- One change.\n"), encoding="utf-8")
    git(folder, "commit", "--quiet", "--no-verify", "--all", "--message", "One change")
    return folder


def everything(clone: Path) -> tuple[str, ...]:
    """Return what a release could change."""
    seen = (("rev-parse", "HEAD"), ("for-each-ref",), ("status", "--porcelain", "--ignored=no"), ("worktree", "list"))
    return (*(git(clone, *command) for command in seen), str(sorted((clone / "dist").rglob("*"))))


def test_a_release_has_a_tag_with_its_notes_and_files_that_can_be_built_again(clone: Path) -> None:
    before = git(clone, "ls-remote", "origin")
    done = release(clone, "98.7.6")
    assert done.returncode == 0, done.stderr

    files = clone / "dist" / "v98.7.6"
    assert {path.name for path in files.iterdir()} == {
        "SHA256SUMS",
        "fleetsight-98.7.6.cdx.json",
        "fleetsight-98.7.6.tar.gz",
        "fleetsight_client-98.7.6-py3-none-any.whl",
        "fleetsight_localcloud-98.7.6-py3-none-any.whl",
    }
    assert run(files, "sha256sum", "--check", "--strict", "SHA256SUMS").returncode == 0
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "cat-file", "-t", "v98.7.6") == "tag\n"
    changelog = (clone / "CHANGELOG.md").read_text(encoding="utf-8")
    [section] = re.findall(
        r"## Unreleased\n\n## 98\.7\.6 \(\d{4}-\d\d-\d\d, commit [0-9a-f]{8}\)\n(.*?)(?=\n## |\Z)",
        changelog,
        re.DOTALL,
    )
    sizes, _, section = section.strip().partition("\n")
    assert re.fullmatch(r"Lines of code: ami [\d,]+; .*; tests [\d,]+; web_tier [\d,]+\.", sizes)
    printed = run(clone, sys.executable, "-m", "scripts.sizes").stdout
    assert re.search(r"^tests +([\d,]+) +\1$", printed, re.MULTILINE), printed
    message = git(clone, "tag", "--list", "--format=%(contents)", "v98.7.6")
    assert section.strip() in message
    sums = (files / "SHA256SUMS").read_text(encoding="utf-8")
    assert sums in message
    assert git(clone, "ls-remote", "origin") == before

    files.rename(clone / "first")
    git(clone, "branch", "v98.7.6", "HEAD~1")  # a tag is meant, not a branch
    again = release(clone, "--rebuild", "98.7.6", umask=0o077)
    assert again.returncode == 0, again.stderr
    assert (files / "SHA256SUMS").read_text(encoding="utf-8") == sums


@pytest.mark.parametrize(
    ("prepare", "version", "message"),
    [
        ("true", "1.0", "'1.0' is no version: give three numbers"),
        ("true", "\u0661.0.0", "is no version: give three numbers"),
        ("true", "0.0.1", "0.0.1 is below the present version"),
        ("git tag v98.7.6", "98.7.6", "the tag v98.7.6 exists: give a higher version"),
        ("git switch --quiet --create topic", "98.7.6", "the branch is topic: run `git switch main`"),
        ("touch forgotten.py", "98.7.6", "commit or remove these changes first:\n?? forgotten.py"),
        ("mkdir -p dist/v98.7.6", "98.7.6", "dist/v98.7.6 exists: remove it first"),
        (
            "printf '## Unreleased\n' >CHANGELOG.md; git commit -qam empty",
            "98.7.6",
            "CHANGELOG.md has no change below",
        ),
        ("rm localcloud/pyproject.toml; git commit -qam broken", "98.7.6", "uv build"),
        ("git config user.signingkey KEY; git config gpg.program false", "98.7.6", "git tag --sign"),
    ],
)
def test_what_cannot_be_released_is_named_and_nothing_is_left(
    clone: Path, prepare: str, version: str, message: str
) -> None:
    assert run(clone, "sh", "-c", prepare).returncode == 0
    before = everything(clone)
    done = release(clone, version)
    assert done.returncode == 1
    assert message in done.stderr
    assert everything(clone) == before
