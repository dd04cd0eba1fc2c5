"""A real worker, ``python -m app_tier``, on a core of its own: started, looked at while it works, and ended."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cores import busy_seconds, pinned
from benchmarks.processes import usages
from benchmarks.timeline import Look
from scripts.run.system import ROOT

LOOK_SECONDS: Final = 0.1
MAX_SECONDS: Final = 180.0
"""Longest that a worker may take until it has ended by itself."""


@dataclass(frozen=True)
class Cores:
    """Where the worker runs, and where everything else of the measurement does."""

    worker: int
    others: int


@dataclass(frozen=True)
class PinnedWorker:
    """Runs one worker at a time.

    Attributes:
        cores: two different ones.
        log: a file for what the worker says.
    """

    cores: Cores
    log: Path

    def run(self, environment: Mapping[str, str], others: Mapping[str, frozenset[int]]) -> list[Look]:
        """Let a worker start, work and end by itself.

        Args:
            environment: of the worker.
            others: process ids to look at as well, by the name of what they are together.

        Returns:
            Looks at the CPU seconds of ``worker`` and of the `others`, and at those of ``worker_core`` and
            ``other_core``, by all processes.

        Raises:
            RuntimeError: it has failed, or has not ended in time.
        """
        looks = []
        with self._started(environment) as worker:
            deadline = time.monotonic() + MAX_SECONDS
            while worker.poll() is None:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the worker has not ended after {MAX_SECONDS:.0f} s: {self._end_of_log()}")
                look = self._look({"worker": frozenset({worker.pid}), **others})
                if look.cpu_seconds["worker"]:  # there is none before it runs, and none while it ends
                    looks.append(look)
                time.sleep(LOOK_SECONDS)
        if worker.returncode:
            raise RuntimeError(f"the worker ended with status {worker.returncode}: {self._end_of_log()}")
        return looks

    @contextmanager
    def _started(self, environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
        with self.log.open("wb") as log, pinned(self.cores.worker):
            worker = subprocess.Popen(
                [sys.executable, "-m", "app_tier"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        try:
            yield worker
        finally:
            worker.kill()
            worker.wait()

    def _look(self, processes: Mapping[str, frozenset[int]]) -> Look:
        cpu = {
            name: sum(usage.cpu_seconds for usage in usages(pids, below=name == "worker").values())
            for name, pids in processes.items()
        }
        cores = {"worker_core": self.cores.worker, "other_core": self.cores.others}
        return Look(time.time(), cpu | {name: busy_seconds(core) for name, core in cores.items()})

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]
