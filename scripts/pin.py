"""`python -m scripts.pin`: writes the hashes of all that requirements.txt pins, for every machine that we run on.

A new package or version is written by hand as `name==version`, in each section that needs it; this fills in the rest.
The hashes are those that the index says which pip is configured with, and those of files in the folders where pip
looks for files (`find-links`), such as a build of torch without CUDA.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from scripts.requirements_file import REQUIREMENTS, Pin, all_pins, with_hashes

PYTHONS = range(11, 15)
"""Minor versions of CPython 3."""

_PLATFORM = re.compile(r"any|(?:many)?linux\w*_(?:x86_64|aarch64)|macosx_\w+_(?:arm64|universal2)")
ASKED_AT_ONCE = 4
SECONDS = 60.0


class _Links(HTMLParser):
    """Collects name and SHA-256 of the files that a page of a simple index (PEP 503) leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a link."""
        link = urlsplit(dict(attrs).get("href") or "") if tag == "a" else None
        if link and link.fragment.startswith("sha256="):
            self.files.append((unquote(link.path.rpartition("/")[2]), link.fragment.removeprefix("sha256=")))


def main() -> None:
    """Write the hashes; print what has none."""
    index, folders = pip_index(), pip_folders()
    pins = all_pins()
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        found = dict(zip(pins, pool.map(lambda pin: hashes_of(pin, index, folders), pins.values()), strict=True))
    if missing := [f"{name}=={pins[name].version}" for name, hashes in found.items() if not hashes]:
        sys.exit(f"the index has no file for {', '.join(missing)}")
    REQUIREMENTS.write_text(with_hashes(REQUIREMENTS.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"{len(found)} packages, {sum(map(len, found.values()))} files")


def hashes_of(pin: Pin, index: str, folders: list[Path]) -> tuple[str, ...]:
    """Return the SHA-256 of every file of a pin that one of our machines may install, in order."""
    answer = requests.get(f"{index.rstrip('/')}/{pin.name}/", timeout=SECONDS)
    answer.raise_for_status()
    links = _Links()
    links.feed(answer.text)
    listed = {digest for file, digest in links.files if is_wanted(file, pin)}
    here = {_sha256(file) for folder in folders for file in folder.iterdir() if is_wanted(file.name, pin)}
    return tuple(sorted(listed | here))


def is_wanted(file: str, pin: Pin) -> bool:
    """Return whether a file is of the pinned version, or a local build of it, and for a machine that we run on."""
    try:
        if file.endswith(".whl"):
            name, version, _, tags = parse_wheel_filename(file)
            if not any(_runs(tag.interpreter, tag.abi, tag.platform) for tag in tags):
                return False
        else:
            name, version = parse_sdist_filename(file)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return False
    return name == pin.name and Version(version.public) == Version(pin.version)


def _runs(interpreter: str, abi: str, platform: str) -> bool:
    if not _PLATFORM.fullmatch(platform):
        return False
    if interpreter == "py3":
        return True
    minor = re.fullmatch(r"(?:cp|py)3(\d+)", interpreter)
    if minor is None or int(minor[1]) not in range(PYTHONS.stop):
        return False
    return abi == "abi3" or (abi in {interpreter, "none"} and int(minor[1]) in PYTHONS)


def pip_index() -> str:
    """Return the index that pip is configured with, or its own."""
    own = re.search(r"--index-url.*?\(default\s+(\S+?)\)", _pip("install", "--help"), re.DOTALL)
    configured = list(_configured("index-url"))
    if not configured and own is None:
        sys.exit("pip says no index: configure one (pip config set global.index-url URL)")
    return configured[-1] if configured or own is None else own[1]


def pip_folders() -> list[Path]:
    """Return the folders in which pip looks for files."""
    return [Path(each) for each in dict.fromkeys(_configured("find-links")) if Path(each).is_dir()]


def _configured(option: str) -> Iterator[str]:
    for line in _pip("config", "list").splitlines():
        key, _, value = line.partition("=")
        if key.rpartition(".")[2] == option:
            yield from value.strip("'\"").split()


def _pip(*arguments: str) -> str:
    return subprocess.run(
        (sys.executable, "-m", "pip", *arguments), capture_output=True, text=True, check=True
    ).stdout


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    main()
