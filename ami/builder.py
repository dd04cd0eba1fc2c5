"""Turns the machine that it runs on into one of our images: the user data of a builder, with its settings below.

It runs once, as root, under the Python that cloud-init runs under, so only the standard library is available. It
uploads a report to the address in its settings. Then it powers the machine off, also after a failure: a stopped
builder has sent its report. All commands are found by PATH.
"""

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ATTEMPTS = 5
SOCKET_SECONDS = 60
CHUNK = 2**20
TAIL_LINES = 40
COMMAND_SECONDS = 120
NO_ANSWER = (OSError, http.client.HTTPException)


class BuildError(Exception):
    """Raised when the image cannot be made; the message is the report's problem."""


def build(settings: dict[str, Any], work: Path, log: Path) -> dict[str, Any]:
    """Turn this machine into the image of its role and return what is on it now.

    Raises:
        BuildError: the source is another one than was sent, or the provisioning failed or took too long.
        OSError, HTTPException: the source cannot be fetched.
    """
    archive = work / "source.tar.gz"
    fetch(settings["source_url"], archive)
    if (found := digest_of(archive)) != settings["archive"]:
        raise BuildError(f"the source archive has SHA-256 {found}, not {settings['archive']}")
    source = work / "source"
    source.mkdir()
    run(["tar", "-xzf", str(archive), "-C", str(source), "--no-same-owner"], log, COMMAND_SECONDS)
    ask_by_https(Path(settings["apt"]))
    provision = ["bash", str(source / "ami" / "provision.sh"), "--role", settings["role"], "--source", str(source)]
    run([*provision, *settings["options"]], log, settings["provision_seconds"])
    return facts(Path(settings["version_file"]))


def ask_by_https(apt: Path) -> None:
    """Have apt ask its mirrors by HTTPS: builders, like all of ours, may reach the internet by nothing else."""
    for path in [apt / "sources.list", *apt.glob("sources.list.d/*"), *apt.glob("mirrors/*")]:
        if path.is_file() and "http://" in (text := path.read_text()):
            path.write_text(text.replace("http://", "https://"))


def fetch(url: str, path: Path) -> None:
    """Store what is at `url` in `path`.

    Raises:
        OSError, HTTPException: it cannot be had, after some attempts.
    """
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(url, timeout=SOCKET_SECONDS) as answer, path.open("wb") as file:  # nosec B310 # noqa: S310 - ours, from the bake
                shutil.copyfileobj(answer, file, CHUNK)
        except NO_ANSWER:
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(2**attempt)
        else:
            return


def put(url: str, body: bytes) -> None:
    """Put `body` there, trying some times; the report that does not arrive is missed soon enough."""
    for attempt in range(ATTEMPTS):
        request = urllib.request.Request(url, body, method="PUT", headers={"Content-Type": ""})  # noqa: S310 - as above
        try:
            with urllib.request.urlopen(request, timeout=SOCKET_SECONDS):  # nosec B310 # noqa: S310 - as above
                return
        except NO_ANSWER as error:
            say(f"the report was not taken: {error}")
            time.sleep(2**attempt)


def digest_of(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: list[str], log: Path, seconds: float) -> None:
    """Run a command, its output in `log` as well as on the console; at the end of its time, end all of it.

    Raises:
        BuildError: it failed, or took too long.
    """
    name = " ".join(Path(word).name for word in command[:2])
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise BuildError(f"{name} was not done after {seconds:.0f} s") from None
    if status != 0:
        raise BuildError(f"{name} ended with status {status}")


def facts(version_file: Path) -> dict[str, Any]:
    """Return what the image says of itself.

    Raises:
        BuildError: the image does not say what it is.
    """
    try:
        image = json.loads(version_file.read_text())
    except (OSError, ValueError) as error:
        raise BuildError(f"the image does not say what it is: {error}") from error
    return {"image": image}


def say(text: str) -> None:
    """Write to the console, which EC2 keeps."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def quietly(*command: str) -> None:
    """Run a command that may fail, or may not exist."""
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{command[0]}: {error}")


def main(settings: dict[str, Any]) -> None:
    """Build, report, and power off, also after a failure."""
    begun = time.monotonic()
    # Should this script hang or be killed, the machine still ends.
    quietly("shutdown", "-P", f"+{settings['life_minutes']}")
    report: dict[str, Any] = {"ok": False, "problem": "", "role": settings["role"], "archive": settings["archive"]}
    try:
        with tempfile.TemporaryDirectory(prefix="fleetsight-bake-") as work:
            log = Path(work) / "log"
            log.touch()
            try:
                report |= {**build(settings, Path(work), log), "ok": True}
            except Exception as error:  # noqa: BLE001 (the report holds each error)
                report["problem"] = f"{error}" or type(error).__name__
            text = log.read_bytes()
        # What this run has left on the disk would be in the image: the user data with its addresses, the logs.
        quietly("cloud-init", "clean", "--logs")
        say(text.decode(errors="replace"))
        put(settings["log_url"], text)
        report["seconds"] = round(time.monotonic() - begun, 1)
        report["log_tail"] = text.decode(errors="replace").splitlines()[-TAIL_LINES:]
        put(settings["report_url"], json.dumps(report).encode())
    finally:
        quietly("poweroff")
