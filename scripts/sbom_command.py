"""``fleetsight sbom``: the bill of materials of what is installed."""

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--section", default="run", show_default=True, help="Of requirements.txt; of a machine: worker, web.")
def sbom(file: Path, section: str) -> None:
    """Write a software bill of materials (CycloneDX) into FILE."""
    # Here, since other commands need not have its packages.
    from scripts.sbom import bill_of

    file.write_text(bill_of(section), encoding="utf-8")
    click.echo(f"{file}: what [{section}] of requirements.txt installs")
