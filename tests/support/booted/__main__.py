"""``python -m tests.support.booted IMAGES …``: the local cloud with a hypervisor that boots images, and its guard."""

import os
import sys
from functools import partial
from pathlib import Path

from localcloud import hypervisor, parent_watch
from localcloud.__main__ import main
from localcloud.machines.machine import machines_in
from tests.support.booted.leftovers import MAX_EXIT_SECONDS, discard
from tests.support.booted.machines import NspawnBackend, NspawnMissingError

sweep = parent_watch._sweep


def sweep_and_discard(state_dir: Path) -> None:
    """End every instance, and remove what the machines leave."""
    sweep(state_dir)
    for machine in machines_in(state_dir):
        discard(machine, MAX_EXIT_SECONDS)


if __name__ == "__main__":
    os.umask(0o022)  # the users in a booted machine read the folder that is its root
    hypervisor.ProcessBackend = partial(NspawnBackend, images=Path(sys.argv[1]))  # type: ignore[assignment, attr-defined]
    parent_watch._sweep = sweep_and_discard
    try:
        main(sys.argv[2:])
    except NspawnMissingError as error:
        sys.exit(str(error))
