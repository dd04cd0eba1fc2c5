"""``fleetsight doctor``: what the set-up and the start do not check, or what may have changed since.

Only a problem keeps the system from working; a warning limits it.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import click
import urllib3

from core.config import Config, load_config
from core.sandbox.pool import require_limits
from core.sandbox.process import MissingLimitsError
from scripts.home import HOME, ROOT, address_of, is_this_machine
from scripts.standard_options import url_option

REPLY_SECONDS: Final = 10.0
"""The longest wait for a reply; the web tier itself waits a few seconds for what it needs."""

MIN_FREE_BYTES: Final = 100 * 10**6
LOW_FREE_BYTES: Final = 2 * 10**9
"""Free disk space below which logs cannot be written soon, and below which no model and no image can be built."""

MIN_FREE_FILES: Final = 10_000
"""Free inodes below which a file system with room may still refuse files."""

MEMINFO: Final = Path("/proc/meminfo")

RESTART: Final = (
    "Read ./scripts/fleetsight logs --level warning; then stop ./scripts/run.sh with Ctrl-C, and start it again."
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A result of a check; only a verdict of `ok` has no remedy."""

    verdict: Literal["ok", "warning", "problem"]
    found: str
    remedy: str = ""


def check_sandbox(config: Config, _url: str) -> Iterator[Diagnosis]:
    """Start a process of the kind that opens images."""
    try:
        require_limits("required")
    except MissingLimitsError as error:
        is_required = config.sandbox.limits == "required"
        yield Diagnosis("problem" if is_required else "warning", error.found, error.remedy)
    else:
        yield Diagnosis("ok", "processes that open images have all limits")


def check_disk(_config: Config, _url: str) -> Iterator[Diagnosis]:
    """Check that files can be written here and in the folder of temporary files, and that there is room."""
    # The system makes its folder in the checkout when it starts.
    for folder in (HOME if HOME.exists() else ROOT, Path(tempfile.gettempdir())):
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        has = f"{free / 1e9:.1f} GB are free in {folder}"
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Diagnosis("problem", f"this user may not write to {folder}", f"sudo chown -R $USER {folder}")
        elif free < MIN_FREE_BYTES:
            needed = f"{MIN_FREE_BYTES / 1e9:.1f} GB are needed"
            yield Diagnosis("problem", f"{has}, and {needed}", "Free some space.")
        elif status.f_files and status.f_favail < MIN_FREE_FILES:
            few = f"only {status.f_favail} files can be created in {folder}"
            yield Diagnosis("problem", few, "Delete files (df -i).")
        elif free < LOW_FREE_BYTES:
            yield Diagnosis("warning", f"{has}: too little to build a model or a machine image", "Free some space.")
        else:
            yield Diagnosis("ok", has)


def check_memory(config: Config, _url: str) -> Iterator[Diagnosis]:
    """Compare the available memory with what a worker, and all that are started, take."""
    from app_tier.sizing import fitting_workers, this_machine, worker_bytes

    lines = (line.partition(":") for line in MEMINFO.read_text().splitlines())
    free = next(int(rest.split()[0]) * 1024 for name, _, rest in lines if name == "MemAvailable")
    bundle = ROOT / config.worker.bundle
    weights = max((file.stat().st_size for file in bundle.glob("*.bin")), default=0) if bundle.is_dir() else 0
    machine, each = this_machine(), worker_bytes(config.worker.engine, weights)
    workers = fitting_workers(machine, each)
    has = (
        f"{free / 1e9:.1f} of {machine.memory_bytes / 1e9:.1f} GB are available; "
        f"{workers} worker{'' if workers == 1 else 's'} of {each / 1e9:.2f} GB fit this machine"
    )
    if free < each:
        yield Diagnosis("problem", f"{has}, and there is no room for one now", "End other programs.")
    elif free < workers * each:
        yield Diagnosis("warning", f"{has}, and there is no room for all of them now", "End other programs.")
    else:
        yield Diagnosis("ok", has)


