"""The web image boots, and what it serves through nginx works, with workers that boot their own image.

Users must sign in, as on AWS. Row 42 of the fault list: the keys of sessions are in no log, process or setting.
"""

import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from core.config import Config, parse_config
from core.provision import provision
from localcloud.machines.machine import Machine
from localcloud.tests.support.cloud_clients import CloudClients as Apis
from localcloud.tests.support.cloud_clients import launch_instances, wait_for_state
from scripts.demo_model.signs import samples
from scripts.run.sign_in import operator_token
from services.clients import Clients
from services.table import Table
from tests.conftest import shipped_values
from tests.image.machines import console_of, console_says, left_of, machine_of
from tests.support.booted.images import LocalImage
from tests.support.booted.leftovers import disk_of
from tests.support.booted.machines import BootedCloud
from tests.support.booted.network import in_network_of
from tests.support.booted.stacks import NO_STACKS
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

URL = "https://fleet.example"
SESSION_KEY = "k3y-of-sessions" * 4
CLIENT_SECRET = "s3cret-of-the-client"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class WebMachine:
    """A machine that boots the web image, seen by a client in its own network, which trusts its certificate.

    Attributes:
        signed_in: the header of an operator.
        endpoint_url: of the cloud that the machine is an instance of.
    """

    machine: Machine
    signed_in: Mapping[str, str] = field(default_factory=dict)
    endpoint_url: str = ""

    def ask(self, method: str, path: str, **options: object) -> Reply:
        """Send a user's request to port 443, as `requests` would write it, and return the whole reply."""
        return self.ask_as(self.signed_in, method, path, **options)

    def ask_as(self, who: Mapping[str, str], method: str, path: str, **options: object) -> Reply:
        """Send a request with the headers `who` besides."""
        request = requests.Request(method, URL + path, **options).prepare()
        sent = dict(request.headers) | {"Host": "fleet.example", **who}

        def send() -> Reply:
            connection = http.client.HTTPSConnection("127.0.0.1", 443, timeout=120, context=self._trust())
            try:
                connection.request(method, path, request.body, sent)
                reply = connection.getresponse()
                # Of two with one name the first counts: the cookie of the session comes before that of the device.
                headers = {name.lower(): value for name, value in reversed(reply.getheaders())}
                return Reply(reply.status, headers, reply.read())
            finally:
                connection.close()

        return in_network_of(self._pid(), send)

    def events(self, job_id: str) -> tuple[bytes, bytes]:
        """Return a job's events up to the first, as they come, and those after it until the job has ended."""

        def read() -> tuple[bytes, bytes]:
            connection = http.client.HTTPSConnection("127.0.0.1", 443, timeout=120, context=self._trust())
            try:
                headers = {"Host": "fleet.example", **self.signed_in}
                connection.request("GET", f"/api/v1/jobs/{job_id}/events", headers=headers)
                reply = connection.getresponse()
                assert reply.getheader("Content-Type", "").startswith("text/event-stream")
                first = b""
                while b"event: " not in first and (more := reply.read1()):
                    first += more
                return first, reply.read()
            finally:
                connection.close()

        return in_network_of(self._pid(), read)

    def redirect(self) -> str | None:
        """Return where port 80 leads."""

        def send() -> str | None:
            connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=120)
            try:
                connection.request("GET", "/jobs", headers={"Host": "fleet.example"})
                return connection.getresponse().getheader("Location")
            finally:
                connection.close()

        return in_network_of(self._pid(), send)

    def ready(self) -> bool:
        """Say whether the page and what it needs answer."""
        try:
            return self.ask("GET", "/api/v1/readyz").status == 200
        except OSError:
            return False

    def _pid(self) -> int:
        process = self.machine.process()
        assert process is not None
        return process.pid

    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(
            cafile=disk_of(self.machine) / "upper/etc/fleetsight/tls/certificate.pem"
        )
        context.check_hostname = False  # it names the instance
        return context


def user_data(endpoint_url: str, worker_image: LocalImage) -> str:
    """Return what the stack's user data is here: settings, then the image's own start."""
    worker = f"#!/bin/sh\nexport FLEETSIGHT__AWS__ENDPOINT_URL={endpoint_url}\nexec /opt/fleetsight/start worker\n"
    settings = {
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "FLEETSIGHT__FLEET__IMAGE_ID": worker_image.image_id,
        "FLEETSIGHT__FLEET__USER_DATA": json.dumps(worker),
        "FLEETSIGHT__WEB__HOSTS": '["fleet.example"]',
        "FLEETSIGHT__AUTH__MODE": "oidc",
        "FLEETSIGHT__AUTH__ISSUER": "https://id.example",
        "FLEETSIGHT__AUTH__CLIENT_ID": "fleetsight",
        "FLEETSIGHT_SESSION_KEYS_PARAMETER": "/fleetsight/session-keys",
        "FLEETSIGHT_CLIENT_SECRET_PARAMETER": "/fleetsight/client-secret",
        "FLEETSIGHT_STACK": "no-such-stack",
    }
    exports = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    return f"#!/bin/sh\n{exports}exec /opt/fleetsight/start web\n"


@pytest.fixture(scope="module")
def web(
    web_image: LocalImage, worker_image: LocalImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebMachine]:
    """The web instance, ready."""
    with BootedCloud(tmp_path_factory.mktemp("web"), web_image.root.parent, extensions=NO_STACKS) as cloud:
        config = config_of(cloud.endpoint_url)
        clients, apis = Clients(config.aws.endpoint()), Apis(cloud.endpoint_url)
        provision(clients, config)
        for name, value in (("session-keys", SESSION_KEY), ("client-secret", CLIENT_SECRET)):
            apis("ssm").put_parameter(Name=f"/fleetsight/{name}", Value=value, Type="SecureString")
        script = user_data(cloud.endpoint_url, worker_image)
        (instance_id,) = launch_instances(apis("ec2"), script, ImageId=web_image.image_id)
        token = operator_token(Table(clients.dynamodb, config.names.job_table))
        signed_in = {"Authorization": f"Bearer {token}"}
        machine = WebMachine(machine_of(cloud, instance_id), signed_in, cloud.endpoint_url)
        wait_until(machine.machine.process, "it has a process")
        wait_until(machine.ready, "its page answers")
        yield machine


