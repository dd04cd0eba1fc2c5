"""Demand signals between processes of one machine: a controller that waits for one misses none that was sent."""

from collections.abc import Iterator
from typing import Any, cast
from unittest.mock import Mock

import pytest

from core.ids import new_id
from services.demand_signal import DemandListener, SignallingQueue
from services.sqs import OutgoingMessage
from tests.support.waiting import DEADLINE_SECONDS

MESSAGE = OutgoingMessage("1", "{}")


@pytest.fixture
def url() -> str:
    return f"https://sqs/{new_id()}"


@pytest.fixture
def listener(url: str) -> Iterator[DemandListener]:
    created = DemandListener(url)
    assert created.listen()
    yield created
    created.close()


def queue(url: str, **behaviour: Any) -> SignallingQueue:
    return SignallingQueue(cast(Any, Mock(**{"send_message_batch.return_value": {}, **behaviour})), url)


def test_a_send_of_unknown_outcome_is_signalled(listener: DemandListener, url: str) -> None:
    with pytest.raises(OSError, match="lost"):
        queue(url, **{"send_message_batch.side_effect": OSError("lost")}).send([MESSAGE])
    assert listener.wait(DEADLINE_SECONDS)


def test_signals_of_other_queues_and_of_the_past_end_no_wait(listener: DemandListener, url: str) -> None:
    queue(f"{url}-other").send([MESSAGE])
    for _ in range(1_000):  # more than a socket holds
        queue(url).send([MESSAGE])
    assert listener.listen()
    assert not listener.wait(0)


def test_one_process_of_a_machine_receives_the_signals_until_it_ends(listener: DemandListener, url: str) -> None:
    standby = DemandListener(url)
    assert not standby.listen()
    assert not standby.wait(0)
    listener.close()
    assert standby.listen()
    queue(url).send([MESSAGE])
    assert standby.wait(DEADLINE_SECONDS)
    standby.close()
