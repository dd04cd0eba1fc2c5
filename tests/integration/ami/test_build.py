"""What an image is made of: an archive of the source, the packages and the bundle."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from ami.archive import ArchiveError, main, write_archive
from app_tier.bundle import DEMO_BUNDLE, read_manifest
from core.bundle_manifest import BundleError
from tests.conftest import ROOT

DIGEST = read_manifest(DEMO_BUNDLE).digest
REQUIREMENTS = [f"requirements/{section}.txt" for section in ("cuda", "gpu", "telemetry", "web", "worker")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a file in each part that is packed."""
    root = tmp_path / "project"
    for name in ("services", "core", "app_tier", "web_tier", "ami"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text(f'"""{name}"""\n')
    shutil.copy(ROOT / "config.yaml", root)
    (root / "requirements").mkdir()
    for name in REQUIREMENTS:
        (root / name).write_text("a==1\n")
    for name in ("run", "test"):
        (root / "requirements" / f"{name}.txt").write_text("b==1\n")
    (root / "pyproject.toml").write_text('[project]\nname = "fleetsight"\nversion = "1.2.3"\n')
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle, as far as an archive reads it."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(DEMO_BUNDLE / "bundle.json", folder)
    (folder / "model.xml").write_text("<net/>")
    return folder


def names(archive: Path) -> list[str]:
    """Return what is in an archive, in order."""
    with tarfile.open(archive) as opened:
        return opened.getnames()


def test_an_archive_holds_the_four_folders_the_settings_the_bundle_and_what_it_is(
    project: Path, bundle: Path, tmp_path: Path
) -> None:
    facts = write_archive(tmp_path / "a.tar.gz", bundle, project)
    assert sorted(names(tmp_path / "a.tar.gz")) == sorted(
        [
            *(f"{name}/__init__.py" for name in ("services", "core", "app_tier", "web_tier", "ami")),
            *("config.yaml", *REQUIREMENTS, "version.json", "bundle/bundle.json", "bundle/model.xml"),
        ]
    )
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        member = archive.extractfile("version.json")
        assert member is not None
        about = json.loads(member.read())
    assert about == {"version": "1.2.3", "commit": facts.commit, "bundle": DIGEST, "engine": "openvino"}
    assert (facts.version, facts.bundle_digest) == ("1.2.3", DIGEST)
    assert facts.sha256 == hashlib.sha256((tmp_path / "a.tar.gz").read_bytes()).hexdigest()


def test_the_same_content_gives_the_same_bytes_at_any_time_and_on_any_machine(
    project: Path, bundle: Path, tmp_path: Path
) -> None:
    first = write_archive(tmp_path / "a.tar.gz", bundle, project)
    for path in project.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert write_archive(tmp_path / "other-name.tar.gz", bundle, project).sha256 == first.sha256
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in archive} == {(0, 0, "", 0)}
    assert gzip.decompress((tmp_path / "a.tar.gz").read_bytes())[:12] == b"version.json"


def test_what_may_be_run_stays_so(project: Path, bundle: Path, tmp_path: Path) -> None:
    (project / "ami" / "provision.sh").write_text("#!/bin/sh\n")
    (project / "ami" / "provision.sh").chmod(0o755)
    write_archive(tmp_path / "a.tar.gz", bundle, project)
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getmember("ami/provision.sh").mode == 0o755
        assert archive.getmember("config.yaml").mode == 0o644


@pytest.mark.parametrize(
    "name", ["services/__pycache__/x.pyc", "app_tier/demo/bundle/model.bin", "localcloud/server.py"]
)
def test_what_no_image_needs_is_not_packed(project: Path, bundle: Path, tmp_path: Path, name: str) -> None:
    (project / name).parent.mkdir(parents=True)
    (project / name).write_text("x")
    write_archive(tmp_path / "a.tar.gz", bundle, project)
    assert name not in names(tmp_path / "a.tar.gz")


def test_an_archive_names_its_commit_and_marks_changed_files(
    project: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_archive(tmp_path / "a.tar.gz", bundle, project).commit == "unknown"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(("git", "-C", str(project), *command), check=True, capture_output=True)
    commit = write_archive(tmp_path / "a.tar.gz", bundle, project).commit
    assert len(commit) == 40
    (project / "notes.txt").write_text("not packed")
    assert write_archive(tmp_path / "a.tar.gz", bundle, project).commit == commit
    (project / "services" / "new.py").write_text("")
    assert write_archive(tmp_path / "a.tar.gz", bundle, project).commit == f"{commit}-dirty"


def test_a_missing_or_incomplete_bundle_is_named(project: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"nowhere has no bundle\.json"):
        write_archive(tmp_path / "a.tar.gz", tmp_path / "nowhere", project)
    (bundle / "bundle.json").write_text('{"labels": []}')
    with pytest.raises(BundleError, match="this program reads 1"):
        write_archive(tmp_path / "a.tar.gz", bundle, project)


@pytest.mark.parametrize("missing", ["requirements/web.txt", "web_tier"])
def test_a_project_that_is_not_whole_is_named(project: Path, bundle: Path, tmp_path: Path, missing: str) -> None:
    path = project / missing
    path.rename(tmp_path / "away")
    with pytest.raises(ArchiveError, match=f"has no (folder )?{missing}"):
        write_archive(tmp_path / "a.tar.gz", bundle, project)


def test_the_command_packs_this_project_and_prints_the_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tmp_path / "source.tar.gz")])
    said = json.loads(capsys.readouterr().out)
    assert said["sha256"] == hashlib.sha256((tmp_path / "source.tar.gz").read_bytes()).hexdigest()
    assert "ami/provision.sh" in names(tmp_path / "source.tar.gz")
