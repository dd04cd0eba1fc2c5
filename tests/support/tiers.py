"""Which modules of tests only `./scripts/test.sh --all` runs."""

import re
from pathlib import Path

_THOROUGH = re.compile(r"^pytestmark = .*pytest\.mark\.thorough", re.MULTILINE)


def is_thorough(module: Path) -> bool:
    """Whether all tests of a module have the marker `thorough`, which is read without an import."""
    return bool(_THOROUGH.search(module.read_text(encoding="utf-8")))
