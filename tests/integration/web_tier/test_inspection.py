"""Uploads are inspected in sandboxed processes, with the verdict that a worker gives (`docs/faults.md` 33 to 35)."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from core.images import Framing, ImageLimits, ImageRejectedError, sniff
from core.sandbox.process import MissingLimitsError
from scripts.run.system import System, free_port
from tests.conftest import ROOT
from tests.integration.web_tier.conftest import WebTier
from tests.support.hostile_images import BOMBS, FLOODS, FOREIGN, HONEST, POLYGLOTS, STARTS
from tests.support.processes import children_of, other_machine, run_python
from tests.support.unsandboxed import central_crop, inspect
from tests.support.waiting import wait_until
from web_tier.uploads.ingest import sandboxed_inspect

pytestmark = pytest.mark.processes

SMALL = ImageLimits(max_bytes=2**20, max_pixels=3_000_000, max_frames=3)
SAMPLES: dict[str, Callable[[], bytes]] = {
    **HONEST,
    **FLOODS,
    **FOREIGN,
    **{f"bomb: {kind}": make for kind, (_, make) in BOMBS.items()},
    **{kind: make for kind, (_, make) in POLYGLOTS.items()},
    **{f"start of a file: {start!r}": lambda start=start: start + bytes(100) for start in STARTS},  # type: ignore[misc]
    **{f"cut {kind}": lambda make=make: make()[:-25] for kind, make in HONEST.items()},  # type: ignore[misc]
    "nothing": lambda: b"",
    "text": lambda: b"hello",
}


def verdict(function: Callable[..., object], data: bytes, limits: ImageLimits) -> object:
    try:
        function(data, "u", limits=limits)
    except ImageRejectedError as error:
        return error.code, error.message
    return sniff(data)


def test_a_sandboxed_process_gives_each_file_the_verdict_of_its_content() -> None:
    files = {kind: make() for kind, make in SAMPLES.items()}
    with closing(sandboxed_inspect(ImageLimits(), "required")) as sandbox:
        for limits in (ImageLimits(), SMALL):
            expected = {kind: verdict(inspect, data, limits) for kind, data in files.items()}
            assert {kind: verdict(sandbox, data, limits) for kind, data in files.items()} == expected
            rejected = {kind: each for kind, each in expected.items() if isinstance(each, tuple)}
            crop = partial(central_crop, framing=Framing((8, 8), (8, 8)))
            assert {kind: verdict(crop, files[kind], limits) for kind in rejected} == rejected, "a worker, too"


UPLOADS = """
import sys
import web_tier.app, web_tier.controller.services
from core.images import ImageLimits
from web_tier.uploads.ingest import sandboxed_inspect, validate_image
from web_tier.uploads.multipart import Upload
limits = ImageLimits()
for name in sys.argv[1:]:
    data = open(name, "rb").read()
    print(validate_image(Upload("a", data, len(data)), limits, sandboxed_inspect(limits, "required"), "u"))
print({name.partition(".")[0] for name in sys.modules} & {"PIL", "pillow_heif", "numpy"})
"""


def test_the_own_process_of_the_web_tier_never_loads_a_decoder(tmp_path: Path) -> None:
    files = []
    for number, kind in enumerate(("bmp", "heic", "lossy webp", "png of text")):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(SAMPLES[kind]())
    *outcomes, decoders = run_python(UPLOADS, *map(str, files)).stdout.splitlines()
    assert [outcome.partition("(")[0] for outcome in outcomes] == [*["ImageFormat"] * 3, "RejectedUpload"]
    assert decoders == "set()"


def test_the_first_image_of_a_web_process_finds_the_process_that_inspects_it(web_tier: WebTier) -> None:
    def inspectors() -> list[list[int]]:
        return [children_of(zygote) for worker in web_tier.workers() for zygote in children_of(worker)]

    wait_until(lambda: len(inspectors()) == 2 and all(inspectors()), "both web processes have one")


def test_the_web_tier_does_not_start_where_it_cannot_limit_its_processes() -> None:
    command = [sys.executable, "-m", "gunicorn", "--check-config", "-c", "python:web_tier.gunicorn"]
    with other_machine():
        ended = subprocess.run(
            [*command, "web_tier.app:create_app()"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert ended.returncode != 0
    assert "refuses seccomp. Use Linux on x86-64 or arm64" in ended.stderr


def test_run_sh_says_at_once_that_this_system_cannot_limit_processes(tmp_path: Path) -> None:
    system = System(tmp_path, {"FLEETSIGHT__WEB__PORT": str(free_port())})
    with other_machine(), pytest.raises(MissingLimitsError, match="refuses seccomp"):
        system.start()
