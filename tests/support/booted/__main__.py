"""``python -m tests.support.booted IMAGES hypervisor …``: the local cloud with a hypervisor that boots images."""

import os
import sys
from functools import partial
from pathlib import Path

from localcloud import hypervisor
from localcloud.__main__ import main
from tests.support.booted.machines import NspawnBackend, NspawnMissingError

if __name__ == "__main__":
    os.umask(0o022)  # the users in a booted machine read the folder that is its root
    hypervisor.ProcessBackend = partial(NspawnBackend, images=Path(sys.argv[1]))  # type: ignore[assignment, attr-defined]
    try:
        main(sys.argv[2:])
    except NspawnMissingError as error:
        sys.exit(str(error))
