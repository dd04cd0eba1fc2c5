"""What the workers cost: the product's meter, ledger and spending cap, and the truth beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.config import load_config
from core.fleet.models import WorkerLimits
from core.fleet.store import FleetStore
from services.clock import Clock
from services.ec2 import Instance
from services.sqs import QueueCounts
from services.table import Table
from tests.support.autoscaler import flat_prices
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.observe import Observation
from web_tier.autoscaler.reporting import SnapshotWriter

if TYPE_CHECKING:
    from tests.simulation.data_path.world import World

BILLING_SECONDS: Final = 60.0
"""Time between two rounds of the meter, the shortest time that EC2 bills; a real one has a round every second."""

HOURLY: Final = 1.0
"""Price of a worker in US dollars."""

SETTINGS: Final = load_config(Path("config.yaml"), {}).fleet.model_copy(update={"dollars_per_day": 1_000.0})


@dataclass
class Billing:
    """The part of a controller's autoscaler that bills workers and stores the figures; the world starts workers."""

    world: "World"
    table: Table
    clock: Clock

    def __post_init__(self) -> None:
        """Continue the figures of the previous controller."""
        store = FleetStore(self.table)
        self._meter = BillingMeter(flat_prices(HOURLY), store.snapshot(), self.clock, over=store.days())
        self._writer = SnapshotWriter(store, self.clock)

    def tick(self) -> float:
        """Bill the workers that run now."""
        workers = [
            Instance(process.name, "running", "t3.micro", "a", worker.launched_at)
            for process, worker in self.world.workers.items()
        ]
        fleet = Observation(QueueCounts(len(self.world.requests.messages), 0, 0), 0, tuple(workers))
        self._meter.update(fleet)
        self.world.unseen_seconds += sum(self.world.scheduler.now - at for at in self.world.ended_at)
        self.world.ended_at.clear()
        spending = self._meter.spending(fleet, SETTINGS)
        self.world.is_capped = spending is not None and spending.reached is not None
        limits = WorkerLimits.configured(SETTINGS)
        self._writer.write(fleet, "", SETTINGS, self._meter, None, (None, limits))
        return BILLING_SECONDS
