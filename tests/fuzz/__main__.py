"""`python -m tests.fuzz TARGET... --inputs N`: what was tried, and what broke; `all` stands for every target."""

import argparse
import os
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz import TARGETS

if find_spec("atheris") is not None:
    from tests.fuzz import runner

LAST_LINES = 30


def main(arguments: Sequence[str]) -> int:
    """Fuzz and print the figures; return 1 when a promise was broken."""
    asked = _parser().parse_args(arguments)
    if find_spec("atheris") is None:
        print(
            "fuzzing is skipped: atheris has no wheel for this machine; it has for Linux on x86-64, Python 3.11-3.13"
        )
        return int(bool(os.environ.get("CI")))
    targets = TARGETS if "all" in asked.targets else tuple(asked.targets)
    with tempfile.TemporaryDirectory(prefix="fleetsight-fuzz-") as folder:
        outcomes = runner.fuzz(targets, asked.inputs, Path(folder))
        print("\n".join(_figures(outcomes)))
        broken = [each for each in outcomes if each.status]
        for each in broken:
            print("\n".join(_what_broke(each)))
        return int(bool(broken))


def _figures(outcomes: Sequence["runner.Outcome"]) -> Iterator[str]:
    yield f"{'target':10}{'inputs':>12}{'coverage':>10}{'peak MB':>9}  broken"
    for each in outcomes:
        broken = "a promise" if each.status else "nothing"
        yield f"{each.target:10}{each.inputs:12,}{each.coverage:10,}{each.megabytes:9,}  {broken}"


def _what_broke(outcome: "runner.Outcome") -> Iterator[str]:
    """Yield the end of the log, and the input itself, so that it can be put into the corpus as `broke-...`."""
    yield f"\n{outcome.target} ended with status {outcome.status}:"
    yield from outcome.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    for file in outcome.broken:
        yield f"{file.name}, {file.stat().st_size} bytes, in base64: {b64encode(file.read_bytes()).decode()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz what untrusted bytes reach first."
    )
    parser.add_argument("targets", nargs="+", choices=[*TARGETS, "all"], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=20_000, help="how many, for each target")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
