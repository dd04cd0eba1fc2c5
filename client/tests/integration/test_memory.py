"""The memory of `fleetsight classify` does not grow with the number of files."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.tests.support.results_api import DEADLINE_SECONDS, ResultsApi, served

pytestmark = pytest.mark.processes

PACKAGE = Path(__file__).parents[2]

FEW, MANY = 8_000, 20_000
"""With fewer files SQLite's caches are far from full, so memory would seem to grow with the files."""
MAX_GROWTH_KB = 6 * 1024
"""The list of files alone would take more: an object with a path has over 600 bytes, and 12,000 of them 7 MB.

Measured: 39.6 MB for 2,000 files, 42.2 MB for 8,000, 45.4 MB for 20,000, 45.8 MB for 40,000, and 45.9 MB for 80,000.
"""

PEAK = """
import re, sys
from fleetsight_client.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print(ended.code, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
"""Not by getrusage: its peak begins with the memory of the process that started this one."""


def peak_kb(folder: Path, tmp_path: Path) -> int:
    """Classify a folder; return the peak of the command's resident memory."""
    api = ResultsApi()
    with served(api.app()) as url:
        options = ("--url", url, "--out", str(tmp_path / "r.jsonl"), "--truth-from-folders", "--group-by", "folder")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "classify", str(folder), *options],
            cwd=PACKAGE,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            check=False,
            timeout=10 * DEADLINE_SECONDS,
        )
    status, peak = done.stdout.split()
    assert status == "0", done.stderr
    assert len(api.job.images) == sum(1 for _ in folder.rglob("*.jpg"))
    assert max(api.names.values()) == 1
    with (tmp_path / "r.jsonl").open() as lines:
        assert sum(1 for _ in lines) == len(api.job.images)
    return int(peak)


SHRUNK_PEAK = """
import re, sys
from fleetsight_client.shrinking import Shrinker
size = len(Shrinker(256, 1800).shrunk(sys.stdin.buffer.read()))
print(size, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
MAX_SHRUNK_KB = 130 * 1024
"""A photo of 24 million pixels has 72 MB if it is decoded whole, and as much again if it is turned: 254 MB in all."""


def test_a_large_photo_is_made_smaller_without_decoding_it_whole() -> None:
    image, content = pytest.importorskip("PIL.Image"), io.BytesIO()
    image.effect_noise((1_500, 1_000), 60).resize((6_000, 4_000)).convert("RGB").save(content, "JPEG")
    done = subprocess.run(
        [sys.executable, "-c", SHRUNK_PEAK], cwd=PACKAGE, input=content.getvalue(), capture_output=True, check=True
    )
    size, peak = map(int, done.stdout.split())
    assert size < len(content.getvalue()) / 3
    assert peak < MAX_SHRUNK_KB


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(MANY):
        if number % 1_000 == 0:
            (folder / f"day{number // 1_000:03}").mkdir(parents=True)
        if number == FEW:
            few = peak_kb(folder, tmp_path)
        # Long names, as of cameras: a list of them would be large.
        (folder / f"day{number // 1_000:03}" / f"IMG_20261124_{number:06}_{'x' * 60}.jpg").write_bytes(b"cat")
    many = peak_kb(folder, tmp_path)
    assert many - few < MAX_GROWTH_KB, (few, many)
