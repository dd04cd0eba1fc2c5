"""A controller as far as launches go: it observes, decides and applies on a fake EC2, with a clock that tests set."""

from collections.abc import Iterator
from datetime import timedelta

from core.config import FleetSettings
from core.fleet.models import JournalEntry
from core.fleet.store import FleetStore
from services.sqs import QueueCounts
from tests.support.autoscaler import EPOCH, Clock, FakeEC2, fleet_settings
from tests.support.memory_table import MemoryTable
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.launch_journal import Journal
from web_tier.autoscaler.launcher import MAX_BACKOFF_SECONDS, Launcher
from web_tier.autoscaler.observe import ENDED, LISTED, Observation, RecentLaunches


class Scaler:
    """One controller, or one of several that share EC2, table and clock."""

    def __init__(
        self, ec2: FakeEC2 | None = None, table: MemoryTable | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.ec2 = ec2 or FakeEC2()
        self.table = table or MemoryTable()
        self.launches = RecentLaunches(self.clock)
        self.active = True
        self.journal = Journal(
            FleetStore(self.table), clock=self.clock, now=lambda: EPOCH + timedelta(seconds=self.clock.now)
        )
        self.launcher = Launcher(self.ec2.fleet(), self.launches, self.journal, lambda: self.active, self.clock)

    def round(self, images: int, fleet: FleetSettings | None = None, *, after: float = MAX_BACKOFF_SECONDS) -> None:
        """Run a round `after` so many seconds."""
        self.clock.now += after
        self.launcher.sync_from_store()
        instances = self.ec2.fleet().instances((*LISTED, *ENDED))
        seen = Observation(QueueCounts(images, 0, 0), 0, tuple(instances), self.launches.launching(instances))
        fleet = fleet or fleet_settings()
        self.launcher.apply(decide(seen, fleet), seen, fleet)

    def problem(self) -> str | None:
        """Return why the last call failed, or None."""
        return self.launcher.last_error

    def tokens(self) -> list[str]:
        """Return the token of each launch."""
        return [call["ClientToken"] for call in self.ec2.calls]

    def journal_entries(self) -> tuple[JournalEntry, ...]:
        """Return the journal's entries, as they are stored."""
        return FleetStore(self.table).journal().entries

    def hide_launches(self) -> None:
        """Let DescribeInstances omit every instance that is launched from now on."""
        self.ec2.hidden.update(f"i-{number}" for number in range(100))


def failing(*failures: str | None) -> FakeEC2:
    """Return an EC2 with these outcomes of its next launches."""
    left: Iterator[str | None] = iter(failures)
    return FakeEC2(fail=lambda: next(left, None))
