"""Room for an instance: what is full here has room elsewhere."""

from typing import Any

import pytest

from localcloud.capacity import Place, room
from localcloud.options import Switches

LARGE, XLARGE = Place("c7a.large", "us-east-1a"), Place("c7a.xlarge", "us-east-1a")
LARGE_IN_B = Place("c7a.large", "us-east-1b")
SPOT = Place("c7a.large", "us-east-1b", spot=True)


@pytest.mark.parametrize(
    ("switches", "wanted", "left"),
    [
        ({}, LARGE, None),
        ({"max_instances": 5}, XLARGE, 1),
        ({"max_instances": 2}, XLARGE, 0),
        ({"capacity": {"c7a.large": 3}}, LARGE, 0),
        ({"capacity": {"c7a.large": 3}}, XLARGE, None),
        ({"capacity": {"us-east-1a": 2}}, LARGE, 0),
        ({"capacity": {"us-east-1a": 2}}, LARGE_IN_B, None),
        ({"capacity": {"c7a.large": 9, "us-east-1b": 3}}, LARGE_IN_B, 1),
        ({"spot_capacity": 1}, SPOT, 0),
        ({"spot_capacity": 1}, LARGE_IN_B, None),
        ({"spot_capacity": 4, "max_instances": 5}, SPOT, 1),
    ],
)
def test_every_limit_that_bears_on_a_place_must_leave_room(
    switches: dict[str, Any], wanted: Place, left: int | None
) -> None:
    taken = [LARGE, XLARGE, LARGE_IN_B, SPOT]
    assert room(Switches(**switches), taken, wanted) == left
