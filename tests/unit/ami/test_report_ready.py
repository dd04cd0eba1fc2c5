"""A web instance that serves signals that to its stack, and one that never has ends itself."""

import configparser
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.stub import Stubber

from ami.files.web.opt.fleetsight import report_ready
from tests.conftest import ROOT
from tests.support.stack_template import RESOURCES
from tests.support.stubs import stubbed

STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/fs/0123"
UNITS = ROOT / "ami" / "files" / "web" / "etc" / "systemd" / "system"
SIGNAL = {
    "StackName": STACK,
    "LogicalResourceId": "WebGroup",
    "UniqueId": "i-0123456789abcdef0",
    "Status": "SUCCESS",
}


@pytest.fixture
def cloudformation() -> Iterator[Stubber]:
    with stubbed("cloudformation") as stub:
        yield stub


def send(stub: Stubber) -> bool:
    return report_ready.signal(stub.client, STACK, "i-0123456789abcdef0", "SUCCESS")


def unit(name: str) -> configparser.RawConfigParser:
    """Return a unit file; of a setting that is given twice the last counts."""
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[method-assign,assignment]
    parsed.read(UNITS / name)
    return parsed


def test_the_signal_is_of_this_instance_and_of_the_group_that_the_stack_has(cloudformation: Stubber) -> None:
    cloudformation.add_response("signal_resource", {}, SIGNAL)
    assert send(cloudformation)
    assert RESOURCES[SIGNAL["LogicalResourceId"]]["Type"] == "AWS::AutoScaling::AutoScalingGroup"


def test_a_signal_that_no_operation_of_the_stack_waits_for_is_not_sent_again(cloudformation: Stubber) -> None:
    cloudformation.add_client_error("signal_resource", "ValidationError", "cannot be signaled", 400)
    assert send(cloudformation)


@pytest.mark.parametrize("code", ["AccessDenied", "Throttling"])
def test_a_signal_that_is_refused_is_sent_again(cloudformation: Stubber, code: str) -> None:
    cloudformation.add_client_error("signal_resource", code, http_status_code=400)
    assert not send(cloudformation)


def test_the_address_is_taken_from_the_instance_that_had_it() -> None:
    wanted = {"AllocationId": "eipalloc-1", "InstanceId": "i-1", "AllowReassociation": True}
    with stubbed("ec2") as stub:
        stub.add_client_error("associate_address", "UnauthorizedOperation", expected_params=wanted)
        stub.add_response("associate_address", {"AssociationId": "eipassoc-1"}, wanted)
        assert not report_ready.take_address(stub.client, "eipalloc-1", "i-1")
        assert report_ready.take_address(stub.client, "eipalloc-1", "i-1")


def test_the_address_systemd_and_the_stack_come_only_after_the_page_answers() -> None:
    seen: list[str] = []
    answers = iter([False, False, True])

    def ask() -> bool:
        seen.append("asked")
        return next(answers)

    def send_it() -> bool:
        seen.append("sent")
        return True

    taken = iter([False, True])

    def take() -> bool:
        seen.append("takes the address")
        return next(taken)

    report_ready.report(ask, take, lambda: seen.append("active"), send_it, lambda _: None)
    assert seen == ["asked"] * 3 + ["takes the address"] * 2 + ["active", "sent"]


def test_an_instance_that_serves_but_cannot_signal_goes_on() -> None:
    waited: list[float] = []
    report_ready.report(lambda: True, lambda: True, lambda: None, lambda: False, waited.append)
    assert waited == [report_ready.RETRY_SECONDS] * report_ready.MAX_SIGNALS


def test_systemd_is_told_by_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        report_ready.tell_systemd({"NOTIFY_SOCKET": path})
        assert systemd.recv(64) == b"READY=1"


def test_without_a_stack_nothing_is_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_ready, "client_of", lambda *_: pytest.fail("no stack was named"))
    report_ready.main(["--failed"], {})


def test_a_preparation_that_fails_is_tried_again_until_the_machine_is_ended() -> None:
    prepare = unit("fleetsight-prepare.service")
    assert prepare["Service"]["Restart"] == "on-failure"
    assert prepare["Unit"]["StartLimitIntervalSec"] == "0"
    tries = int(unit("fleetsight-unstarted@ready.timer")["Timer"]["OnBootSec"]) / int(
        prepare["Service"]["RestartSec"]
    )
    assert tries >= 10


def test_the_other_units_start_only_after_the_preparation() -> None:
    started = unit("fleetsight-prepare.service")["Service"]["ExecStartPost"].split()[-4:]
    assert set(started) == {
        f"{name}.service" for name in ("fleetsight-web", "fleetsight-controller", "nginx", "fleetsight-ready")
    }
    assert "Install" not in unit("fleetsight-prepare.service"), "an instance that boots again is prepared already"


def test_the_machine_is_ended_only_where_the_page_has_not_answered_since_the_boot() -> None:
    ready = unit("fleetsight-ready.service")["Service"]
    # Active from READY=1 on, for as long as the machine runs: a crash of the web tier later changes nothing.
    assert (ready["Type"], ready["RemainAfterExit"]) == ("notify", "yes")
    common = (ROOT / "ami/files/common/etc/systemd/system/fleetsight-unstarted@.service").read_text()
    assert "\nExecCondition=/bin/sh -c '! systemctl --quiet is-active fleetsight-%i.service'\n" in common
    failed = unit("fleetsight-unstarted@ready.service.d/web.conf")["Service"]["ExecStartPre"]
    assert failed.endswith("report_ready.py --failed")
