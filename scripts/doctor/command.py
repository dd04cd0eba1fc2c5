"""The command: its options in words, and all checks of a system in the order in which they are shown."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from scripts.doctor import cloud, machine
from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, as_json, as_text, has_problem, run_checks

HELP: Final = (
    "Check this machine and the configured cloud for what Fleetsight needs, and say how to repair what is wrong. "
    "Nothing is changed, and nothing is sent but to the configured cloud. The exit status is 1 if there is a problem."
)

OPTIONS: Final[Mapping[str, str]] = {
    "--json": "Print the results as JSON.",
    "--aws": "Check a system on AWS, not the local cloud of ./scripts/run.sh.",
    "--prefix": "Check the stack on AWS with this prefix, with its settings instead of those of config.yaml.",
    "--port": "Port of the page; by default web.port of the configuration.",
}
"""The help of each option."""

CHECKS: Final[Mapping[str, Callable[[CheckedSystem], Iterable[Diagnosis]]]] = {
    "python": machine.check_python,
    "packages": machine.check_packages,
    "settings": machine.check_settings,
    "port": machine.check_port,
    "disk": machine.check_disk,
    "memory": machine.check_memory,
    "cpu": machine.check_cpu,
    "bundle": machine.check_bundle,
    "cloud": cloud.check_cloud,
    "credentials": cloud.check_credentials,
    "clock": cloud.check_clock,
    "buckets": cloud.check_buckets,
    "queues": cloud.check_queues,
    "table": cloud.check_table,
    "machines": machine.check_machines,
}
"""Each check by its name."""


def diagnose(system: CheckedSystem, *, as_json_text: bool = False) -> int:
    """Print the results of all checks of a system; return the exit status."""
    results = run_checks({name: partial(check, system) for name, check in CHECKS.items()})
    print(as_json(results) if as_json_text else as_text(results))
    return int(has_problem(results))