def config_of(endpoint_url: str) -> Config:
    values = shipped_values()
    values["aws"]["endpoint_url"] = endpoint_url
    return parse_config(values)


def test_the_page_comes_through_nginx_with_its_security_headers(web: WebMachine) -> None:
    page = web.ask("GET", "/")
    assert page.status == 200
    assert b"<form" in page.body
    assert "max-age=" in page.headers["strict-transport-security"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src" in page.headers["content-security-policy"]
    assert page.headers["server"] == "nginx"


def test_the_web_instance_signals_its_stack_and_keeps_running_when_its_page_responds(web: WebMachine) -> None:
    console_says(web.machine, "no operation of the stack waits for a signal")
    assert "is switched off" not in console_of(web.machine)


def test_a_web_instance_signals_a_failure_and_powers_off_if_its_page_does_not_answer(
    web: WebMachine, web_image: LocalImage
) -> None:
    # What the timer does ten minutes after boot.
    script = (
        "#!/bin/sh\nmkdir -p /etc/fleetsight\n"
        f"echo FLEETSIGHT__AWS__ENDPOINT_URL={web.endpoint_url} >/etc/fleetsight/stack.env\n"
        "echo FLEETSIGHT_STACK=no-such-stack >>/etc/fleetsight/stack.env\n"
        "systemctl --no-block start fleetsight-unstarted@ready.service\n"
    )
    ec2 = Apis(web.endpoint_url)("ec2")
    (instance_id,) = launch_instances(
        ec2, script, ImageId=web_image.image_id, InstanceInitiatedShutdownBehavior="terminate"
    )
    wait_for_state(ec2, instance_id, "terminated")
    console = ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]
    assert "no operation of the stack waits for a signal" in console
    assert "fleetsight-ready is not active on this machine, which is switched off" in console


def test_every_file_that_the_page_names_is_served_by_nginx(web: WebMachine) -> None:
    page = web.ask("GET", "/").body.decode()
    names = set(re.findall(r'(?:href|src)="(/static/[^"?]+)', page))
    assert len(names) >= 3
    for name in sorted(names):
        found = web.ask("GET", name)
        assert (name, found.status) == (name, 200)
        assert "max-age" in found.headers["cache-control"]
        assert found.headers["x-content-type-options"] == "nosniff"


def test_port_80_leads_to_443(web: WebMachine) -> None:
    assert web.redirect() == "https://fleet.example/jobs"


def test_an_upload_is_classified_by_a_worker_instance_and_its_events_are_not_delayed(web: WebMachine) -> None:
    (sign,) = samples(1, seed=3)
    job_id = json.loads(web.ask("POST", "/api/v1/jobs", json={"name": "through nginx"}).body)["job_id"]
    upload = web.ask("POST", f"/api/v1/jobs/{job_id}/images", files={"images": (sign.filename, sign.data)})
    assert len(json.loads(upload.body)["accepted"]) == 1
    first, rest = web.events(job_id)
    assert b"event: " in first
    assert b"event: end" not in first  # nothing held it back until the job had ended
    assert b"event: end" in rest
    results = json.loads(web.ask("GET", f"/api/v1/jobs/{job_id}/results").body)
    assert [each["label"] for each in results["results"]] == [sign.label]


def test_an_upload_that_is_too_large_is_refused_by_nginx_in_the_apis_words(web: WebMachine) -> None:
    headers = {"Content-Length": str(10**12), "Content-Type": "multipart/form-data; boundary=x"}
    refused = web.ask("POST", "/api/v1/classify", headers=headers)
    assert refused.status == 413
    assert json.loads(refused.body)["type"]


def test_an_anonymous_user_is_asked_to_sign_in(web: WebMachine) -> None:
    asked = web.ask_as({}, "GET", "/jobs")
    assert (asked.status, asked.headers["location"]) == (303, "/sign-in?next=%2Fjobs")
    assert web.ask_as({}, "GET", "/api/v1/jobs").status == 401


@pytest.mark.parametrize(("name", "value"), [("session-keys", SESSION_KEY), ("client-secret", CLIENT_SECRET)])
def test_secrets_of_sign_in_are_roots_and_the_web_tiers_and_are_not_shown(
    web: WebMachine, name: str, value: str
) -> None:
    machine = web.machine
    kept = Path(disk_of(machine) / "upper/etc/fleetsight" / name)
    assert (kept.read_text(), kept.stat().st_mode & 0o777, kept.stat().st_uid) == (value, 0o600, 0)
    texts = [(disk_of(machine) / "upper/etc/fleetsight/stack.env").read_text(), console_of(machine)]
    for pid in left_of(machine.directory):
        for file in ("environ", "cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                texts.append(Path(f"/proc/{pid}/{file}").read_text(errors="replace"))
    assert any("gunicorn" in each for each in texts)
    assert not [each for each in texts if value in each]


def test_the_machine_holds_no_keys_but_those_of_its_metadata_service(web: WebMachine) -> None:
    settings = Path(disk_of(web.machine) / "upper/etc/fleetsight/stack.env").read_text()
    assert "FLEETSIGHT__AWS__ENDPOINT_URL" in settings
    assert not re.search("SECRET(?!_PARAMETER)|ACCESS_KEY|TOKEN", settings)
