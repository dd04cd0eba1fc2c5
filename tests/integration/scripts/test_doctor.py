"""`fleetsight doctor` finds what is really broken: a port, a bundle, packages, queues, a clock, a cloud."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from app_tier.bundle import DEMO_BUNDLE
from core.config import PATH_VARIABLE, Config
from core.provision import provision
from localcloud.access_keys import owner_key
from localcloud.launch import LocalCloud
from scripts.aws.context import AwsAccount
from scripts.aws.deploy.stack import StackDescription
from scripts.doctor import checked_system, cloud, machine
from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, Verdict
from scripts.doctor.command import CHECKS
from scripts.run.system import free_port
from services.clients import Clients
from services.table import EXPIRES_AT
from tests.conftest import ROOT, ConfigMaker, write_config
from tests.support.servers import serving
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes


def doctor(
    *arguments: str, folder: Path = ROOT, **environment: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, list[dict[str, str]]]]:
    """Run the command as a user does; return the process and its results by check."""
    done = subprocess.run(
        [str(folder / "scripts" / "fleetsight"), "doctor", "--json", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        env={**os.environ, "FLEETSIGHT__WEB__PORT": str(free_port()), **environment},
    )  # fmt: skip
    results: dict[str, list[dict[str, str]]] = {}
    for each in json.loads(done.stdout)["checks"]:
        results.setdefault(each["check"], []).append(each)
    return done, results


def only(diagnoses: Iterable[Diagnosis]) -> Diagnosis:
    [found] = diagnoses
    return found


def test_this_machine_is_well_and_every_check_reports() -> None:
    done, results = doctor()
    assert done.returncode == 0, done.stdout
    assert list(results) == list(CHECKS)
    assert all((each["remedy"] == "") == (each["verdict"] == "ok") for found in results.values() for each in found)
    assert results["cloud"][0]["found"] == "the local cloud does not run; ./scripts/run.sh starts it"
    assert "workers compute in " in results["cpu"][0]["found"]


COPIED = ("app_tier", "scripts")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of which tests break copies; all else is links."""
    for entry in ROOT.iterdir():
        if entry.name not in {".fleetsight", ".git", ".venv", *COPIED}:
            (tmp_path / entry.name).symlink_to(entry)
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_before_the_set_up_the_packages_are_the_problem_and_the_machine_is_checked(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The Python on PATH has no package; the command writes nothing into the checkout."""
    python = tmp_path_factory.mktemp("bare") / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    before = sorted(checkout.rglob("*"))
    done, results = doctor(folder=checkout, PATH=f"{python.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert results["python"][0]["verdict"] == "problem"
    assert results["packages"][0]["verdict"] == "problem"
    assert "pydantic" in results["packages"][0]["found"]
    assert results["packages"][0]["remedy"].endswith("./scripts/setup.sh run")
    assert results["disk"][0]["verdict"] == "ok"
    assert "not checked" in results["settings"][0]["found"]
    assert "not checked" not in results["port"][0]["found"]
    assert list(results) == list(CHECKS)
    assert sorted(checkout.rglob("*")) == before


def test_without_any_python_that_is_new_enough_the_command_says_so(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    old = tmp_path_factory.mktemp("old")
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 15))]
    for name in names:
        (old / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
        (old / name).chmod(0o755)
    done = subprocess.run(
        [str(checkout / "scripts" / "fleetsight"), "doctor"],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        env={"PATH": f"{old}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith("problem  python    there is no Python 3.11 or newer; found Python 3.9.2\n")


def test_a_missing_package_and_one_of_another_version_are_named(checkout: Path) -> None:
    [real] = (ROOT / ".venv" / "lib").glob("python3*")
    packages = checkout / ".venv" / "lib" / real.name / "site-packages"
    packages.mkdir(parents=True)
    for entry in (real / "site-packages").glob("*.dist-info"):
        if not entry.name.startswith("pydantic-"):
            (packages / entry.name).symlink_to(entry)
    (packages / "click-1.dist-info").mkdir()
    (packages / "click-1.dist-info" / "METADATA").write_text("Name: click\nVersion: 1\n")
    for entry in packages.glob("click-8*"):
        entry.unlink()
    missing, other = machine.check_packages(CheckedSystem(checkout, {}))
    assert (missing.verdict, other.verdict) == (Verdict.PROBLEM, Verdict.WARNING)
    assert missing.found.endswith("are missing: pydantic")
    assert "click 1 instead of 8" in other.found


def test_a_python_that_does_not_run_is_a_problem(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho gone >&2; exit 127\n")
    python.chmod(0o755)
    found = only(machine.check_python(CheckedSystem(checkout, dict(os.environ))))
    assert (found.verdict, found.found) == (Verdict.PROBLEM, "the Python of .venv does not run: gone")


def test_a_wrong_setting_is_a_problem_and_checks_without_settings_still_report() -> None:
    done, results = doctor(FLEETSIGHT__FLEET__MAX_WORKERS="many")
    assert done.returncode == 1
    assert results["settings"][0]["verdict"] == "problem"
    assert "fleet.max_workers" in results["settings"][0]["found"]
    assert results["packages"][0]["verdict"] == results["disk"][0]["verdict"] == "ok"


def test_the_holder_of_the_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = only(machine.check_port(CheckedSystem(ROOT, dict(os.environ), port=port)))
    assert found.verdict is Verdict.PROBLEM
    assert f"(process {os.getpid()})" in found.found
    assert found.remedy == f"Stop it (kill {os.getpid()}), or use another port: ./scripts/run.sh --port {port + 1}"


def test_on_aws_another_machine_may_serve_the_page_so_a_held_port_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        system = CheckedSystem(ROOT, dict(os.environ), is_aws=True, port=taken.getsockname()[1])
        assert only(machine.check_port(system)).verdict is Verdict.WARNING


def test_an_address_of_another_machine_is_a_problem() -> None:
    settings = {"FLEETSIGHT__WEB__HOST": "192.0.2.1", "FLEETSIGHT__AUTH__OPEN": "true"}
    found = only(machine.check_port(CheckedSystem(ROOT, settings)))
    assert found.verdict is Verdict.PROBLEM
    assert "cannot listen on 192.0.2.1:8000" in found.found


def test_one_flipped_bit_of_the_bundle_is_found_in_a_folder_and_in_a_zip(checkout: Path) -> None:
    system = CheckedSystem(checkout, {})
    assert only(machine.check_bundle(system)).verdict is Verdict.OK
    weights = checkout / DEMO_BUNDLE.relative_to(ROOT) / "model.bin"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    archive = shutil.make_archive(str(checkout / "own"), "zip", weights.parent)
    zipped = CheckedSystem(checkout, {"FLEETSIGHT__WORKER__BUNDLE": archive})
    for found in (only(machine.check_bundle(system)), only(machine.check_bundle(zipped))):
        assert found.verdict is Verdict.PROBLEM
        assert "model.bin" in found.found
        assert "has SHA-256" in found.found


def test_a_bundle_that_no_worker_can_open_is_a_problem_of_the_cpu_check(checkout: Path) -> None:
    (checkout / DEMO_BUNDLE.relative_to(ROOT) / "bundle.json").write_text("{}")
    found = only(machine.check_cpu(CheckedSystem(checkout, dict(os.environ))))
    assert found.verdict is Verdict.PROBLEM
    assert "a worker cannot start: app_tier.bundle.BundleFormatError" in found.found


# The cloud


def checked(config: Config, folder: Path, *, is_aws: bool = False, port: int | None = None) -> CheckedSystem:
    """Return a system with a configuration, in an empty folder."""
    path = write_config(config, folder / "config.yaml")
    return CheckedSystem(folder, {**os.environ, PATH_VARIABLE: str(path)}, is_aws=is_aws, port=port)


@pytest.fixture
def system(config: Config, provisioned: Clients, tmp_path: Path) -> CheckedSystem:
    """The system of this test's configuration, with all that it names."""
    return checked(config, tmp_path)


CLOUD_CHECKS: Mapping[str, Callable[[CheckedSystem], Iterable[Diagnosis]]] = {
    name: check for name, check in CHECKS.items() if check.__module__ == cloud.__name__
}


def of_cloud(system: CheckedSystem) -> dict[str, list[Diagnosis]]:
    return {name: list(check(system)) for name, check in CLOUD_CHECKS.items()}


def test_a_provisioned_cloud_is_well(system: CheckedSystem) -> None:
    found = of_cloud(system)
    assert {each.verdict for results in found.values() for each in results} == {Verdict.OK}, found
    assert len(found["queues"]) == 3
    assert len(found["buckets"]) == 2


def test_each_missing_resource_is_a_problem_of_its_own(config: Config, cloud: LocalCloud, tmp_path: Path) -> None:
    found = of_cloud(checked(config, tmp_path))
    for name, number in (("buckets", 2), ("queues", 3), ("table", 1)):
        assert [each.verdict for each in found[name]] == [Verdict.PROBLEM] * number
        assert all("does not exist" in each.found for each in found[name])


def test_a_queue_with_a_wrong_redrive_policy_is_repaired_by_the_command_that_is_printed(
    system: CheckedSystem, config: Config, clients: Clients
) -> None:
    name = config.names.request_queue
    url = clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]
    other = clients.sqs.create_queue(QueueName=f"{name}-other")["QueueUrl"]
    arn = clients.sqs.get_queue_attributes(QueueUrl=other, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    wrong = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 50})
    clients.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": wrong, "VisibilityTimeout": "3"})
    broken, *others = cloud.check_queues(system)
    assert broken.verdict is Verdict.PROBLEM
    assert f"its dead letters go to {arn}" in broken.found
    assert "the visibility timeout is 3 s" in broken.found
    assert [each.verdict for each in others] == [Verdict.OK, Verdict.OK]

    arguments = broken.remedy.partition("--attributes '")[2].partition("'")[0]
    assert broken.remedy.startswith(f"aws sqs set-queue-attributes --queue-url {url} --attributes ")
    clients.sqs.set_queue_attributes(QueueUrl=url, Attributes=json.loads(arguments))
    assert {each.verdict for each in cloud.check_queues(system)} == {Verdict.OK}


