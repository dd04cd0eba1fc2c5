"""The program that a builder runs, run for real in a folder where every command but a few is a stub."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.aws.bake.builders import builder_script
from tests.support.served import serving
from tests.support.waiting import DEADLINE_SECONDS

VERSION = {"version": "0.1.0", "commit": "c0ffee", "role": "worker", "bundle": "b" * 64, "engine": "openvino"}


@dataclass
class Store:
    """Objects by their paths, served over HTTP, where they can also be put."""

    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = ""


@pytest.fixture
def store() -> Iterator[Store]:
    served = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.objects.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def do_PUT(self) -> None:
            served.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as served.url:
        yield served


@dataclass
class Machine:
    """A folder that plays a machine; what is called on it is written to `calls`."""

    root: Path
    store: Store

    def __post_init__(self) -> None:
        bin_ = self.root / "bin"
        bin_.mkdir()
        for name in ("env", "bash", "tar", "gzip", "cat", "uname", "sleep"):
            (bin_ / name).symlink_to(shutil.which(name) or name)
        (bin_ / "python3").symlink_to(sys.executable)
        for name in ("shutdown", "poweroff", "cloud-init"):
            self.stub(name)

    def stub(self, name: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >>{self.root}/calls\n')
        path.chmod(0o755)

    def source(self, provision: str) -> bytes:
        """Return a source archive whose `provision.sh` does that."""
        text = f"cd '{self.root}'\necho \"provision $* as $0\" >>calls\n{provision}\n".encode()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            entry = tarfile.TarInfo("ami/provision.sh")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        return packed.getvalue()

    def run(self, provision: str, **changes: Any) -> dict[str, Any]:
        """Run the builder to its end and return its report."""
        source = self.source(provision)
        self.store.objects["/source"] = source
        settings = {
            "role": "worker",
            "archive": hashlib.sha256(source).hexdigest(),
            "source_url": f"{self.store.url}/source",
            "report_url": f"{self.store.url}/report",
            "log_url": f"{self.store.url}/log",
            "options": ["--agents"],
            "apt": str(self.root / "apt"),
            "version_file": str(self.root / "version.json"),
            "provision_seconds": 20,
            "life_minutes": 40,
        } | changes
        program = self.root / "user-data"
        program.write_text(builder_script(settings))
        program.chmod(0o755)
        environment = {"PATH": str(self.root / "bin"), "TMPDIR": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([program], env=environment, check=True, timeout=DEADLINE_SECONDS, capture_output=True)
        report: dict[str, Any] = json.loads(self.store.objects["/report"])
        return report

    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, store: Store) -> Machine:
    return Machine(tmp_path, store)


GOOD = f"echo 'it works'; echo '{json.dumps(VERSION)}' >version.json"


def test_a_builder_provisions_reports_and_powers_off(machine: Machine) -> None:
    report = machine.run(GOOD)
    assert report["ok"] is True
    assert report["image"] == VERSION
    assert report["log_tail"] == ["it works"]
    assert report["versions"]["kernel"] == os.uname().release
    first, provision, *rest = machine.calls()
    assert first == "shutdown -P +40"
    assert provision.startswith("provision --role worker --source ")
    assert "/source --agents as " in provision
    assert rest == ["cloud-init clean --logs", "poweroff "]
    assert machine.store.objects["/log"] == b"it works\n"


def test_the_build_leaves_no_files_on_the_disk(machine: Machine) -> None:
    machine.run(GOOD)
    assert not list(machine.root.glob("fleetsight-bake-*"))


def test_an_archive_with_another_digest_is_not_run(machine: Machine) -> None:
    report = machine.run(GOOD, archive="0" * 64)
    assert report["ok"] is False
    assert report["problem"].startswith("the source archive has SHA-256 ")
    assert machine.calls() == ["shutdown -P +40", "cloud-init clean --logs", "poweroff "]


def test_a_failed_provisioning_is_reported_with_its_last_lines(machine: Machine) -> None:
    report = machine.run("for i in {1..100}; do echo line $i; done; exit 3")
    assert report["problem"] == "bash provision.sh ended with status 3"
    assert report["log_tail"] == [f"line {number}" for number in range(61, 101)]
    assert machine.calls()[-1] == "poweroff "


def test_a_provisioning_that_hangs_is_killed(machine: Machine) -> None:
    report = machine.run("echo begun; sleep 600", provision_seconds=3)
    assert report["problem"] == "bash provision.sh was not done after 3 s"
    assert report["log_tail"] == ["begun"]
    assert machine.calls()[-1] == "poweroff "


def test_an_image_without_a_version_file_is_a_failure(machine: Machine) -> None:
    report = machine.run("true")
    assert report["ok"] is False
    assert report["problem"].startswith("the image does not say what it is: ")


def test_a_machine_without_shutdown_or_cloud_init_is_built_too(machine: Machine) -> None:
    for name in ("shutdown", "cloud-init"):
        (machine.root / "bin" / name).unlink()
    assert machine.run(GOOD)["ok"] is True
    assert machine.calls()[-1] == "poweroff "


def test_packages_are_downloaded_by_https_only(machine: Machine) -> None:
    mirrors = machine.root / "apt" / "mirrors"
    mirrors.mkdir(parents=True)
    (mirrors / "debian.list").write_text("http://archive.example/debian\nhttps://other\n")
    machine.run(f"cat apt/mirrors/debian.list; {GOOD}")
    assert machine.store.objects["/log"] == b"https://archive.example/debian\nhttps://other\nit works\n"
