"""What all commands about AWS share: waits, and the explanation of denied calls."""

import pytest
from botocore.exceptions import ClientError

from scripts.aws.account import explain_error
from scripts.aws.context import TimedOutError
from tests.support.aws_stage import Time


def refused(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "RunInstances")


def test_a_call_that_is_denied_is_named_with_the_remedy() -> None:
    said = explain_error(
        refused("UnauthorizedOperation", "You may not. Encoded authorization failure message: 4Q9x-_z")
    )
    assert said == (
        "AWS does not allow you to call RunInstances: have your user or role allowed that, or use another --profile "
        "(You may not.)"
    )


def test_a_denial_without_words_is_one_too() -> None:
    assert "does not allow you to call RunInstances" in explain_error(refused("403", ""))


def test_what_is_not_denied_is_said_as_it_is() -> None:
    assert explain_error(refused("Throttling", "slower")).endswith("calling the RunInstances operation: slower")
    assert explain_error(ValueError("other")) == "other"


def test_what_is_there_at_once_is_not_waited_for() -> None:
    time = Time()
    assert time.waiter.until(lambda: "it", "it", seconds=10) == "it"
    assert time.now == 0


def test_it_is_looked_for_again_and_again_until_it_comes() -> None:
    time, answers = Time(), iter([None, False, 7])
    assert time.waiter.until(lambda: next(answers), "seven", seconds=10, every=2) == 7
    assert time.now == 4


def test_what_does_not_come_in_time_is_named() -> None:
    time = Time()
    with pytest.raises(TimedOutError, match="waited 10 s in vain for the moon"):
        time.waiter.until(lambda: None, "the moon", seconds=10, every=2)
    assert time.now == 10
