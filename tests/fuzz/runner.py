"""Runs targets side by side, each in a process of its own with bounded memory, and says what came of it."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import CORPUS
from tests.fuzz.engine import SEEDS, WORDS

MAX_MEGABYTES = 512
"""Memory of a process, all libraries included; a target that needs more has found an input that fills a machine."""

FOUND = "found"
"""The folder, in that of a target, of inputs that reached something new."""

SECONDS_AN_INPUT = 300
"""Longest that one input may take, beside much other work."""

PATIENCE_SECONDS = 3_600
"""Longest that a target may take."""


@dataclass(frozen=True)
class Outcome:
    """What came of fuzzing a target.

    Attributes:
        inputs: that were tried.
        coverage: edges of the instrumented code that were reached.
        megabytes: most memory of the process.
        broken: files with an input that broke a promise, filled the memory or hung.
        status: of the process; 0 when nothing was found.
        log: everything it said.
    """

    target: str
    inputs: int
    coverage: int
    megabytes: int
    broken: tuple[Path, ...]
    status: int
    log: Path


def fuzz(targets: Sequence[str], inputs: int, folder: Path) -> list[Outcome]:
    """Fuzz each of `targets` by so many inputs, all at the same time; what they write goes into `folder`."""
    running = []
    for target in targets:
        own = folder / target
        (own / FOUND).mkdir(parents=True)
        (own / SEEDS).mkdir()
        options = [f"-runs={inputs}", f"-artifact_prefix={own}/broken-", "-print_final_stats=1"]
        folders = [str(own / FOUND), str(own / SEEDS), str(CORPUS / target)]
        with (own / "log").open("wb") as log:
            command = [*_command(target, own), *options, *folders]
            running.append((target, own, subprocess.Popen(command, stdout=log, stderr=log)))
    return [_outcome(target, own, process) for target, own, process in running]


def _command(target: str, folder: Path) -> list[str]:
    limits = [f"-rss_limit_mb={MAX_MEGABYTES}", f"-timeout={SECONDS_AN_INPUT}", f"-dict={folder / WORDS}"]
    return [sys.executable, "-m", "tests.fuzz.engine", target, str(folder), *limits]


def _outcome(target: str, folder: Path, process: "subprocess.Popen[bytes]") -> Outcome:
    try:
        status = process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    log = folder / "log"
    said = log.read_text(errors="replace")
    return Outcome(
        target,
        _last(r"^stat::number_of_executed_units:\s*(\d+)", said),
        _last(r" cov: (\d+) ", said),
        _last(r"^stat::peak_rss_mb:\s*(\d+)", said),
        tuple(sorted(folder.glob("broken-*"))),
        status,
        log,
    )


def _last(pattern: str, said: str) -> int:
    found = re.findall(pattern, said, re.MULTILINE)
    return int(found[-1]) if found else 0
