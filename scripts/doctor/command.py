"""The command: its options, and all checks of a system in the order in which they are shown."""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from scripts.doctor import machine, running
from scripts.doctor.checked_system import ROOT, CheckedSystem
from scripts.doctor.checks import Diagnosis, as_json, as_text, has_problem, run_checks
from scripts.home import AddressError, address_of

HELP: Final = (
    "Check this machine, and the system if it runs, for what Fleetsight needs, and say how to repair what is wrong. "
    "Nothing is changed. The exit status is 1 if there is a problem. An account of AWS is checked by "
    "`fleetsight aws check`."
)

URL_VARIABLE: Final = "FLEETSIGHT_URL"
"""As in `fleetsight_client.api`, which cannot be imported where packages are missing."""

CHECKS: Final[Mapping[str, Callable[[CheckedSystem], Iterable[Diagnosis]]]] = {
    "python": machine.check_python,
    "packages": machine.check_packages,
    "settings": machine.check_settings,
    "port": machine.check_port,
    "sandbox": machine.check_sandbox,
    "disk": machine.check_disk,
    "memory": machine.check_memory,
    "bundle": machine.check_bundle,
    "system": running.check_system,
}
"""Each check by its name."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command; `scripts/cli.py` has the same options for its help."""
    found = argparse.ArgumentParser("fleetsight doctor", description=HELP)
    found.add_argument(
        "--url",
        type=_url,
        default=os.environ.get(URL_VARIABLE) or None,
        help=f"Address of Fleetsight. [env var: {URL_VARIABLE}; default: web.host and web.port of config.yaml]",
    )
    found.add_argument("--json", action="store_true", help="Print the results as JSON.")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the results of all checks of a system; return the exit status."""
    given = parser().parse_args(arguments)
    system = CheckedSystem(ROOT, os.environ, given.url)
    results = run_checks({name: partial(check, system) for name, check in CHECKS.items()})
    print(as_json(results) if given.json else as_text(results))
    return int(has_problem(results))


def _url(text: str) -> str:
    try:
        address_of(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
