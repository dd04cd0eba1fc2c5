"""The audit fails on a known vulnerability, and never takes the want of data for the want of vulnerabilities."""

from collections.abc import Iterable

import pytest

from scripts import audit
from scripts.audit import AuditAnswer, NoDataError
from scripts.pin import Pin

PINS = [Pin("flask", "3.1.3"), Pin("pillow", "12.2.0")]
HARMLESS: AuditAnswer = {"name": "flask", "version": "3.1.3", "vulns": []}
BROKEN: AuditAnswer = {"name": "pillow", "version": "12.2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["12.3.0"]}]}
UNKNOWN: AuditAnswer = {"name": "pillow", "skip_reason": "not found"}


class Known:
    """What is known outside; counts what is asked for."""

    def __init__(self, *answers: AuditAnswer) -> None:
        self.answers = {answer["name"]: answer for answer in answers}
        self.asked = 0

    def __call__(self, pins: Iterable[Pin]) -> list[AuditAnswer]:
        names = [pin.name for pin in pins]
        self.asked += len(names)
        return [self.answers[name] for name in names]


def test_a_known_vulnerability_is_named_with_the_version_that_mends_it() -> None:
    assert audit.audit(PINS, Known(HARMLESS, BROKEN)) == ["pillow 12.2.0: CVE-1, mended in 12.3.0"]


def test_without_one_there_is_nothing_to_say() -> None:
    assert audit.audit(PINS, Known(HARMLESS, {**HARMLESS, "name": "pillow"})) == []


def test_a_package_that_nothing_is_known_of_is_not_passed_over() -> None:
    assert audit.audit(PINS, Known(HARMLESS, UNKNOWN)) == ["pillow: not audited: not found"]


def test_where_nothing_is_known_the_audit_is_none_and_only_one_package_is_asked_for() -> None:
    known = Known({**UNKNOWN, "name": "flask"}, UNKNOWN)
    with pytest.raises(NoDataError, match="not found"):
        audit.audit(PINS, known)
    assert known.asked == 1


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [(BROKEN, 1, "CVE-1"), ({**HARMLESS, "name": "pillow"}, 0, "no known vulnerability in 2 packages")],
)
def test_the_step_ends_with_1_for_a_known_vulnerability(
    answer: AuditAnswer, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "all_pins", lambda: {pin.name: pin for pin in PINS})
    monkeypatch.setattr(audit, "pip_audit", Known(HARMLESS, answer))
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert int(ended.value.code or 0) == status
    assert said in capsys.readouterr().out


def test_a_skipped_step_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(audit, "pip_audit", lambda pins: [{"name": "a", "skip_reason": "unreachable"}])
    audit.main()
    assert "the audit is skipped" in capsys.readouterr().out
