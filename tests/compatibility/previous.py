"""The code of the previous release, in `previous.zip`: it reads what the present code writes, and the reverse.

The zip has the modules that `tests/compatibility/samples.py` imports, as they were in that release. It is made by
`python -m tests.compatibility COMMIT`, the same for the same commit, and never edited.
"""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.compatibility.samples import Written
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

ZIP: Final = Path(__file__).parent / "previous.zip"

SAMPLES: Final = "tests/compatibility/samples.py"
MANIFEST: Final = "app_tier/demo/bundle/bundle.json"
_FOLDERS: Final = ("services", "core", "localcloud", "app_tier", "web_tier", "tests/support")
_NAMESPACES: Final = tuple(
    f"{folder}/__init__.py"
    for folder in ("tests", "tests/compatibility", "localcloud/tests", "localcloud/tests/support")
)
"""Empty modules: a zip has no namespace packages."""

_IN_ZIP: Final = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from tests.compatibility.samples import main
main()
"""

_LIST_MODULES: Final = """
import sys
from pathlib import Path
root = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(root))
from tests.compatibility.samples import read, write
read(write())
files = [Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
print("\\n".join(str(file.relative_to(root)) for file in files if file.is_relative_to(root)))
"""


def written_by_previous() -> Written:
    """Return what the previous release writes."""
    with zipfile.ZipFile(ZIP) as archive:
        manifest = archive.read(MANIFEST).decode()
    return {**json.loads(_run("write")), "manifest": manifest}


def seen_by_previous(written: Written) -> dict[str, Any]:
    """Return what the readers of the previous release see."""
    seen: dict[str, Any] = json.loads(_run("read", json.dumps(written)))
    return seen


def _run(action: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", _IN_ZIP, str(ZIP), action],
        input=given, capture_output=True, text=True, timeout=DEADLINE_SECONDS, cwd=ZIP.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the previous release cannot {action}:\n{done.stderr}"
    return done.stdout


def build(commit: str, path: Path = ZIP) -> str:
    """Write the zip of a commit; return the commit's id."""
    full = _git("rev-parse", f"{commit}^{{commit}}").decode().strip()
    with TemporaryDirectory(prefix="fleetsight-previous-") as folder:
        root = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(_git("archive", full, *_FOLDERS))) as archive:
            archive.extractall(root, filter="data")
        (root / SAMPLES).parent.mkdir()
        (root / SAMPLES).write_bytes(_samples_of(full))
        listed = subprocess.run(
            [sys.executable, "-c", _LIST_MODULES, folder],
            capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS, cwd=folder,
        )  # fmt: skip
        contents = {name: (root / name).read_bytes() for name in [*listed.stdout.splitlines(), MANIFEST]}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.comment = full.encode()
        for name, content in sorted({**contents, **dict.fromkeys(_NAMESPACES, b"")}.items()):
            zipped.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # with a constant date
    return full


def _samples_of(commit: str) -> bytes:
    """Return the samples of a commit, or the present ones if it is of before there were any."""
    try:
        return _git("show", f"{commit}:{SAMPLES}")
    except subprocess.CalledProcessError:
        return (ROOT / SAMPLES).read_bytes()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