def test_a_bucket_that_keeps_versions_and_a_table_without_expiry_are_warnings(
    system: CheckedSystem, config: Config, clients: Clients
) -> None:
    clients.s3.put_bucket_versioning(Bucket=config.names.output_bucket, VersioningConfiguration={"Status": "Enabled"})
    clients.dynamodb.update_time_to_live(
        TableName=config.names.job_table,
        TimeToLiveSpecification={"Enabled": False, "AttributeName": EXPIRES_AT},
    )
    found = of_cloud(system)
    assert [each.verdict for each in found["buckets"]] == [Verdict.OK, Verdict.WARNING]
    assert "keeps every version" in found["buckets"][1].found
    assert "no time to live" in only(found["table"]).found


def test_a_table_with_other_keys_is_a_problem(config: Config, clients: Clients, tmp_path: Path) -> None:
    clients.dynamodb.create_table(
        TableName=config.names.job_table,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    assert only(cloud.check_table(checked(config, tmp_path))).verdict is Verdict.PROBLEM


@pytest.fixture
def on_aws(
    make_config: ConfigMaker, cloud: LocalCloud, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CheckedSystem:
    """The system with the settings of AWS, which here is the local cloud."""
    config = make_config(aws={"endpoint_url": None})
    provision(clients, config)
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint_url)
    return checked(config, tmp_path, is_aws=True)


def test_on_aws_the_rules_of_the_stack_are_missed_until_they_are_there(
    on_aws: CheckedSystem, clients: Clients
) -> None:
    names = on_aws.config.names
    found = of_cloud(on_aws)
    assert only(found["credentials"]).verdict is Verdict.OK
    assert " of account 123456789012" in only(found["credentials"]).found
    assert {each.verdict for each in found["buckets"]} == {Verdict.WARNING}
    assert "no point-in-time recovery" in only(found["table"]).found
    assert only(found["table"]).remedy.endswith(" --region us-east-1")

    parts = {
        "ID": "unfinished-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    kept = {
        "ID": "unkept-images",
        "Status": "Enabled",
        "Filter": {"Tag": {"Key": "kept", "Value": "no"}},
        "Expiration": {"Days": 30},
    }
    rules: Any = {names.input_bucket: [parts, kept], names.output_bucket: [parts]}
    for bucket, own in rules.items():
        clients.s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": own})
    clients.dynamodb.update_continuous_backups(
        TableName=names.job_table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    assert {each.verdict for results in of_cloud(on_aws).values() for each in results} == {Verdict.OK}


@pytest.mark.parametrize(
    ("kind", "words"),
    [("expired", "they have expired"), ("denied", "AWS refuses them"), ("skewed", "AWS refuses the time stamp")],
)
def test_refused_credentials_are_a_problem(on_aws: CheckedSystem, cloud: LocalCloud, kind: str, words: str) -> None:
    cloud.set_switches(faults=[{"kind": kind, "service": "sts"}])
    try:
        found = only(CHECKS["credentials"](on_aws))
    finally:
        cloud.set_switches(faults=[])
    assert found.verdict is Verdict.PROBLEM
    assert words in found.found


def test_without_credentials_the_cloud_is_reached_and_the_rest_is_not_checked(
    on_aws: CheckedSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in owner_key().environment:
        monkeypatch.delenv(name)
    found = of_cloud(on_aws)
    assert only(found["credentials"]).verdict is Verdict.PROBLEM
    assert only(found["cloud"]).verdict is only(found["clock"]).verdict is Verdict.OK
    assert {each.verdict for each in (*found["buckets"], *found["queues"], *found["table"])} == {Verdict.WARNING}


def test_a_profile_that_does_not_exist_is_a_problem(on_aws: CheckedSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    found = only(CHECKS["credentials"](on_aws))
    assert found.verdict is Verdict.PROBLEM
    assert "no-such-profile" in found.found


def test_with_a_prefix_the_settings_are_those_of_the_stack(
    on_aws: CheckedSystem, cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = AwsAccount("us-east-1", None, cloud.endpoint_url)
    overrides = {"names": on_aws.config.names.model_dump(), "fleet": {"max_workers": 7}}
    account.ssm.put_parameter(Name="/doctor/config", Value=json.dumps(overrides), Type="String", Overwrite=True)
    stack = StackDescription("doctor", "id", "CREATE_COMPLETE", outputs={"ConfigParameterName": "/doctor/config"})
    monkeypatch.setattr("scripts.aws.deploy.stack.find_stack", lambda _account, name: {"doctor": stack}.get(name))
    system = CheckedSystem(ROOT, dict(os.environ), prefix="doctor")
    assert system.config.fleet.max_workers == 7
    assert only(machine.check_settings(system)).found.startswith("the stack doctor; ")
    assert {each.verdict for each in CHECKS["queues"](system)} == {Verdict.OK}

    missing = only(machine.check_settings(CheckedSystem(ROOT, dict(os.environ), prefix="other")))
    assert missing.verdict is Verdict.PROBLEM
    assert "there is no stack other in us-east-1" in missing.found


class _Stub(BaseHTTPRequestHandler):
    """Refuses each request, with a clock that is wrong."""

    ahead = timedelta()

    def do_POST(self) -> None:
        body = b"<ErrorResponse><Error><Code>MissingAuthenticationToken</Code></Error></ErrorResponse>"
        self.send_response_only(403)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.ahead, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@pytest.mark.parametrize(
    ("minutes", "verdict", "words"),
    [
        (10, Verdict.PROBLEM, "s behind http"),
        (-10, Verdict.PROBLEM, "s ahead of http"),
        (2, Verdict.WARNING, "s behind http"),
        (0, Verdict.OK, "as that of the cloud"),
    ],
)
def test_a_clock_that_is_wrong_is_found_by_the_date_of_a_reply(
    make_config: ConfigMaker, tmp_path: Path, minutes: int, verdict: Verdict, words: str
) -> None:
    handler = type("Stub", (_Stub,), {"ahead": timedelta(minutes=minutes)})
    with serving(HTTPServer(("127.0.0.1", 0), handler)) as url:
        found = only(CHECKS["clock"](checked(make_config(aws={"endpoint_url": url}), tmp_path)))
    assert found.verdict is verdict
    assert words in found.found


def test_a_cloud_that_does_not_answer_is_a_problem_and_nothing_waits_for_ever(
    make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_system, "REPLY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and reads nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = only(CHECKS["cloud"](checked(make_config(aws={"endpoint_url": url}), tmp_path)))
    assert found.verdict is Verdict.PROBLEM
    assert f"{url} does not answer" in found.found


# The local cloud of run.sh


@pytest.fixture
def started(tmp_path: Path, make_config: ConfigMaker) -> Iterator[tuple[LocalCloud, CheckedSystem]]:
    """A local cloud, with the files that `run.sh` writes for it."""
    config, port = make_config(aws={"endpoint_url": None}), free_port()
    folder = tmp_path / ".fleetsight" / f"run-{port}"
    folder.mkdir(parents=True)
    with LocalCloud(tmp_path / "state", hypervisor=False) as own:
        (folder / "endpoint").write_text(f"{own.endpoint_url}\n")
        owner_key().save(folder)
        system = checked(config, tmp_path, port=port)
        provision(system.clients, system.config)
        yield own, system


def test_the_local_cloud_of_run_sh_is_found_with_its_key_and_its_end_is_noticed(
    started: tuple[LocalCloud, CheckedSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, system = started
    for name in owner_key().environment:
        monkeypatch.delenv(name)
    found = of_cloud(CheckedSystem(tmp_path, system.environment, port=system.port))
    assert {each.verdict for results in found.values() for each in results} == {Verdict.OK}, found
    assert own.endpoint_url in only(found["cloud"]).found

    own.stop()
    found = of_cloud(CheckedSystem(tmp_path, system.environment, port=system.port))
    assert {each.verdict for results in found.values() for each in results} == {Verdict.OK}, found
    assert only(found["cloud"]).found == "the local cloud does not run; ./scripts/run.sh starts it"

    web = subprocess.Popen(
        [sys.executable, "-c", _WEB_TIER, str(system.port), machine.WEB_TIER],
        env={**os.environ, machine.ENDPOINT_VARIABLE: own.endpoint_url},
    )
    try:
        wait_until(lambda: machine.port_holder(system.page_port), "the web tier listens")
        system = CheckedSystem(tmp_path, system.environment, port=system.port)
        assert only(machine.check_port(system)).verdict is Verdict.OK
        assert only(CHECKS["cloud"](system)).verdict is Verdict.PROBLEM
        (system.run_folder / "endpoint").write_text("http://127.0.0.1:1\n")
        another = CheckedSystem(tmp_path, system.environment, port=system.port)
        assert "the web tier of another system" in only(machine.check_port(another)).found
    finally:
        web.send_signal(signal.SIGKILL)
        web.wait(DEADLINE_SECONDS)


_WEB_TIER = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Event().wait()
"""
