"""``fleetsight state``: copies, restores and removes what `run.sh --state` keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fleetsight_client.cli import CommandGroup
from localcloud.state.folder import StateFolder, restore
from localcloud.store import StateError
from scripts.run.state import StateFolderError

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(cls=CommandGroup)
def state() -> None:
    """Copy, restore and remove the state of a system on this machine."""


@state.command("snapshot")
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
def snapshot_command(folder: Path, file: Path) -> None:
    """Write the state DIR, which no system may be using, into FILE.

    FILE has images, results, sessions and keys: only its owner can read it.
    """
    # Imported here: it loads the whole configuration, which the other commands do not need.
    from core.format import file_size

    with _errors():
        size = StateFolder.existing(folder).snapshot(file)
    click.echo(f"{file}: the state {folder}, {file_size(size)}")


@state.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE")
@click.argument("folder", type=_FOLDER, metavar="DIR")
def restore_command(file: Path, folder: Path) -> None:
    """Create the state DIR, which must be empty or missing, from the snapshot FILE."""
    with _errors():
        restore(file, folder)
    click.echo(f"{folder}: the state of {file}. Run it with ./scripts/run.sh --state {folder}")


@state.command("reset")
@click.argument("folder", type=_FOLDER, metavar="DIR")
def reset_command(folder: Path) -> None:
    """Remove everything from the state DIR, which no system may be using."""
    with _errors():
        StateFolder.existing(folder).remove()
    click.echo(f"{folder}: is empty")


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except StateError as error:
        raise StateFolderError(str(error)) from error
