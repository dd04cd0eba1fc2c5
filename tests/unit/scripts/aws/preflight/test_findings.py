"""Checks run side by side, and none of them can hold up or break the others."""

import threading

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, UnknownServiceError

from scripts.aws.preflight.findings import Finding, Level, run_checks
from tests.support.preflight import StubbedAccount

OK = Finding(Level.OK, "fine")
DENIED = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetServiceQuota")
GONE = EndpointConnectionError(endpoint_url="https://budgets.example")
UNKNOWN = UnknownServiceError(service_name="budgets", known_service_names="ec2")


@pytest.mark.parametrize(
    ("error", "words"), [(DENIED, "GetServiceQuota"), (GONE, "https://budgets.example"), (UNKNOWN, "budgets")]
)
def test_a_check_that_cannot_be_made_is_a_warning_and_the_others_are_made(error: Exception, words: str) -> None:
    def fails(_: object) -> list[Finding]:
        raise error

    (first, told), second = run_checks(StubbedAccount({}).plan(), {"quota": fails, "types": lambda _: [OK]})
    assert (first, told.level) == ("quota", Level.WARNING)
    assert told.found.startswith("cannot tell: ")
    assert words in told.found
    assert second == ("types", OK)


def test_a_check_that_gets_no_answer_in_time_is_a_warning_and_holds_up_no_other() -> None:
    never = threading.Event()

    def hangs(_: object) -> list[Finding]:
        never.wait()
        return [OK]

    (_, told), *others = run_checks(StubbedAccount({}).plan(), {"rights": hangs}, seconds=0.0)
    assert (told.level, told.found, others) == (Level.WARNING, "cannot tell: AWS did not answer within 0 s", [])
    never.set()


def test_a_mistake_in_a_check_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_checks(StubbedAccount({}).plan(), {"quota": lambda _: [OK] * (1 // 0)})


def test_a_finding_is_one_line_with_its_remedy() -> None:
    page = Finding(Level.STOP, f"<html>\n <p>{'x' * 1_000}", "Do this")
    line = page.line("mail")
    assert line.startswith("stop     mail: <html> <p>xxx")
    assert line.endswith("x…. Do this")
    assert len(line) < 700
