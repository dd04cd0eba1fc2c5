"""The compute of the local EC2: runs one machine for each instance and reports its state to the cloud.

One loop reconciles the desired instances of the cloud with the running machines, so that the hypervisor may be killed
at any instruction and started again. It finds the machines of an earlier hypervisor by their directories.
"""

import logging
import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.clients import CloudUnreachableError, ControlClient, InstanceWork, NotLaunchedError
from localcloud.machines.backends import ProcessBackend
from localcloud.machines.machine import (
    BootFailedError,
    Machine,
    Process,
    end_all,
    machines_in,
)
from localcloud.parent_watch import HYPERVISOR_LOCK, file_lock

log = logging.getLogger(__name__)

LONG_POLL_SECONDS = 20.0
TICK_SECONDS = 0.2  # interval between reports that failed; without work the loop sleeps in the selector
RETRY_SECONDS = 0.2


@dataclass
class _Instance:
    machine: Machine
    generation: int
    process: Process | None = None
    child: subprocess.Popen[bytes] | None = None
    pidfd: int | None = None
    services: ExitStack | None = None
    boot_at: float | None = None
    kill_at: float | None = None
    failure: str | None = None
    reported_running: bool = False
    has_ended: bool = False  # its process has ended, or never existed
    reported_ended: bool = False

    def has_unsent_report(self) -> bool:
        """Return True if the cloud does not know the present state yet."""
        if self.has_ended:
            return not self.reported_ended
        return self.process is not None and not self.reported_running


