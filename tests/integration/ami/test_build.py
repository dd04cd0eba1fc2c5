"""What an image is made of, and a local build: what it needs, how it reports a failed step, what it keeps."""

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ami.archive import ArchiveError, main, write_archive
from app_tier.bundle import DEMO_BUNDLE, read_manifest
from core.bundle_facts import BundleUnreadableError
from tests.conftest import ROOT
from tests.support.booted import images as local
from tests.support.booted.images import (
    ImageBuildError,
    ImageToolMissingError,
    build_image,
    debian,
    image_id,
    made_whole,
    need_tools,
    run,
)
from tests.support.processes import children_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until

DIGEST = read_manifest(DEMO_BUNDLE).digest
REQUIREMENTS = [f"requirements/{section}.txt" for section in ("cuda", "gpu", "telemetry", "web", "worker")]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


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


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("core/__init__.py", {"worker", "web"}),
        ("app_tier/__init__.py", {"worker"}),
        ("web_tier/__init__.py", {"web"}),
        ("ami/provision.sh", {"worker", "web"}),
        ("ami/files/web/etc/nginx/nginx.conf", {"worker", "web"}),
        ("../bundle/model.xml", {"worker", "web"}),
        ("ami/README.md", set()),
        ("localcloud/server.py", set()),
    ],
)
def test_an_image_has_another_id_when_a_file_of_its_own_has_changed(
    project: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, roles: set[str]
) -> None:
    def ids() -> dict[str, str]:
        return {"worker": image_id("worker", bundle), "web": image_id("web", bundle)}

    monkeypatch.setattr(local, "ROOT", project)
    before = ids()
    assert len({*before.values()}) == 2
    assert all(re.fullmatch("ami-[0-9a-f]{17}", each) for each in before.values())
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_text("changed")
    after = ids()
    assert {role for role in before if before[role] != after[role]} == roles


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
    with pytest.raises(BundleUnreadableError, match="this program reads 1"):
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


def put_on_path(name: str, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `script` be the program `name`."""
    program = folder / "bin" / name
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def child_with(argument: str) -> int:
    """Return the child of this process with `argument` in its command line."""
    [found] = [pid for pid in children_of(os.getpid()) if argument in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def test_only_root_can_make_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageToolMissingError, match="only root"):
        need_tools()


def test_tools_that_are_missing_are_named_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageToolMissingError, match=r"no mmdebstrap and no systemd-nspawn .*apt install mmdebstrap"):
        need_tools()


def test_a_failed_step_is_reported_with_its_last_output() -> None:
    command = (sys.executable, "-c", "print('the disk is full'); raise SystemExit(3)")
    with pytest.raises(ImageBuildError, match=r"nothing was made: .* ended with 3\nthe disk is full"):
        run("nothing was made", command, 60)


def test_a_step_that_hangs_is_ended() -> None:
    with pytest.raises(ImageBuildError, match=r"nothing was made: sleep was not done after 0 s"):
        run("nothing was made", ("sleep", "60"), 0.05)


def test_a_folder_that_could_not_be_made_is_not_there_half(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        new.mkdir()
        (new / "a").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), made_whole(tmp_path / "image") as new:
        fail(new)
    assert list(tmp_path.iterdir()) == []
    with made_whole(tmp_path / "image") as new:
        new.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


@as_root
@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("E: Failed to fetch http://archive.example/debian/dists/bookworm/InRelease", ImageToolMissingError),
        ("E: run_chroot failed: E: Sub-process env returned an error code (1)", ImageBuildError),
    ],
    ids=["archive", "other"],
)
def test_debian_that_cannot_be_fetched_is_a_missing_tool_and_other_failures_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, error: type[Exception]
) -> None:
    put_on_path("mmdebstrap", f'echo "{said}"\nexit 1', tmp_path, monkeypatch)
    with pytest.raises(error, match=r"Debian"):
        debian(tmp_path / "base", lambda _: None)
    assert not list((tmp_path / "base").iterdir())


@as_root
def test_mmdebstrap_that_is_killed_leaves_neither_a_mount_nor_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = 'for folder; do :; done\nmkdir -p "$folder/proc"\nmount -t proc proc "$folder/proc"\n'
    put_on_path("mmdebstrap", f"{mounts}touch {tmp_path}/mounted\nsleep 600", tmp_path, monkeypatch)
    with ThreadPoolExecutor(1) as builder:
        building = builder.submit(debian, tmp_path / "base", lambda _: None)
        wait_until((tmp_path / "mounted").exists, "mmdebstrap has mounted /proc")
        os.kill(child_with(str(tmp_path)), signal.SIGKILL)
        with pytest.raises(ImageBuildError, match="ended with -9"):
            building.result(DEADLINE_SECONDS)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert not list((tmp_path / "base").iterdir())


def test_an_image_is_made_once_and_what_was_not_asked_for_in_a_day_is_removed(
    project: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps: list[str] = []

    def step(failed: str, command: tuple[str, ...], *_: object) -> None:
        steps.append(failed)
        if {"mmdebstrap", "cp"} & {*command}:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(local, "ROOT", project)
    monkeypatch.setattr(local, "need_tools", lambda: None)
    monkeypatch.setattr(local, "run", step)
    images = tmp_path / "images"
    for name in ("images/ami-old", "base/old", "wheels/old", "images/ami-new"):
        (tmp_path / name).mkdir(parents=True)
        if name.endswith("old"):
            os.utime(tmp_path / name, (100, 100))
    made = build_image("web", images, bundle=bundle, say=steps.append)
    assert made.root.is_dir()
    assert {path.name for path in images.glob("ami-*")} == {"ami-new", made.image_id}
    assert not [*tmp_path.glob("*/old"), *tmp_path.rglob(".new-*")]
    assert len(steps) == 4 + 3, "Debian, wheels, a copy and the script, and the first two and the image are reported"
    assert build_image("web", images, bundle=bundle, say=steps.append) == made
    other = build_image("worker", images, bundle=bundle, say=steps.append)
    assert other.root.is_dir()
    assert steps.count("mmdebstrap could not install Debian") == 1
    assert len(steps) == 7 + 3, "the image is there; another one needs a copy and the script, and is reported"


def test_a_container_ends_with_the_command_that_runs_it() -> None:
    command = local.inside_of(Path("/somewhere"), "--volatile=overlay")
    assert "--kill-child" in command[: command.index("sh")]
    assert {"--private-network", "--register=no", "--directory=/somewhere", "--volatile=overlay"} <= set(command)
