"""The tree without a feature: `python -m tests.without_feature NAME...` runs tests and the lint of imports there.

A feature is its folder, its name in `FEATURES` and its tests, which are in folders `features/NAME`.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import ROOT

# Documents describe each feature, and name its tests.
TESTS = ("-m", "pytest", "-q", "tests/unit", "tests/integration/web_tier", "--ignore=tests/unit/test_documents.py")
LINT = ("-c", "from importlinter.cli import lint_imports_command as lint; lint()")


def copy_without(features: Collection[str], folder: Path) -> None:
    """Copy the files of this tree to `folder`, without those of some features."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in listed.splitlines():
        source, copy = ROOT / name, folder / name
        if not any(f"/features/{feature}/" in name for feature in features) and source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    names = folder / "web_tier" / "features" / "__init__.py"
    names.write_text(re.sub(rf'\n    "({"|".join(features)})",', "", names.read_text()))


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        copy_without(sys.argv[1:], Path(place))
        for command in (LINT, TESTS):
            subprocess.check_call([sys.executable, *command], cwd=place)
