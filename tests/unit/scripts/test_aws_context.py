"""What all commands about AWS share: waits, and the explanation of denied calls."""

import pytest
from botocore.exceptions import ClientError

from scripts.aws.account import explain_error
from scripts.aws.context import TimedOutError
from tests.support.aws_stage import Time


def refused(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "RunInstances")


def test_a_denied_call_is_explained_with_the_remedy() -> None:
    output = explain_error(
        refused("UnauthorizedOperation", "You may not. Encoded authorization failure message: 4Q9x-_z")
    )
    assert output == (
        "AWS does not allow you to call RunInstances: have your user or role allowed that, or use another --profile "
        "(You may not.)"
    )


def test_a_denial_without_a_message_is_explained_too() -> None:
    assert "does not allow you to call RunInstances" in explain_error(refused("403", ""))


def test_other_errors_keep_their_message() -> None:
    assert explain_error(refused("Throttling", "slower")).endswith("calling the RunInstances operation: slower")
    assert explain_error(ValueError("other")) == "other"


def test_until_returns_at_once_if_the_condition_is_true() -> None:
    time = Time()
    assert time.waiter.until(lambda: "it", "it", seconds=10) == "it"
    assert time.now == 0


def test_until_polls_until_the_condition_is_true() -> None:
    time, answers = Time(), iter([None, False, 7])
    assert time.waiter.until(lambda: next(answers), "seven", seconds=10, every=2) == 7
    assert time.now == 4


def test_until_names_the_condition_after_a_timeout() -> None:
    time = Time()
    with pytest.raises(TimedOutError, match="waited 10 s in vain for the moon"):
        time.waiter.until(lambda: None, "the moon", seconds=10, every=2)
    assert time.now == 10
