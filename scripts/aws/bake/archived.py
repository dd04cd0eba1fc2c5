"""The source archive for a bake, made of this checkout and a model bundle."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ami.archive import write_archive
from core.config import EngineName
from scripts.aws.bake.recipe import Source

ROOT = Path(__file__).parents[3]


@contextmanager
def archived(bundle: Path, engine: EngineName, root: Path = ROOT) -> Iterator[Source]:
    """Make the archive of the checkout at `root` and that bundle, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="fleetsight-bake-") as work:
        path = Path(work) / "source.tar.gz"
        yield Source(path, write_archive(path, bundle, root, engine))
