"""What people read when AWS says no."""

from botocore.exceptions import ClientError

from scripts.aws.account import explain_error


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
