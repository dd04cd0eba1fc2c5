"""One round: a failed look decides nothing, and is shown."""

from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from services.sqs import Queue
from tests.unit.web_tier.controller.autoscaler.test_board import Shown
from tests.unit.web_tier.controller.autoscaler.test_decide import limits
from tests.unit.web_tier.controller.autoscaler.test_observe import FakeSQS
from tests.unit.web_tier.controller.fakes import Clock, FakeEC2, refusal
from web_tier.controller.autoscaler.apply import Launcher
from web_tier.controller.autoscaler.autoscaler import Autoscaler
from web_tier.controller.autoscaler.board import Board
from web_tier.controller.autoscaler.meter import Meter
from web_tier.controller.autoscaler.observe import Observer, RecentLaunches
from web_tier.controller.limits import FleetLimits


def test_a_failed_look_launches_nothing_and_is_shown_until_the_next_succeeds(tmp_path: Path) -> None:
    clock, ec2, sqs, shown = Clock(), FakeEC2(), FakeSQS(20), Shown()
    launches = RecentLaunches(clock)
    queue = Queue(cast(Any, sqs), "requests")
    autoscaler = Autoscaler(
        limits=FleetLimits(tmp_path / "none.yaml", limits()),
        observer=Observer(queue, queue, ec2.fleet(), launches, clock),
        launcher=Launcher(ec2.fleet(), launches, "holder", lambda: True, clock),
        meter=Meter(60, clock=clock),
        board=Board(shown, clock),
        interval_seconds=0.1,
    )
    assert autoscaler.tick() == 0.1
    assert len(ec2.alive()) == 2
    ec2.states.clear()
    sqs.error, sqs.visible = refusal("InternalError", "GetQueueAttributes"), 400
    clock.now += 1
    with pytest.raises(ClientError):
        autoscaler.tick()
    assert ec2.alive() == []
    assert "could not be observed" in str(shown.snapshots[-1].problem)
    sqs.error = None
    clock.now += 1
    autoscaler.tick()
    assert shown.snapshots[-1].problem is None
