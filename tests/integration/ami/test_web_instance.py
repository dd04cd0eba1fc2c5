"""A web instance: what it prepares for nginx and the web tier, and that it signals once its page answers.

Row 42 of the fault list: nothing secret is shown, and others than root read none of it.
"""

import configparser
import http.server
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from ami.files.web.opt.fleetsight import prepare_web, report_ready
from ami.files.web.opt.fleetsight.prepare_web import (
    NotPreparedError,
    from_parameter,
    keep_pair,
    self_signed,
)
from scripts.run.system import free_port
from tests.conftest import ROOT
from tests.support.aws_stage import stubbed
from tests.support.servers import INSTANCE_ID, MetadataService, serving
from web_tier.auth.session_keys import SECRET_FILE_VARIABLE, load_client_secret
from web_tier.controller.previous_end import PREVIOUS_END, last_words

UNITS = ROOT / "ami" / "files" / "web" / "etc" / "systemd" / "system"
OPEN = {"FLEETSIGHT__AUTH__OPEN": "true"}
BALANCED = {"FLEETSIGHT_BEHIND_LOAD_BALANCER": "true"}
SIGN_IN = {
    "FLEETSIGHT__AUTH__MODE": "oidc",
    "FLEETSIGHT__AUTH__ISSUER": "https://id.example.org",
    "FLEETSIGHT__AUTH__CLIENT_ID": "example",
    "FLEETSIGHT_SESSION_KEYS_PARAMETER": "/mine/session-keys",
}
OF_A_CLIENT = {"FLEETSIGHT_CLIENT_SECRET_PARAMETER": "/mine/client-secret"}
KEYS = f"{'new' * 20}\n{'old' * 20}"
SECRET = "-----BEGIN PRIVATE KEY-----not to be shown"


def pair(folder: Path) -> tuple[str, str]:
    """Return a certificate and its key as PEM."""
    self_signed(folder)
    return (folder / "certificate.pem").read_text(), (folder / "key.pem").read_text()


def is_a_pair(folder: Path) -> bool:
    """Return whether nginx could use what is in `folder`."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return True


def test_an_instance_without_a_certificate_signs_its_own_with_a_private_key(tmp_path: Path) -> None:
    self_signed(tmp_path / "tls")
    assert is_a_pair(tmp_path / "tls")
    assert (tmp_path / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600
    shown = ("openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(tmp_path / "tls" / "certificate.pem"))
    assert "DNS:localhost" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout


def test_a_certificate_that_is_there_stays(tmp_path: Path) -> None:
    assert pair(tmp_path) == pair(tmp_path)


def test_a_key_of_another_certificate_replaces_nothing(tmp_path: Path) -> None:
    kept = pair(tmp_path / "tls")
    other, key = pair(tmp_path / "one")[0], pair(tmp_path / "other")[1]
    with pytest.raises(NotPreparedError, match="OpenSSL cannot use"):
        keep_pair(tmp_path / "tls", other, key)
    assert pair(tmp_path / "tls") == kept


@pytest.mark.parametrize(
    "value", [SECRET, json.dumps([SECRET]), json.dumps({"key": SECRET}), json.dumps({"certificate": SECRET})]
)
def test_a_parameter_that_holds_no_pair_is_named_and_not_shown(value: str) -> None:
    with pytest.raises(NotPreparedError, match="/mine/tls") as caught:
        from_parameter("/mine/tls", lambda: value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_no_pem_is_not_shown_either(tmp_path: Path) -> None:
    with pytest.raises(NotPreparedError) as caught:
        keep_pair(tmp_path, SECRET, SECRET)
    assert SECRET not in str(caught.value)
    assert not list(tmp_path.glob("*key*"))


# ---- The whole of it, in places of a test's own


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The instance's folders, somewhere else, and the project as its application."""
    (tmp_path / "app").symlink_to(ROOT)
    monkeypatch.setattr(prepare_web, "HOME", tmp_path)
    monkeypatch.setattr(prepare_web, "TLS", tmp_path / "tls")
    monkeypatch.setattr(prepare_web, "LIMITS", tmp_path / "limits.conf")
    monkeypatch.setattr(prepare_web, "LARGE_BODIES", tmp_path / "large-bodies.conf")
    monkeypatch.setattr(prepare_web, "SESSION_KEYS", tmp_path / "session-keys")
    monkeypatch.setattr(prepare_web, "CLIENT_SECRET", tmp_path / "client-secret")
    monkeypatch.setattr(prepare_web, "SIGN_IN", tmp_path / "sign-in.env")
    monkeypatch.setattr("shutil.chown", lambda *_: None)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


