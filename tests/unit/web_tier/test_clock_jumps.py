"""Row 63: whatever the machine's clock shows, a controller counts, caps and deletes as if it were right."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import FleetDay
from core.ids import first_id_of
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.lease import Tenure
from services.sqs import QueueCounts
from tests.support.autoscaler import flat_prices, fleet_settings, fleet_snapshot, instance
from tests.support.clocks import YEAR, PlayedClock, World
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.observe import Observation
from web_tier.controller.cleanup import JobExpiry

HOUR, DAY = 3_600.0, 86_400.0
CAPPED = fleet_settings(dollars_per_day=1.0, dollars_per_month=9.0)


@dataclass
class Controller:
    """The meter and the expiry of one tenure after the other, on a machine of a `world`."""

    world: World = field(default_factory=World)
    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    days: dict[date, FleetDay] = field(default_factory=dict)
    launched_at: datetime | None = None
    meter: BillingMeter = field(init=False)
    expiry: JobExpiry = field(init=False)

    def __post_init__(self) -> None:
        self.world.reply()
        now = self.world.clock.utc_now()
        for age in range(9):
            at = now - timedelta(days=age)
            self.store.create(Job(f"{first_id_of(at)[:20]}{age:06}", "job", at))
        self.take_over()

    def take_over(self) -> None:
        """Start another controller, which makes a call before it reads anything."""
        before = None
        if hasattr(self, "meter"):
            bill = self.meter.bill
            before = fleet_snapshot(
                self.world.clock.utc_now(),
                running=int(self.launched_at is not None),
                billed_seconds=bill.seconds,
                cost=bill.dollars,
                today=self.meter.daily.today,
            )
        self.world.start()
        self.world.reply()
        clock = PlayedClock(lambda: self.world.boot, self.world.clock.utc_now)
        over = tuple(self.days.values())
        self.meter = BillingMeter(flat_prices(0.36), before, clock, over=over)
        self.expiry = JobExpiry(self.store, timedelta(days=7), Tenure(), clock)

    def round(self, *, has_worker: bool) -> tuple[object, ...]:
        """Run a round; return everything that depends on the time."""
        self.world.reply()
        if not has_worker:
            self.launched_at = None
        elif self.launched_at is None:
            self.launched_at = datetime.fromtimestamp(self.world.true, UTC)
        workers = () if self.launched_at is None else (instance("i-0", launched_at=self.launched_at),)
        fleet = Observation(QueueCounts(int(has_worker), 0, 0), 0, workers)
        self.meter.update(fleet)
        for day in self.meter.daily.unsaved():
            self.days[day.day] = day
            self.meter.daily.mark_saved(day)
        self.expiry.tick()
        jobs = [job.job_id for job in self.store.jobs_until(datetime.fromtimestamp(self.world.true, UTC))]
        spending, period = self.meter.spending(fleet, CAPPED), self.meter.attribution.current
        return self.meter.daily.today, self.days.copy(), spending, period, self.meter.bill, jobs


_steps = st.lists(
    st.tuples(
        st.sampled_from((1.0, 60.0, 3 * HOUR, 11 * HOUR)),  # time that passes
        st.sampled_from(
            (0.0, 0.0, HOUR, -HOUR, 9 * DAY, -40 * DAY, YEAR, -YEAR, 20 * YEAR)
        ),  # the error of the clock
        st.booleans(),  # a worker runs
        st.booleans(),  # another controller takes over
    ),
    max_size=25,
)


@given(_steps)
def test_jumps_of_the_clock_change_no_day_cap_bill_or_deletion(steps: list[tuple[float, float, bool, bool]]) -> None:
    right, jumping = Controller(), Controller()
    for seconds, wrong_by, has_worker, changes in steps:
        jumping.world.wrong_by = wrong_by
        found = []
        for each in (right, jumping):
            each.world.wait(seconds)
            if changes:
                each.take_over()
            found.append(each.round(has_worker=has_worker))
        assert found[0] == found[1]
