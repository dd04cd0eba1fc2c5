"""What makes an image on a machine: the builder's program, in a folder where every command but a few is a stub, and
`provision.sh`: what it rejects, what it reads, which signatures it trusts. `tests/image` shows that it works.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.aws.bake.builders import builder_script
from tests.conftest import ROOT
from tests.support.servers import serving
from tests.support.waiting import DEADLINE_SECONDS

SCRIPT = ROOT / "ami" / "provision.sh"
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
        """Return a source archive with this `provision.sh`."""
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
    first, provision, *rest = machine.calls()
    assert first == "shutdown -P +40"
    assert provision.startswith("provision --role worker --source ")
    assert "/source --agents as " in provision
    assert rest == ["cloud-init clean --logs", "poweroff "]
    assert machine.store.objects["/log"] == b"it works\n"
    assert not list(machine.root.glob("fleetsight-bake-*")), "nothing is left on the disk"


@pytest.mark.parametrize(
    ("provision", "changes", "problem", "tail"),
    [
        (GOOD, {"archive": "0" * 64}, "the source archive has SHA-256 ", []),
        (
            "for i in {1..100}; do echo line $i; done; exit 3",
            {},
            "bash provision.sh ended with status 3",
            [f"line {number}" for number in range(61, 101)],
        ),
        (
            "echo begun; sleep 600",
            {"provision_seconds": 1},
            "bash provision.sh was not done after 1 s",
            ["begun"],
        ),
        ("true", {}, "the image does not say what it is: ", []),
    ],
    ids=["another archive", "fails", "hangs", "no version"],
)
def test_a_failed_build_is_reported_with_its_last_lines_and_ends(
    machine: Machine, provision: str, changes: dict[str, Any], problem: str, tail: list[str]
) -> None:
    report = machine.run(provision, **changes)
    assert report["ok"] is False
    assert report["problem"].startswith(problem)
    assert report["log_tail"] == tail
    first, *provisioned, clean, end = machine.calls()
    assert (first, clean, end) == ("shutdown -P +40", "cloud-init clean --logs", "poweroff ")
    assert bool(provisioned) == ("archive" not in changes), "an archive with another digest is not run"


def test_packages_are_downloaded_by_https_only(machine: Machine) -> None:
    mirrors = machine.root / "apt" / "mirrors"
    mirrors.mkdir(parents=True)
    (mirrors / "debian.list").write_text("http://archive.example/debian\nhttps://other\n")
    machine.run(f"cat apt/mirrors/debian.list; {GOOD}")
    assert machine.store.objects["/log"] == b"https://archive.example/debian\nhttps://other\nit works\n"


# ---- provision.sh


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in bash that has the script's functions."""
    functions = "\n".join(line for line in SCRIPT.read_text().splitlines() if line != 'main "$@"')
    return subprocess.run(
        ("bash", "-c", f"{functions}\n{command}", "provision.sh", *arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "--role '' is neither worker nor web"),
        (("--role", "database", "--source", "/"), "--role 'database' is neither worker nor web"),
        (("--role",), "--role needs worker or web"),
        (("--roll", "web"), "unknown argument '--roll'"),
    ],
    ids=["none", "other role", "no role", "unknown"],
)
def test_invalid_arguments_are_rejected_before_anything_is_changed(arguments: tuple[str, ...], reason: str) -> None:
    done = subprocess.run(
        ("bash", str(SCRIPT), *arguments), capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 1
    assert reason in done.stderr


# ---- GPUs


@pytest.mark.parametrize(
    ("role", "engine", "wheelhouse", "has"),
    [
        ("worker", "torch", "", "torch driver"),
        ("worker", "torch", "/wheels", "torch"),
        ("worker", "openvino", "", ""),
        ("web", "torch", "", ""),
    ],
    ids=["on AWS", "without a network", "openvino", "web tier"],
)
def test_only_workers_with_the_torch_engine_have_torch_and_a_driver_needs_a_network(
    role: str, engine: str, wheelhouse: str, has: str
) -> None:
    asked = "role=$1 engine=$2 wheelhouse=$3; { has_torch && echo torch; has_gpu_driver && echo driver; } || true"
    assert run(asked, role, engine, wheelhouse).stdout.split() == has.split()


# ---- Signatures


class Signer:
    """A key of a test's own."""

    def __init__(self, home: Path, *then: str) -> None:
        home.mkdir(mode=0o700)
        quiet = ("--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        self._gpg = ("gpg", "--homedir", str(home), *quiet, *then)
        self._home = home
        self._do("--quick-generate-key", "ann@example.org", "ed25519", "sign", "1d")
        listed = self._do("--list-keys", "--with-colons")
        self.fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        self.public = home / "public.asc"
        self.public.write_text(self._do("--armor", "--export"))

    def sign(self, file: Path, signature: Path) -> None:
        """Write a detached signature."""
        self._do("--yes", "--detach-sign", "--output", str(signature), str(file))

    def end(self) -> None:
        """End gpg's own agent of this key."""
        subprocess.run(
            ("gpgconf", "--homedir", str(self._home), "--kill", "all"), check=False, timeout=DEADLINE_SECONDS
        )

    def _do(self, *arguments: str) -> str:
        return subprocess.run(
            (*self._gpg, *arguments), capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS
        ).stdout


@pytest.mark.skipif(shutil.which("gpg") is None, reason="there is no gpg: apt install gpg")
def test_a_package_is_taken_from_the_key_that_is_named_and_from_no_other(tmp_path: Path) -> None:
    file, signature = tmp_path / "a.deb", tmp_path / "a.sig"
    file.write_text("a package")
    ours, other = Signer(tmp_path / "o"), Signer(tmp_path / "x")
    try:
        ours.sign(file, signature)

        def taken(fingerprint: str, keys: Path) -> bool:
            arguments = (fingerprint, str(keys), str(signature), str(file))
            return run('signed_by "$@" || exit 9', *arguments).returncode == 0

        assert taken(ours.fingerprint, ours.public)
        assert not taken(other.fingerprint, ours.public)
        assert not taken(other.fingerprint, other.public)
        file.write_text("another package")
        assert not taken(ours.fingerprint, ours.public)
    finally:
        ours.end()
        other.end()


@pytest.mark.skipif(shutil.which("gpg") is None, reason="there is no gpg: apt install gpg")
def test_a_file_of_keys_is_trusted_if_it_holds_the_key_that_is_named_and_no_other(tmp_path: Path) -> None:
    ours, other, both, none = Signer(tmp_path / "o"), Signer(tmp_path / "x"), tmp_path / "both", tmp_path / "none"
    try:
        both.write_text(ours.public.read_text() + other.public.read_text())
        none.write_text("no key")

        def is_trusted(keys: Path) -> bool:
            return run('holds_only "$@" || exit 9', ours.fingerprint, str(keys)).returncode == 0

        assert [is_trusted(keys) for keys in (ours.public, other.public, both, none)] == [True, False, False, False]
    finally:
        ours.end()
        other.end()


@pytest.mark.skipif(shutil.which("gpg") is None, reason="there is no gpg: apt install gpg")
def test_a_package_is_not_taken_from_a_key_that_has_expired(tmp_path: Path) -> None:
    file, signature = tmp_path / "a.deb", tmp_path / "a.sig"
    file.write_text("a package")
    old = Signer(tmp_path / "o", "--faked-system-time", "20200101T000000!")
    try:
        old.sign(file, signature)
        arguments = (old.fingerprint, str(old.public), str(signature), str(file))
        assert run('signed_by "$@" || exit 9', *arguments).returncode == 9
    finally:
        old.end()


@pytest.mark.skipif(shutil.which("gpg") is None, reason="there is no gpg: apt install gpg")
def test_the_key_of_session_managers_agent_is_the_one_that_the_script_names(tmp_path: Path) -> None:
    key = ROOT / "ami" / "keys" / "amazon-ssm-agent.asc"
    command = ("gpg", "--homedir", str(tmp_path), "--batch", "--show-keys", "--with-colons", str(key))
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS).stdout
    found = {line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr")}
    assert found == {run('printf %s "$SSM_KEY"').stdout}
    (expires,) = (int(line.split(":")[6]) for line in shown.splitlines() if line.startswith("pub"))
    assert f"\nExpires: {datetime.fromtimestamp(expires, UTC).date()}\n" in key.read_text()