def test_a_setting_of_the_stack_reaches_nginx(places: Path) -> None:
    prepare_web.main(OPEN | {"FLEETSIGHT__WEB__MAX_REQUEST_BYTES": "5000"})
    assert "client_max_body_size 5000;" in (places / "large-bodies.conf").read_text()
    assert is_a_pair(places / "tls")


@pytest.mark.parametrize(("balanced", "is_trusted"), [({}, False), (BALANCED, True)])
def test_a_forwarded_address_is_trusted_only_behind_a_load_balancer(
    places: Path, balanced: dict[str, str], is_trusted: bool
) -> None:
    prepare_web.main(OPEN | balanced)
    said = (places / "limits.conf").read_text()
    assert ("set_real_ip_from 10.0.0.0/8;" in said, "real_ip_header X-Forwarded-For;" in said) == (
        is_trusted,
        is_trusted,
    )


def test_a_configuration_that_is_not_valid_stops_the_start_with_the_key(places: Path) -> None:
    with pytest.raises(NotPreparedError, match=r"web\.port"):
        prepare_web.main({"FLEETSIGHT__WEB__PORT": "none"})
    assert not (places / "tls").exists()


class Store:
    """A client of the parameter store, which holds these parameters; it refuses every call with `refusal`."""

    def __init__(self, values: dict[str, str], refusal: str = "") -> None:
        self._values, self._refusal = values, refusal

    def get_parameter(self, **asked: Any) -> Any:
        """Return the parameter as SSM does."""
        code = self._refusal if asked["Name"] not in self._values else ""
        if code or asked["Name"] not in self._values:
            raise ClientError({"Error": {"Code": code or "ParameterNotFound", "Message": "none"}}, "GetParameter")
        assert asked == {"Name": asked["Name"], "WithDecryption": True}
        return {"Parameter": {"Value": self._values[asked["Name"]]}}


