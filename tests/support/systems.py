"""Whole systems of real processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts.run.state import OpenState
from scripts.run.supervisor import Supervisor
from scripts.run.system import System, free_port
from tests.support.forked_system import ForkingSupervisor


@contextmanager
def running_system(
    home: Path,
    settings: Mapping[str, str] | None = None,
    *,
    state: OpenState | None = None,
    supervisor: Supervisor | None = None,
) -> Iterator[System]:
    """Run a system at a free port; its processes are forked, unless another supervisor starts them.

    Args:
        home: the folder of its files.
        settings: of the environment, above the shipped configuration.
        state: what the system keeps.
        supervisor: starts the processes.
    """
    port = {"FLEETSIGHT__WEB__PORT": str(free_port())}
    system = System(home, port | dict(settings or {}), state=state, supervisor=supervisor or ForkingSupervisor())
    try:
        system.start()
        yield system
    finally:
        system.stop()
