"""Packs what an image is made of: the source archive that `ami/provision.sh` works from, unpacked.

The same files give the same bytes on each machine and at each time: entries are sorted, and have neither owners nor
times.
"""

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from core.bundle_facts import MANIFEST_NAME, read_manifest
from core.bundle_manifest import parse_manifest
from core.config import DEMO_BUNDLE, EngineName
from services.errors import FleetsightError

FOLDERS = ("services", "core", "app_tier", "web_tier", "ami")
FILES = ("config.yaml", *(f"requirements/{section}.txt" for section in ("worker", "web", "gpu", "cuda", "telemetry")))
NOT_PACKED = frozenset({PurePosixPath("app_tier/demo")})
"""What draws and trains: no image needs it. Its bundle is the archive's `bundle`."""


class ArchiveError(FleetsightError):
    """Raised when there is nothing to pack: no bundle in the given folder, or the project is not whole."""


@dataclass(frozen=True)
class ArchiveFacts:
    """What an archive holds.

    Attributes:
        version: of the project, from pyproject.toml.
        commit: of the source, with `-dirty` where packed files differ from it; `unknown` without git.
        bundle_digest: of the model bundle, as results name it.
        engine: `worker.engine` that the workers' image is for; torch's has NVIDIA's driver and torch, too.
        sha256: of the archive itself, in hexadecimal digits.
    """

    version: str
    commit: str
    bundle_digest: str
    engine: EngineName
    sha256: str


def write_archive(path: Path, bundle: Path, root: Path, engine: EngineName = "openvino") -> ArchiveFacts:
    """Write the archive of the project in `root` with the bundle in the folder `bundle` to `path`, a tar.gz.

    Args:
        path: of the archive.
        bundle: folder of the model bundle.
        root: folder of the project.
        engine: as `ArchiveFacts`.

    Raises:
        ArchiveError: the bundle or a part of the project is missing.
        BundleError: the bundle does not say what it is.
    """
    digest = bundle_digest(bundle)
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    commit = source_commit(root)
    about = json.dumps({"version": version, "commit": commit, "bundle": digest, "engine": engine}) + "\n"
    with (
        path.open("wb") as written,
        gzip.GzipFile(filename="", fileobj=written, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        _add(archive, "version.json", about.encode(), executable=False)
        for name, source in contents(bundle, root):
            _add(archive, str(name), source.read_bytes(), executable=bool(source.stat().st_mode & 0o100))
    with path.open("rb") as file:
        return ArchiveFacts(version, commit, digest, engine, hashlib.file_digest(file, "sha256").hexdigest())


def bundle_digest(bundle: Path) -> str:
    """Return the digest that results name the bundle in the folder `bundle` by.

    Raises:
        ArchiveError: there is no such folder.
        BundleError: what is there is no bundle.
    """
    if not (bundle / MANIFEST_NAME).is_file():
        raise ArchiveError(
            f"{bundle} has no {MANIFEST_NAME}: name the folder of a bundle, as `fleetsight model build` makes"
        )
    return parse_manifest(str(bundle), read_manifest(bundle)).digest


def contents(bundle: Path, root: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield each file of an archive but `version.json`: its name there, in order, and where it is.

    Raises:
        ArchiveError: a part of the project is missing.
    """
    found: list[tuple[PurePosixPath, Path]] = []
    for name in FILES:
        if not (root / name).is_file():
            raise ArchiveError(f"{root} has no {name}: it is not the project's folder")
        found.append((PurePosixPath(name), root / name))
    for folder in FOLDERS:
        if not (root / folder).is_dir():
            raise ArchiveError(f"{root} has no folder {folder}: it is not the project's folder")
        found += _files(root / folder, PurePosixPath(folder))
    found += _files(bundle, PurePosixPath("bundle"))
    yield from sorted(found)


def _files(folder: Path, name: PurePosixPath) -> Iterator[tuple[PurePosixPath, Path]]:
    for path in sorted(folder.rglob("*")):
        inside = name / PurePosixPath(path.relative_to(folder).as_posix())
        if path.is_file() and "__pycache__" not in inside.parts and NOT_PACKED.isdisjoint(inside.parents):
            yield inside, path


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, executable: bool) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o755 if executable else 0o644
    archive.addfile(entry, io.BytesIO(content))


def source_commit(root: Path) -> str:
    """Return the commit that `root` is at, with `-dirty` where what is packed differs; `unknown` without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--", *FOLDERS, *FILES)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    # Without the lock, which a commit at the same time may need.
    command = ("git", "--no-optional-locks", "-C", str(root), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def main(arguments: Sequence[str]) -> None:
    """Write an archive of this project: `python -m ami.archive FILE [BUNDLE]`, with the demo's bundle by default."""
    root = Path(__file__).resolve().parents[1]
    path, bundle = (*map(Path, arguments), root / DEMO_BUNDLE)[:2]
    print(json.dumps(asdict(write_archive(path, bundle, root)), indent=2))  # noqa: T201 (what the command is for)


if __name__ == "__main__":
    main(sys.argv[1:])