def offer(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """Let botocore's clients be `store`."""
    monkeypatch.setattr(botocore.session.Session, "create_client", lambda *_, **__: store)


def test_the_parameter_is_read_decrypted(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = pair(places / "made")
    offer(monkeypatch, Store({"/mine/tls": json.dumps({"certificate": certificate, "key": key})}))
    prepare_web.main(OPEN | {"FLEETSIGHT_TLS_PARAMETER": "/mine/tls"})
    assert (places / "tls" / "certificate.pem").read_text() == certificate


def test_a_parameter_that_is_not_there_is_named(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Store({}))
    with pytest.raises(NotPreparedError, match=r"/mine/tls .*ParameterNotFound"):
        prepare_web.main(OPEN | {"FLEETSIGHT_TLS_PARAMETER": "/mine/tls"})


# ---- Who may come in


def test_a_page_without_sign_in_is_not_served_unless_the_settings_open_it(places: Path) -> None:
    with pytest.raises(NotPreparedError, match=r"auth\.mode none.*CreateUserPool=true.*auth\.open to true"):
        prepare_web.main({})
    assert not (places / "limits.conf").exists()
    prepare_web.main(OPEN)
    assert (places / "session-keys").read_text() == ""  # systemd wants a file


def test_the_keys_of_sessions_become_a_file_that_root_alone_reads(
    places: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, Store({"/mine/session-keys": KEYS}))
    prepare_web.main(SIGN_IN)
    assert (places / "session-keys").read_text() == KEYS
    assert (places / "session-keys").stat().st_mode & 0o777 == 0o600
    assert "new" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("named", "held", "message"),
    [
        ("", None, "FLEETSIGHT_SESSION_KEYS_PARAMETER names no parameter.*`fleetsight up` creates it"),
        ("/mine/session-keys", None, "/mine/session-keys .*ParameterNotFound.*creates the session keys"),
        ("/mine/session-keys", "short-secret", "/mine/session-keys .*fewer than 32 characters"),
        ("/mine/session-keys", "\n", "/mine/session-keys .*holds no key"),
    ],
    ids=["unnamed", "missing", "short", "empty"],
)
def test_without_keys_of_sessions_nothing_is_served_and_the_error_says_why(
    places: Path, monkeypatch: pytest.MonkeyPatch, named: str, held: str | None, message: str
) -> None:
    offer(monkeypatch, Store({} if held is None else {"/mine/session-keys": held}))
    with pytest.raises(NotPreparedError, match=message) as caught:
        prepare_web.main(SIGN_IN | {"FLEETSIGHT_SESSION_KEYS_PARAMETER": named})
    assert "short-secret" not in str(caught.value)
    assert not (places / "session-keys").exists()


@pytest.mark.parametrize("named", [{}, OF_A_CLIENT], ids=["user pool", "other provider"])
def test_a_client_without_a_secret_is_public(
    places: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    offer(monkeypatch, Store({"/mine/session-keys": KEYS}))
    prepare_web.main(SIGN_IN | named)
    assert (places / "client-secret").read_text() == ""  # systemd wants a file
    assert web_tiers_secret(places) is None


def test_the_secret_of_the_client_becomes_a_file_that_root_alone_reads(
    places: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, Store({"/mine/session-keys": KEYS, "/mine/client-secret": f"{SECRET}\n"}))
    prepare_web.main(SIGN_IN | OF_A_CLIENT)
    assert (places / "client-secret").stat().st_mode & 0o777 == 0o600
    assert web_tiers_secret(places) == SECRET
    assert SECRET not in "".join(capfd.readouterr()) + (places / "sign-in.env").read_text()


def web_tiers_secret(places: Path) -> str | None:
    """Return the secret that the web tier's unit is started with."""
    service = unit("fleetsight-web.service")["Service"]
    name, source = service["LoadCredential"].split(":")  # the last one
    assert (name, Path(source).name) == ("client-secret", "client-secret")
    lines = (places / "sign-in.env").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    if path := environment.get(SECRET_FILE_VARIABLE):
        # Where systemd gives a unit its credentials: https://systemd.io/CREDENTIALS/
        assert path == "/run/credentials/fleetsight-web.service/client-secret"
        environment[SECRET_FILE_VARIABLE] = str(places / "client-secret")
    return load_client_secret(environment)


def test_a_secret_that_may_not_be_read_stops_the_start(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Store({"/mine/session-keys": KEYS}, refusal="AccessDeniedException"))
    with pytest.raises(NotPreparedError, match=r"/mine/client-secret .*AccessDeniedException"):
        prepare_web.main(SIGN_IN | OF_A_CLIENT)


# ---- The end of a controller


CRITICAL = {"at": "2026-11-30T01:02:03.000+00:00", "level": "critical", "message": 'no "queue" \\ here'}
WARNING = {"level": "warning", "message": "fleet"}


@pytest.mark.parametrize(
    ("result", "code", "status", "lines", "words"),
    [
        ("success", "exited", "0", [CRITICAL], None),
        ("exit-code", "exited", "1", [CRITICAL, WARNING], 'exited 1: critical at 01:02:03 UTC: no "queue" \\ here'),
        ("exit-code", "exited", "1", [WARNING, "ValueError: no queue"], "exited 1: ValueError: no queue"),
        ("signal", "killed", "KILL", [WARNING, "ValueError: no queue"], "killed KILL"),
        ("oom-kill", "killed", "KILL", [], "killed KILL"),
    ],
)
def test_the_next_controller_gets_how_the_one_before_ended_unless_it_was_stopped(
    tmp_path: Path, result: str, code: str, status: str, lines: list[dict[str, str] | str], words: str | None
) -> None:
    written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (tmp_path / "log").write_text("".join(f"{line}\n" for line in written))
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\ncat {tmp_path / 'log'}\n")
    (tmp_path / "journalctl").chmod(0o700)
    ended = {"SERVICE_RESULT": result, "EXIT_CODE": code, "EXIT_STATUS": status, "INVOCATION_ID": "1"}
    environment = {**ended, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ROOT / "ami" / "files" / "web" / "opt" / "fleetsight" / "controller-end"
    command = ["sh", str(script), str(tmp_path / "end")]
    subprocess.run(command, env=environment, check=True)
    if words is None:
        assert not (tmp_path / "end").exists()
        return
    name, _, value = (tmp_path / "end").read_text().strip().partition("=")
    assert name == PREVIOUS_END
    # systemd unescapes backslashes in a value without quotes around it.
    assert last_words(value.replace("\\\\", "\\")) == words


# ---- Signals

STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/fs/0123"


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


@pytest.mark.parametrize(
    ("code", "is_done"), [("ValidationError", True), ("AccessDenied", False), ("Throttling", False)]
)
def test_a_rejected_signal_is_sent_again_unless_no_operation_waits_for_it(
    cloudformation: Stubber, code: str, is_done: bool
) -> None:
    cloudformation.add_client_error("signal_resource", code, "cannot be signaled", 400)
    assert send(cloudformation) is is_done


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


def test_systemd_is_notified_by_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        report_ready.notify_systemd({"NOTIFY_SOCKET": path})
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


class Page(http.server.ThreadingHTTPServer):
    """A page with a certificate of its own; a test says how healthy it is."""

    status = 200


class Handler(http.server.BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    page = Page(("127.0.0.1", 0), Handler)
    page.socket = context.wrap_socket(page.socket, server_side=True)
    with serving(page):
        yield page


@pytest.mark.parametrize(("status", "answers"), [(200, True), (502, False)])
def test_the_page_answers_when_it_is_healthy(page: Page, status: int, answers: bool) -> None:
    page.status = status
    assert report_ready.page_answers(port=page.server_port) is answers


def test_where_nothing_listens_yet_the_page_does_not_answer() -> None:
    assert not report_ready.page_answers(port=free_port())


def test_the_instance_signals_under_its_own_id_and_in_its_own_region(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str | None]] = []
    with MetadataService.serve() as metadata, stubbed("cloudformation") as stub:
        metadata.answers["placement/region"] = [(200, "eu-central-1")]
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        wanted = {"StackName": "fs", "LogicalResourceId": "WebGroup", "UniqueId": INSTANCE_ID, "Status": "FAILURE"}
        stub.add_response("signal_resource", {}, wanted)

        def client_of(service: str, region: str, endpoint_url: str | None) -> Any:
            asked.append((service, region, endpoint_url))
            return stub.client

        monkeypatch.setattr(report_ready, "client_of", client_of)
        report_ready.main(["--failed"], {"FLEETSIGHT_STACK": "fs"})
    assert asked == [("cloudformation", "eu-central-1", None)]


def test_without_metadata_the_program_reports_it_and_does_not_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MetadataService.serve() as metadata:
        metadata.token_status = 500
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        report_ready.main(["--failed"], {"FLEETSIGHT_STACK": "fs", "FLEETSIGHT__AWS__REGION": "us-east-1"})
    assert "answered 500" in capsys.readouterr().out
