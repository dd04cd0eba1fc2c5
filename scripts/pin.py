"""`python -m scripts.pin`: writes the hashes of all packages in requirements.txt, for every machine that we run on.

requirements.txt has sections of pins, each with the SHA-256 of every file that may be installed. A new package or
version is written by hand as `name==version`, in each section that needs it; this command adds the hashes. They come
from the index that pip is configured with, and from files in the folders where pip looks for files (`find-links`),
such as a build of torch without CUDA.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import urllib3
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
_SECTION = re.compile(r"# \[(\w+)\]")
_PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?P<marker> ; [^\\]*[^\\ ])?(?: \\)?")
_HASH = re.compile(r" +--hash=sha256:([0-9a-f]{64})(?: \\)?")

PYTHONS = range(11, 15)
"""Minor versions of CPython 3."""

_PLATFORM = re.compile(r"any|(?:many)?linux\w*_(?:x86_64|aarch64)|macosx_\w+_(?:arm64|universal2)")
MAX_REQUESTS = 4
TIMEOUT_SECONDS = 60.0


class RequirementsError(ValueError):
    """Raised when requirements.txt has an invalid line."""


@dataclass(frozen=True)
class Pin:
    """One exact version of a package.

    Attributes:
        name: normalized by PEP 503.
        marker: condition of its installation, such as `sys_platform == "linux"`; empty for none.
        hashes: hexadecimal SHA-256 of the files that pip may install.
    """

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the pin in pip's format, with each hash on a line of its own."""
        first = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n    ".join([first, *(f"--hash=sha256:{digest}" for digest in self.hashes)])


def sections(text: str) -> dict[str, tuple[Pin, ...]]:
    """Return the pins of each section.

    Raises:
        RequirementsError: a line is not a pin, hash, comment or section.
    """
    found: dict[str, list[tuple[re.Match[str], list[str]]]] = {}
    pins: list[tuple[re.Match[str], list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if section := _SECTION.fullmatch(line):
            pins = found.setdefault(section[1], [])
        elif pin := _PIN.fullmatch(line):
            pins.append((pin, []))
        elif (digest := _HASH.fullmatch(line)) and pins:
            pins[-1][1].append(digest[1])
        elif line and not line.startswith("#"):
            raise RequirementsError(f"requirements.txt, line {number}: {line!r} is neither NAME==VERSION nor a hash")
    return {name: tuple(_pin(match, digests) for match, digests in each) for name, each in found.items()}


def _pin(match: re.Match[str], digests: Iterable[str]) -> Pin:
    return Pin(match["name"], match["version"], (match["marker"] or "").removeprefix(" ; "), tuple(digests))


def read_sections() -> dict[str, tuple[Pin, ...]]:
    """Return the pins of each section of the project's requirements.txt."""
    return sections(REQUIREMENTS.read_text(encoding="utf-8"))


def all_pins() -> dict[str, Pin]:
    """Return all pins by their names."""
    return {pin.name: pin for pins in read_sections().values() for pin in pins}


def with_hashes(text: str, hashes: Mapping[str, tuple[str, ...]]) -> str:
    """Return the text of a requirements.txt with its hashes replaced by these, given by name."""
    lines = []
    for line in text.splitlines():
        if pin := _PIN.fullmatch(line):
            lines.append(str(_pin(pin, hashes[pin["name"]])))
        elif not _HASH.fullmatch(line):
            lines.append(line)
    return "\n".join(lines) + "\n"


class _Links(HTMLParser):
    """Collects names and SHA-256 of the files on a page of a simple index (PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect a link."""
        link = urlsplit(dict(attrs).get("href") or "") if tag == "a" else None
        if link and link.fragment.startswith("sha256="):
            self.files.append((unquote(link.path.rpartition("/")[2]), link.fragment.removeprefix("sha256=")))


def main() -> None:
    """Write the hashes, or exit with the packages that have none."""
    index, folders = pip_index(), pip_folders()
    proxy = getproxies().get(urlsplit(index).scheme)
    http = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
    pins = all_pins()
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        found = dict(
            zip(pins, pool.map(lambda pin: find_hashes(pin, index, folders, http), pins.values()), strict=True)
        )
    if missing := [f"{name}=={pins[name].version}" for name, hashes in found.items() if not hashes]:
        sys.exit(f"the index has no file for {', '.join(missing)}")
    REQUIREMENTS.write_text(with_hashes(REQUIREMENTS.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"{len(found)} packages, {sum(map(len, found.values()))} files")


def find_hashes(pin: Pin, index: str, folders: list[Path], http: urllib3.PoolManager) -> tuple[str, ...]:
    """Return the sorted SHA-256 of all files of a pin for our machines."""
    address = urllib3.util.parse_url(f"{index.rstrip('/')}/{pin.name}/")
    headers = urllib3.make_headers(basic_auth=address.auth) if address.auth else None
    url = address._replace(auth=None).url
    answer = http.request("GET", url, headers=headers, timeout=TIMEOUT_SECONDS)
    if answer.status != 200:
        sys.exit(f"{url} answered {answer.status}: check pip's index-url")
    links = _Links()
    links.feed(answer.data.decode())
    listed = {digest for file, digest in links.files if is_wanted(file, pin)}
    local = {
        sha256(file.read_bytes()).hexdigest()
        for folder in folders
        for file in folder.iterdir()
        if is_wanted(file.name, pin)
    }
    return tuple(sorted(listed | local))


def is_wanted(file: str, pin: Pin) -> bool:
    """Return whether a file has the pinned version, or a local build of it, and is for our machines."""
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
    """Return the configured index of pip, or its default."""
    default = re.search(r"--index-url.*?\(default\s+(\S+?)\)", _pip("install", "--help"), re.DOTALL)
    configured = list(_configured("index-url"))
    if not configured and default is None:
        sys.exit("pip says no index: configure one (pip config set global.index-url URL)")
    return configured[-1] if configured or default is None else default[1]


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


if __name__ == "__main__":
    main()
