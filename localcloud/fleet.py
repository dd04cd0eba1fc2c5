"""The instances of the local EC2 between the API, which asks, and the hypervisor, which does.

moto's instance objects stay what the API shows; this is their life: pending until a process runs, shutting-down or
stopping until it has ended. The hypervisor long-polls `pending_work` and reports what happened. Methods are atomic.
"""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from localcloud.capacity import Place, room
from localcloud.eventual_consistency import ValueHistory
from localcloud.faults import CallFaults
from localcloud.options import Switches, rules_of
from localcloud.records import Record, Stock, UnknownInstanceError, Work

STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
INSTANCE_INITIATED = "Client.InstanceInitiatedShutdown", "Instance initiated shutdown"
BOOT_FAILED = "Server.InternalError"
SPOT_TERMINATION = "Server.SpotInstanceTermination", "Spot instance termination"
SLOW_BOOT_EVERY = 10


def _later(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


@dataclass
class Fleet:
    """All instances that were launched, in any account and region.

    Args:
        compute: instances are processes; without it they run at once, as in stock moto.
        switches: faults and delays.
        call_faults: which calls meet which fault, as the switches say.
        later: calls something in so many seconds.
        clock: monotonic seconds, for answers that lag.
    """

    compute: bool = True
    switches: Switches = field(default_factory=Switches)
    call_faults: CallFaults = field(default_factory=CallFaults)
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    later: Callable[[float, Callable[[], None]], None] = _later
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Start empty."""
        self._changed = threading.Condition(threading.RLock())
        self._records: dict[str, Record] = {}
        self._revision = self._boots = 0
        self._stuck_owed = 0.0
        self._closed = False
        self._stock: Stock | None = None

    def use(self, stock: Stock) -> None:
        """Say how instances end; called once, when moto's EC2 is mended."""
        self._stock = stock

    def hold(self) -> AbstractContextManager[Any]:
        """Keep the hypervisor from seeing launches until they are complete."""
        return self._changed

    def set_switches(self, switches: Switches) -> None:
        """Replace the switches for what happens from now on."""
        with self._changed:
            self.switches = switches
        self.call_faults.set_rules(rules_of(switches.faults), switches.fault_seed)

    def take(self, name: str) -> bool:
        """Return True if a fault is due now, of which the switch `name` counts how many are to come, and count it."""
        with self._changed:
            left = getattr(self.switches, name)
            if left > 0:
                self.switches = self.switches.changed({name: left - 1})
            return bool(left > 0)

    def room(self, wanted: Place) -> int | None:
        """Instances that may still be started at a place, or None without a limit."""
        with self._changed:
            instances = [record.instance for record in self._records.values()]
            taken = [Place.of(one) for one in instances if one.state not in {"terminated", "stopped"}]
            return room(self.switches, taken, wanted)

    def note(self, instance_id: str) -> None:
        """Remember what the API shows of an instance from now on; unknown ones, such as volumes, are none of ours."""
        with self._changed:
            if self._stock is not None and (record := self._records.get(instance_id)) is not None:
                record.past.record(self._stock.seen(record.instance))

    def boot(self, instance: Any) -> None:
        """Let an instance boot: a new one, or a stopped one again."""
        with self._changed:
            record = self._records.setdefault(instance.id, Record(instance, ValueHistory(clock=self.clock)))
            if not self.compute:
                self.note(instance.id)
                return
            self._boots += 1
            record.generation += 1
            record.notice = None
            slow = self._boots % SLOW_BOOT_EVERY == 0
            tail = self.switches.boot_delay_tail_seconds if slow else 0.0
            record.boot_delay_seconds = self.switches.boot_delay_seconds + tail
            self._stuck_owed += self.switches.stuck_boot_fraction
            record.stuck = self._stuck_owed >= 1
            self._stuck_owed -= record.stuck
            self._set_state(instance, "pending")

    def end(self, instance: Any, goal: str, finish: Callable[[], Any]) -> None:
        """Begin to end an instance; `finish` is what moto does, at once where there is no process to wait for.

        Args:
            instance: moto's object.
            goal: ``shutting-down`` or ``stopping``.
            finish: marks it terminated or stopped, at the latest when its process has ended.
        """
        with self._changed:
            has_process = instance.state in {"pending", "running", "stopping"}
            if not self.compute or instance.id not in self._records or not has_process:
                finish()
                self._notify(instance)
            elif instance.state != goal:
                self._set_state(instance, goal)

    def running(self, instance_id: str, generation: int, console: str | None) -> None:
        """Note that the process of a boot runs.

        Raises:
            UnknownInstanceError: no such instance.
        """
        with self._changed:
            record = self.record(instance_id)
            if record.generation == generation:
                record.console = console
                if record.instance.state == "pending":
                    self._set_state(record.instance, "running")
                    self._plan_interruption(record)

    def ended(self, instance_id: str, generation: int, *, failed: str | None, console: str | None) -> None:
        """Note that the process of a boot has ended, or could not start, and finish what follows from it.

        Args:
            instance_id: which instance.
            generation: which boot; a report about an earlier one changes nothing.
            failed: why it could not start, or None.
            console: path of its console log.

        Raises:
            UnknownInstanceError: no such instance.
        """
        with self._changed:
            record = self.record(instance_id)
            instance, stock = record.instance, self._stock
            if record.generation != generation or stock is None:
                return
            record.console = console or record.console
            if instance.state == "shutting-down":
                self._finish(instance, stock.terminate, record.reason)
            elif instance.state == "stopping":
                self._finish(instance, stock.stop, None)
            elif instance.state in {"pending", "running"}:
                self._ended_by_itself(instance, stock, failed)

    def spot_notice(self, instance_id: str, action: str, seconds: float) -> None:
        """Give an instance the notice that it will be interrupted in so many seconds; then it is.

        Raises:
            UnknownInstanceError: no such instance.
        """
        with self._changed:
            record = self.record(instance_id)
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
            record.notice = {"action": action, "time": when}
            generation = record.generation
        self.later(seconds, lambda: self._interrupt(record.instance, generation))

    def record(self, instance_id: str) -> Record:
        """Return what is known of an instance.

        Raises:
            UnknownInstanceError: no such instance.
        """
        with self._changed:
            if instance_id not in self._records:
                raise UnknownInstanceError(f"no instance {instance_id} was launched here")
            return self._records[instance_id]

    def pending_work(self, since: int, wait_seconds: float) -> tuple[int, list[Work]]:
        """Wait until the revision is not `since`; return it with every instance that is not terminated.

        A stopped one has no process, and a disk that must be kept.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._revision != since, wait_seconds)
            return self._revision, [
                Work(r.instance.id, r.instance.state, r.generation, r.stuck, r.boot_delay_seconds)
                for r in self._records.values()
                if r.generation and r.instance.state != "terminated"
            ]

    def close(self) -> None:
        """End the long polls, so that the server can stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ended_by_itself(self, instance: Any, stock: Stock, failed: str | None) -> None:
        stops = instance.instance_initiated_shutdown_behavior == "stop" and failed is None
        code, message = (BOOT_FAILED, failed) if failed else INSTANCE_INITIATED
        self._finish(instance, stock.stop if stops else stock.terminate, (code, message))

    def _finish(self, instance: Any, action: Callable[[Any], Any], reason: tuple[str, str | None] | None) -> None:
        action(instance)
        if reason is not None:
            instance._reason = ""
            instance.state_reason.code = reason[0]
            instance.state_reason.message = f"{reason[0]}: {reason[1]}"
        self._notify(instance)

    def _plan_interruption(self, record: Record) -> None:
        """Let a Spot instance get its notice by itself, if the switch says so."""
        after, seconds = self.switches.spot_notice_after_seconds, self.switches.spot_notice_seconds
        if after is None or record.instance.lifecycle != "spot":
            return
        instance, generation = record.instance, record.generation

        def give_notice() -> None:
            if record.generation == generation and instance.state == "running":
                self.spot_notice(instance.id, "terminate", seconds)

        self.later(after, give_notice)

    def _interrupt(self, instance: Any, generation: int) -> None:
        with self._changed:
            record = self.record(instance.id)
            if record.generation == generation and instance.state in {"pending", "running"}:
                record.reason = SPOT_TERMINATION
                self._set_state(instance, "shutting-down")

    def _set_state(self, instance: Any, state: str) -> None:
        instance._state.name, instance._state.code = state, STATE_CODES[state]
        self._notify(instance)

    def _notify(self, instance: Any) -> None:
        self.note(instance.id)
        self._revision += 1
        self._changed.notify_all()


fleet = Fleet()
"""The fleet of this process; one cloud is one process."""