def check_bundle(config: Config, _url: str) -> Iterator[Diagnosis]:
    """Compare the digest of each file of the model bundle with its manifest."""
    from app_tier.bundle import load_bundle, load_zip
    from core.bundle_manifest import BundleError

    where, pin = config.worker.bundle, config.worker.bundle_sha256
    if str(where).startswith("s3:"):
        yield Diagnosis("ok", "it is in S3, where ./scripts/fleetsight model verify s3://BUCKET/KEY checks it")
        return
    place = ROOT / where
    try:
        with tempfile.TemporaryDirectory(prefix="fleetsight-doctor-") as scratch:
            is_zip = place.suffix.lower() == ".zip" and place.is_file()
            # A worker would unpack a zip into its cache, and this command changes nothing.
            bundle = load_zip(place, Path(scratch), pin) if is_zip else load_bundle(place, pin)
    except BundleError as error:
        remedy = "Restore it (git checkout -- app_tier/demo), or build one: ./scripts/fleetsight model build resnet18"
        yield Diagnosis("problem", str(error), remedy)
    else:
        words = f"{bundle.name}, {len(bundle.labels)} labels, digest {bundle.digest[:12]}; all files are as built"
        yield Diagnosis("ok", words)


def check_system(_config: Config, url: str) -> Iterator[Diagnosis]:
    """Find what answers at the address of the system, and whether it is ready."""
    host, port = address_of(url)
    try:
        reply = urllib3.request("GET", f"{url}/readyz", timeout=REPLY_SECONDS, retries=False, redirect=False)
        missing = "; ".join(f"{name}: {reason}" for name, reason in reply.json()["missing"].items())
    except urllib3.exceptions.NewConnectionError as error:
        if is_this_machine(host):
            yield Diagnosis("ok", f"nothing runs at {url}; ./scripts/run.sh starts it")
        else:
            yield Diagnosis("problem", f"{url} does not answer: {error}", "Check the address and the network.")
    except urllib3.exceptions.HTTPError as error:
        yield Diagnosis("problem", f"{url} does not answer: {error}", RESTART)
    except (ValueError, LookupError, TypeError, AttributeError):
        yield Diagnosis(
            "problem",
            f"what answers at {url} is not Fleetsight",
            f"Find it with ss -ltnp sport = :{port}, or use another port: ./scripts/run.sh --port {port + 1}",
        )
    else:
        is_ready = reply.status == 200
        words = f"{url} is ready" if is_ready else f"{url} is not ready: {missing}"
        yield Diagnosis("ok", words) if is_ready else Diagnosis("problem", words, RESTART)


CHECKS: Final[dict[str, Callable[[Config, str], Iterator[Diagnosis]]]] = {
    "sandbox": check_sandbox,
    "disk": check_disk,
    "memory": check_memory,
    "bundle": check_bundle,
    "system": check_system,
}
"""Each check by its name."""


@click.command()
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def doctor(*, url: str, as_json: bool) -> None:
    """Check this machine, and the system if it runs, and say how to repair what is wrong.

    Nothing is changed. The exit status is 1 if there is a problem. An account of AWS is checked by `fleetsight aws
    check`.
    """
    address_of(url)
    config = load_config()
    results = [(name, each) for name, check in CHECKS.items() for each in check(config, url.rstrip("/"))]
    counts = {
        verdict: sum(each.verdict == verdict for _, each in results) for verdict in ("ok", "warning", "problem")
    }
    if as_json:
        checks = [{"check": name, **asdict(each)} for name, each in results]
        click.echo(json.dumps({"checks": checks, "counts": counts}, indent=2))
    else:
        for name, each in results:
            click.echo(f"{each.verdict:<8} {name:<7} {each.found}")
            if each.remedy:
                click.echo(f"{'':<16} → {each.remedy}")
        click.echo(f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems")
    sys.exit(int(counts["problem"] > 0))
