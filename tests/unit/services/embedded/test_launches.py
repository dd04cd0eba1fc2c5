"""How many instances a launch starts, and that a token launches once."""

from pathlib import Path

import pytest
from moto.ec2.exceptions import EC2ClientError

from services.embedded.instances import CONSOLE_BYTES, console_tail
from services.embedded.launches import Launch, Launches, count_to_start

KEY = ("account", "region", "token")


@pytest.mark.parametrize(
    ("minimum", "maximum", "room", "count"),
    [(1, 5, None, 5), (1, 5, 5, 5), (1, 5, 3, 3), (2, 5, 2, 2), (1, 1, 100, 1)],
)
def test_a_launch_starts_as_many_as_there_is_room_for(
    minimum: int, maximum: int, room: int | None, count: int
) -> None:
    assert count_to_start(minimum, maximum, room) == count


@pytest.mark.parametrize(
    ("minimum", "maximum", "room", "code"),
    [
        (3, 5, 2, "InsufficientInstanceCapacity"),
        (1, 1, 0, "InsufficientInstanceCapacity"),
        (5, 3, None, "InvalidParameterValue"),
        (0, 3, None, "InvalidParameterValue"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_with_ec2s_code(
    minimum: int, maximum: int, room: int | None, code: str
) -> None:
    with pytest.raises(EC2ClientError) as refused:
        count_to_start(minimum, maximum, room)
    assert refused.value.code == code


def test_a_token_gives_the_same_reservation_again() -> None:
    launches = Launches()
    assert launches.answered(KEY, "{}") is None
    launches.remember(KEY, Launch("{}", "reservation"))
    assert launches.answered(KEY, "{}") == "reservation"
    assert launches.answered(("account", "elsewhere", "token"), "{}") is None


def test_a_token_with_other_parameters_is_a_mismatch() -> None:
    launches = Launches()
    launches.remember(KEY, Launch("{}", "reservation"))
    with pytest.raises(EC2ClientError, match="token") as refused:
        launches.answered(KEY, '{"MaxCount": 2}')
    assert refused.value.code == "IdempotentParameterMismatch"


def test_only_the_end_of_a_long_console_is_read(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert console_tail(console) == b""
    console.write_bytes(b"x" * CONSOLE_BYTES + b"the end")
    tail = console_tail(console)
    assert len(tail) == CONSOLE_BYTES
    assert tail.endswith(b"the end")
