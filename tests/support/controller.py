"""A controller over a table, buckets and queues in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from core.config import Config
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.store import JobStore
from services.clients import Clients
from services.demand_signal import DemandListener
from services.lease import Tenure
from tests.conftest import ROOT
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.controller.leader import LoopWork
from web_tier.controller.loops import controller_loops
from web_tier.controller.services import ControllerServices

NOTHING = cast(Any, None)


@contextmanager
def loops_in_memory(config: Config, store: JobStore) -> Iterator[tuple[MemoryQueue, dict[str, LoopWork]]]:
    """Yield the queue of responses, and what each loop of a tenure does, by its name."""
    queue, bucket, responses = cast(Any, MemoryQueue()), MemoryBucket(), MemoryQueue()
    services = ControllerServices(
        config=config,
        store=store,
        requests=queue,
        responses=cast(Any, responses),
        dead_letters=queue,
        inputs=InputBucket(bucket),
        outputs=OutputBucket(bucket),
        fleet=NOTHING,
        launching=NOTHING,
        sources=NOTHING,
        signals=DemandListener(""),
        clients=Clients(config.aws.endpoint()),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("web_tier.controller.loops.replace", lambda each, **_: each)  # what is in memory has no pool
        loops = controller_loops(services, FleetConfigWatcher(ROOT / "config.yaml", config.fleet), Tenure())
    yield responses, {loop.name: loop.work for loop in loops}
    services.close()
