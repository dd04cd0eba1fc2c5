"""The command as one file, for machines with Python but without pip: `python -m fleetsight_client.single_file`."""

import re
import shutil
import sys
import tempfile
import zipapp
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import click

REQUIRED: Final = ("click", "rich", "urllib3")
"""Distributions that the command needs, as in `pyproject.toml`; a test compares them."""

_NAME: Final = re.compile(r"[\w.-]+")
_COMPILED: Final = frozenset({".so", ".pyd", ".dylib", ".dll"})


def distributions(names: tuple[str, ...] = REQUIRED) -> Iterator[str]:
    """Yield the names of distributions and of what they need on every system, each once."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        for needed in distribution(name).requires or ():
            what, _, condition = needed.partition(";")
            if not condition and (found := _NAME.match(what)):  # others are extras, or for older versions of Python
                waiting.append(found[0])


def write_single_file(out: Path) -> None:
    """Write the command, its packages and their licences into one file that Python runs on every system.

    Raises:
        ClickException: a package is not installed, or has compiled code.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        own = Path(__file__).parent
        shutil.copytree(own, target / own.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            for name in distributions():
                _copy(name, target)
        except PackageNotFoundError as error:
            raise click.ClickException(f"{error.name} is not installed: pip install {error.name}") from error
        zipapp.create_archive(target, out, "/usr/bin/env python3", main="fleetsight_client.cli:main", compressed=True)


def _copy(name: str, target: Path) -> None:
    for file in distribution(name).files or ():
        if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts:
            continue  # a script, or what Python has compiled
        if file.suffix in _COMPILED:
            raise click.ClickException(f"{name} has compiled code ({file.name}): install one that is pure Python")
        place = target / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), place)


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), default="fleetsight.pyz")
def main(out: Path) -> None:
    """Write the command `fleetsight` as one file, OUT."""
    write_single_file(out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Run it with: {Path(sys.executable).name} {out} --help")


if __name__ == "__main__":
    main()
