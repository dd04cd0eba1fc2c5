"""How many instances a launch starts, and that a token launches once."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from moto.ec2.exceptions import EC2ClientError

from localcloud.capacity import Place
from localcloud.instances import CONSOLE_BYTES, console_tail
from localcloud.launches import Launch, Launches, count_to_start
from localcloud.refusals import ServerError

KEY = ("account", "region", "token")
RESERVATION = SimpleNamespace(instances=[SimpleNamespace(state="running"), SimpleNamespace(state="terminated")])
PLACE = Place("c7a.large", "us-east-1b", spot=True)


@pytest.mark.parametrize(
    ("minimum", "maximum", "room", "count"),
    [(1, 5, None, 5), (1, 5, 5, 5), (1, 5, 3, 3), (2, 5, 2, 2), (1, 1, 100, 1)],
)
def test_a_launch_starts_as_many_as_there_is_room_for(
    minimum: int, maximum: int, room: int | None, count: int
) -> None:
    assert count_to_start(minimum, maximum, room, PLACE) == count


@pytest.mark.parametrize(("minimum", "maximum"), [(5, 3), (0, 3)])
def test_an_impossible_range_is_the_callers_error(minimum: int, maximum: int) -> None:
    with pytest.raises(EC2ClientError) as refused:
        count_to_start(minimum, maximum, None, PLACE)
    assert refused.value.code == "InvalidParameterValue"


@pytest.mark.parametrize(("minimum", "maximum", "room"), [(3, 5, 2), (1, 1, 0)])
def test_want_of_capacity_is_ec2s_error_and_names_type_market_and_zone(minimum: int, maximum: int, room: int) -> None:
    with pytest.raises(ServerError) as refused:
        count_to_start(minimum, maximum, room, PLACE)
    assert (refused.value.error_code, refused.value.code) == ("InsufficientInstanceCapacity", 500)
    assert "c7a.large Spot capacity in the Availability Zone you requested (us-east-1b)" in str(refused.value)


def test_a_token_gives_the_same_reservation_again() -> None:
    launches = Launches()
    assert launches.answered(KEY, "{}") is None
    launches.remember(KEY, Launch("{}", RESERVATION))
    assert launches.answered(KEY, "{}") is RESERVATION
    assert launches.answered(("account", "elsewhere", "token"), "{}") is None


def test_a_token_with_other_parameters_is_a_mismatch() -> None:
    launches = Launches()
    launches.remember(KEY, Launch("{}", RESERVATION))
    with pytest.raises(EC2ClientError, match="token") as refused:
        launches.answered(KEY, '{"MaxCount": 2}')
    assert refused.value.code == "IdempotentParameterMismatch"


def test_a_token_whose_instances_have_all_been_terminated_is_refused() -> None:
    launches, ended = Launches(), SimpleNamespace(instances=[SimpleNamespace(state="terminated")] * 2)
    launches.remember(KEY, Launch("{}", ended))
    with pytest.raises(EC2ClientError, match="use a different client token") as refused:
        launches.answered(KEY, "{}")
    assert refused.value.code == "IdempotentInstanceTerminated"


def test_only_the_end_of_a_long_console_is_read(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert console_tail(console) == b""
    console.write_bytes(b"x" * CONSOLE_BYTES + b"the end")
    tail = console_tail(console)
    assert len(tail) == CONSOLE_BYTES
    assert tail.endswith(b"the end")