class Hypervisor:
    """Runs the instances of one cloud, each with a folder in the state directory."""

    def __init__(
        self,
        endpoint_url: str,
        state_dir: Path,
    ) -> None:
        self._endpoint_url, self._state_dir = endpoint_url, state_dir
        self._backend = ProcessBackend(endpoint_url)
        self._grace = self._backend.grace_seconds
        self._client = ControlClient(endpoint_url)
        self._instances: dict[str, _Instance] = {}
        self._work: list[InstanceWork] | None = None
        self._updates: queue.SimpleQueue[list[InstanceWork]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        # Not an Event: a signal handler that interrupts another in `set` would wait for its lock for ever.
        self._stopping = False

    def stop(self) -> None:
        """Make `run` end every instance and return. Signal handlers may call it: it takes no locks."""
        self._stopping = True
        self._wake()

    def run(self) -> None:
        """Run the machines until `stop`, then end them.

        Raises:
            LockHeldError: another hypervisor uses this state directory.
        """
        with file_lock(self._state_dir / HYPERVISOR_LOCK):
            self._adopt()
            threading.Thread(target=self._listen, name="work", daemon=True).start()
            while not self._stopping:
                self._wait()
                self._reconcile()
            self._end_everything()

    def _adopt(self) -> None:
        """Adopt the machines of an earlier hypervisor."""
        for machine in machines_in(self._state_dir):
            instance_id, process, generation = machine.directory.name, machine.process(), 0
            with suppress(FileNotFoundError, ValueError):
                generation = int((machine.directory / "generation").read_text())
            instance = self._instances[instance_id] = _Instance(machine, generation, process)
            if process is None or not process.alive():
                instance.has_ended = True
                continue
            log.info("adopting %s, process %d", instance_id, process.pid)
            self._watch(instance, process)
            try:
                instance.services = self._backend.attach(machine, process)
            except OSError:
                log.exception("%s runs without its services, which cannot be started", instance_id)

    def _listen(self) -> None:
        """Long-poll the cloud for its instances; runs in its own thread."""
        client = ControlClient(self._endpoint_url)
        since, epoch = -1, ""
        while not self._stopping:
            try:
                answer = client.get(
                    f"instances?since={since}&epoch={epoch}&wait={LONG_POLL_SECONDS}",
                    wait_seconds=LONG_POLL_SECONDS,
                )
            except (CloudUnreachableError, NotLaunchedError) as error:
                log.warning("the cloud does not answer, trying again: %s", error)
                time.sleep(RETRY_SECONDS)
                continue
            since, epoch = answer["revision"], answer["epoch"]
            self._updates.put([InstanceWork(**item) for item in answer["instances"]])
            self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # the loop is awake already

    def _wait(self) -> None:
        """Wait until the cloud's instances change, a process ends, or an action is due."""
        now = time.monotonic()
        due = [at - now for i in self._instances.values() for at in (i.boot_at, i.kill_at) if at is not None]
        if any(i.has_unsent_report() for i in self._instances.values()):
            due.append(TICK_SECONDS)
        for key, _ in self._selector.select(max(0.0, min(due)) if due else None):
            if key.fd == self._wake_read:
                os.read(self._wake_read, 4096)
            else:
                self._ended(key.data)
        while not self._updates.empty():
            self._work = self._updates.get()

    def _reconcile(self) -> None:
        """Start and end machines so that they match the cloud's instances."""
        if self._work is None:
            return
        wanted = {work.id: work for work in self._work}
        for instance_id in [i for i in self._instances if i not in wanted]:
            instance = self._instances[instance_id]
            self._end(instance)
            if instance.has_ended:
                self._backend.discard(instance.machine)
                del self._instances[instance_id]
        for work in wanted.values():
            found = self._instances.get(work.id)
            if found is None or found.generation < work.generation:
                found = self._schedule(work)
            self._advance(work, found)

    def _schedule(self, work: InstanceWork) -> _Instance:
        instance = _Instance(Machine(self._state_dir / "instances" / work.id), work.generation)
        if work.state == "pending" or (work.state == "running" and work.stuck):
            instance.boot_at = time.monotonic() + work.boot_delay_seconds
        else:
            instance.has_ended = True  # it ran before, and its directory was removed with its process
        self._instances[work.id] = instance
        return instance

    def _advance(self, work: InstanceWork, instance: _Instance) -> None:
        if instance.boot_at is not None and work.state in {"pending", "running"}:
            if time.monotonic() >= instance.boot_at:
                instance.boot_at = None
                self._boot(work, instance)
        elif work.state in {"shutting-down", "stopping"}:
            self._end(instance)
        if instance.process and not instance.has_ended and not instance.reported_running:
            instance.reported_running = self._report(work.id, instance, "running")
        if instance.has_ended and not instance.reported_ended:
            instance.reported_ended = self._report(work.id, instance, "ended")

    def _boot(self, work: InstanceWork, instance: _Instance) -> None:
        if work.stuck:
            self._report(work.id, instance, "running")
            return
        try:
            description = self._client.get(f"instances/{work.id}")
            instance.machine.prepare()
            (instance.machine.directory / "generation").write_text(str(work.generation))
            instance.child, instance.services = self._backend.boot(instance.machine, description)
            self._watch(instance, Process.with_pid(instance.child.pid))
            instance.reported_running = self._report(work.id, instance, "running")
        except CloudUnreachableError as error:
            log.warning("%s waits for the cloud: %s", work.id, error)
            instance.boot_at = time.monotonic() + RETRY_SECONDS
        except (BootFailedError, NotLaunchedError, OSError) as error:
            log.warning("%s does not boot: %s", work.id, error)
            instance.failure = str(error)
            self._ended(instance)

    def _watch(self, instance: _Instance, process: Process | None) -> None:
        instance.process = process
        if process is None:  # the process ended before it could be identified
            self._ended(instance)
            return
        instance.pidfd = os.pidfd_open(process.pid)
        self._selector.register(instance.pidfd, selectors.EVENT_READ, instance)

    def _end(self, instance: _Instance) -> None:
        """Request a shutdown, and kill the machine after the grace period."""
        instance.boot_at = None
        if instance.has_ended or instance.process is None:
            instance.has_ended = True
            return
        now = time.monotonic()
        if instance.kill_at is None:
            instance.kill_at = now + self._grace
            self._backend.request_shutdown(instance.process)
        elif now >= instance.kill_at:
            instance.kill_at = now + self._grace
            instance.process.signal_group(signal.SIGKILL)

    def _ended(self, instance: _Instance) -> None:
        """Kill the remaining children of a process that has ended, and stop its services."""
        if instance.pidfd is not None:
            self._selector.unregister(instance.pidfd)
            os.close(instance.pidfd)
        if instance.process is not None:
            instance.process.signal_group(signal.SIGKILL)
        if instance.child is not None:
            instance.child.wait()
        if instance.services is not None:
            instance.services.close()
        instance.pidfd = instance.services = instance.kill_at = None
        instance.has_ended = True

    def _report(self, instance_id: str, instance: _Instance, event: str) -> bool:
        report: dict[str, Any] = {
            "event": event,
            "generation": instance.generation,
            "console": str(instance.machine.console),
            "failed": instance.failure,
        }
        try:
            self._client.call("POST", f"instances/{instance_id}/events", report)
        except NotLaunchedError:
            return True
        except CloudUnreachableError as error:
            log.warning("%s %s is not reported yet: %s", instance_id, event, error)
            return False
        return True

    def _end_everything(self) -> None:
        running = [instance for instance in self._instances.values() if instance.process is not None]
        deadline = time.monotonic() + self._grace
        while time.monotonic() < deadline and any(i.process is not None and i.process.alive() for i in running):
            for instance in running:
                self._end(instance)
            time.sleep(0.02)
        end_all(self._state_dir, signal.SIGKILL)
        for instance in running:
            if instance.pidfd is not None:
                self._ended(instance)
        for machine in machines_in(self._state_dir):
            self._backend.discard(machine)
