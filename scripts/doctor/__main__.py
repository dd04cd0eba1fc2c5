"""`python -m scripts.doctor`: the command where packages may be missing; `scripts/fleetsight` runs it.

Exit status: 0 without a problem, 1 with one, 2 for wrong usage.
"""

import argparse
import os
import sys

from scripts.doctor.checked_system import ROOT, CheckedSystem
from scripts.doctor.command import HELP, OPTIONS, diagnose


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("fleetsight doctor", description=HELP)
    parser.add_argument("--json", action="store_true", help=OPTIONS["--json"])
    parser.add_argument("--aws", action="store_true", help=OPTIONS["--aws"])
    parser.add_argument("--prefix", metavar="PREFIX", help=OPTIONS["--prefix"])
    parser.add_argument("--port", type=_port, metavar="N", help=OPTIONS["--port"])
    given = parser.parse_args(arguments)
    system = CheckedSystem(ROOT, os.environ, is_aws=given.aws, prefix=given.prefix, port=given.port)
    return diagnose(system, as_json_text=given.json)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
