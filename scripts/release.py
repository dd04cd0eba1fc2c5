"""``python -m scripts.release VERSION``: make a release of the branch main, without pushing it.

It moves the changes below "Unreleased" in CHANGELOG.md to a dated section with their commit and the lines of code of
each folder, sets the version, commits, and makes an annotated tag with the changes and the checksums; git signs it if
`user.signingkey` is set. `dist/vVERSION/` gets the source, the wheels of `client` and `localcloud`, the bill of
materials and SHA256SUMS. If a step fails, nothing of this is left. The same commit gives the same files:
``--rebuild`` makes them again, to check them.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import TemporaryDirectory
from typing import Final

import click

from fleetsight_client.terminal import clean_terminal_output
from scripts.sizes import sentence, sizes

ROOT: Final = Path(__file__).resolve().parents[1]
VERSION_FILES: Final = ("pyproject.toml", "client/fleetsight_client/__init__.py", "localcloud/__init__.py")
VERSION_LINE: Final = re.compile(r'^((?:__)?version(?:__)? = )"([\d.]+)"$', re.MULTILINE)
UNRELEASED: Final = "## Unreleased\n"


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """Run a command, with the same permissions of its files for every user; return what it prints."""
    words = [*map(str, command)]
    done = subprocess.run(
        words, cwd=folder, env=os.environ | environment, umask=0o022, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"{shlex.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def require_releasable(version: str) -> None:
    """Raise ClickException if this version of this checkout cannot be released."""
    _, present = VERSION_LINE.findall((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[0]
    if [*map(int, version.split("."))] < [*map(int, present.split("."))]:
        raise click.ClickException(f"{version} is below the present version {present}: give a higher one")
    if run("git", "tag", "--list", f"v{version}"):
        raise click.ClickException(f"the tag v{version} exists: give a higher version than {version}")
    if (branch := run("git", "branch", "--show-current")) != "main":
        raise click.ClickException(f"the branch is {branch or 'none'}: run `git switch main`")
    if changes := run("git", "status", "--porcelain"):
        raise click.ClickException(f"commit or remove these changes first:\n{changes}")


@contextmanager
def checkout_of(revision: str) -> Iterator[Path]:
    """Return a checkout that has only what is committed; it is removed afterwards."""
    with TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        run("git", "worktree", "add", "--quiet", "--detach", checkout, revision)
        try:
            yield checkout
        finally:
            run("git", "worktree", "remove", "--force", checkout)


def commit_version(checkout: Path, version: str) -> str:
    """Commit the version and its section of the changelog; return the section's text."""
    changelog = checkout / "CHANGELOG.md"
    before, _, after = changelog.read_text(encoding="utf-8").partition(UNRELEASED)
    notes = re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not re.search(r"^- ", notes, re.MULTILINE):
        raise click.ClickException(f"CHANGELOG.md has no change below {UNRELEASED.strip()!r}: add a line for each")
    commit = run("git", "rev-parse", "--short=8", "HEAD", folder=checkout)
    section = f"## {version} ({datetime.now(UTC):%Y-%m-%d}, commit {commit})\n\n{sentence(sizes(checkout))}\n"
    changelog.write_text(f"{before}{UNRELEASED}\n{section}{after}", encoding="utf-8")
    for name in VERSION_FILES:
        text = (checkout / name).read_text(encoding="utf-8")
        (checkout / name).write_text(VERSION_LINE.sub(rf'\1"{version}"', text, count=1), encoding="utf-8")
    # The hooks check code, which stays as it is, with programs that this checkout does not have.
    run("git", "commit", "--quiet", "--no-verify", "--all", "--message", f"Version {version}", folder=checkout)
    return notes


def build(checkout: Path, version: str) -> Path:
    """Build the files of a checkout's commit, the same ones each time; return their folder."""
    folder = checkout.with_name("dist")
    folder.mkdir()
    name = f"fleetsight-{version}"
    environment = {"SOURCE_DATE_EPOCH": run("git", "log", "-1", "--format=%ct", folder=checkout)}
    run("git", "archive", f"--prefix={name}/", "--output", folder / f"{name}.tar.gz", "HEAD", folder=checkout)
    python = Path(sys.executable)
    wheel = (python.with_name("uv"), "build", "--offline", "--no-build-isolation", "--python", python, "--wheel")
    for package in ("client", "localcloud"):
        run(*wheel, "--no-create-gitignore", "--out-dir", folder, package, folder=checkout, **environment)
    # The tests validate this bill, which takes ten times as long as to write it.
    bill = (python, "-m", "cyclonedx_py", "requirements", "requirements/run.txt", "--pyproject", "pyproject.toml")
    options = ("--no-validate", "--output-reproducible", "--output-file", folder / f"{name}.cdx.json")
    run(*bill, *options, folder=checkout, **environment)
    sums = [f"{sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    return folder


def tag_and_merge(checkout: Path, version: str, notes: str) -> None:
    """Build, tag the checkout's commit and bring it to the branch; after a failure nothing of that is left."""
    tag, target = f"v{version}", ROOT / "dist" / f"v{version}"
    kind = "--sign" if run("git", "config", "--default", "", "--get", "user.signingkey") else "--annotate"
    built, message = build(checkout, version), checkout.with_name("message")
    sums = (built / "SHA256SUMS").read_text(encoding="utf-8")
    message.write_text(f"Fleetsight {version}\n\n{notes}\n\nSHA256SUMS:\n\n{sums}", encoding="utf-8")
    try:
        copytree(built, target)
        run("git", "tag", kind, "--cleanup=verbatim", "--file", message, tag, folder=checkout)
        run("git", "merge", "--quiet", "--ff-only", tag)
    except BaseException:
        subprocess.run(["git", "tag", "--delete", tag], cwd=ROOT, capture_output=True, check=False)
        rmtree(target, ignore_errors=True)
        raise


@click.command()
@click.argument("version")
@click.option("--rebuild", is_flag=True, help="Only build the files of a version again that is tagged already.")
def release(version: str, *, rebuild: bool) -> None:
    """Make the release VERSION of the branch main: a commit, a tag and the files in dist/. Nothing is pushed."""
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version):
        raise click.ClickException(f"{version!r} is no version: give three numbers, such as 0.2.0")
    target = ROOT / "dist" / f"v{version}"
    if target.exists():
        raise click.ClickException(f"{target} exists: remove it first")
    if rebuild:
        with checkout_of(f"refs/tags/v{version}") as checkout:
            copytree(build(checkout, version), target)
        print(f"Built {target}. Compare its SHA256SUMS with those in the tag: git show v{version}")
        return
    require_releasable(version)
    with checkout_of("HEAD") as checkout:
        tag_and_merge(checkout, version, commit_version(checkout, version))
    print(f"Released {version}: its files are in {target}. Nothing is pushed yet: git push origin main v{version}")


if __name__ == "__main__":
    clean_terminal_output()
    release()
