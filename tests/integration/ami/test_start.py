"""`/opt/fleetsight/start ROLE`: settings of the user data to files, then units."""

import configparser
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import botocore.session
import pytest

from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

FILES = ROOT / "ami" / "files"
ROLE_ARN = "arn:aws:iam::123456789012:role/fleetsight-ControllerRole-1A"


@dataclass(frozen=True)
class Prefix:
    """Where `start` finds and leaves its files, instead of /opt and /etc."""

    root: Path
    role: str

    @property
    def etc(self) -> Path:
        """Instead of /etc/fleetsight."""
        return self.root / "etc"

    @property
    def home(self) -> Path:
        """Instead of /opt/fleetsight."""
        return self.root / "home"

    def prepare(self) -> "Prefix":
        """Make an image of `role`, as far as `start` sees it."""
        (self.home / "venv" / "bin").mkdir(parents=True)
        (self.root / "bin").mkdir()
        about = {"role": self.role, "version": "1", "commit": "c", "bundle": "d", "engine": "openvino"}
        (self.home / "version.json").write_text(json.dumps(about))
        self.command(self.root / "bin" / "systemctl")
        self.command(self.home / "venv" / "bin" / "python")
        return self

    def command(self, path: Path, then: str = "") -> None:
        """Put a command there that notes its arguments."""
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >>{self.root}/called\n{then}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        """Return the commands that were called."""
        path = self.root / "called"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `start` with these settings in its environment."""
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "FLEETSIGHT_START_ETC": str(self.etc),
            "FLEETSIGHT_START_HOME": str(self.home),
            "FLEETSIGHT_START_AGENT": str(self.etc / "cloudwatch-agent.json"),
            **settings,
        }
        script = FILES / "common" / "opt" / "fleetsight" / "start"
        command = ("bash", str(script), *arguments)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
        )


@pytest.fixture
def worker(tmp_path: Path) -> Prefix:
    """An image of the workers."""
    return Prefix(tmp_path, "worker").prepare()


@pytest.fixture
def web(tmp_path: Path) -> Prefix:
    """An image of the web instance."""
    return Prefix(tmp_path, "web").prepare()


def read_back(path: Path, name: str) -> str:
    """Return a setting as a shell reads it; systemd has the same quotes (man 5 systemd.exec)."""
    script = f'. {path}; printf %s "${name}"'
    return subprocess.run(("sh", "-c", script), env={}, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "value", ["plain", "[subnet-1, subnet-2]", 'a "quoted" word', "a $HOME `id` \\ '", "", "mit Ümlaut"]
)
def test_a_setting_reaches_the_units_as_it_was(worker: Prefix, value: str) -> None:
    done = worker.start("worker", FLEETSIGHT__NAMES__INPUT_BUCKET=value)
    assert done.returncode == 0, done.stderr
    assert read_back(worker.etc / "stack.env", "FLEETSIGHT__NAMES__INPUT_BUCKET") == value


def test_what_is_not_ours_stays_out_of_the_units_environment(worker: Prefix) -> None:
    worker.start("worker", AWS_SECRET_ACCESS_KEY="secret", FLEETSIGHT_LOGS="/mine")
    kept = (worker.etc / "stack.env").read_text()
    assert kept.splitlines() == ['FLEETSIGHT_LOGS="/mine"']


@pytest.mark.parametrize(
    ("role", "name", "value"),
    [
        ("worker", "FLEETSIGHT__WEB__HOST", "a\nFLEETSIGHT__WEB__PORT=1"),  # would be two settings
        ("web", "FLEETSIGHT__AWS__REGION", "a b"),
        ("web", "FLEETSIGHT__AWS__ENDPOINT_URL", "http://a b"),
        ("web", "FLEETSIGHT__AWS__ENDPOINT_URL", "ftp://a"),
        ("web", "FLEETSIGHT_CONTROLLER_ROLE", "no-arn"),
        ("web", "FLEETSIGHT_CONTROLLER_ROLE", f"{ROLE_ARN}\nendpoint_url = http://evil.example"),
        *[("worker", "FLEETSIGHT_LOGS", group) for group in ('/a"b', "/a|b", "/a/", "//", "/a b")],
    ],
)
def test_a_setting_that_would_mean_something_else_is_rejected_and_nothing_starts(
    tmp_path: Path, role: str, name: str, value: str
) -> None:
    image = with_agents(Prefix(tmp_path, role).prepare())
    done = image.start(role, **{name: value})
    assert done.returncode == 1
    assert name in done.stderr
    assert "has a control character" in done.stderr or "HOST" not in name
    assert image.called() == []


def test_a_worker_is_enabled_for_the_next_boot_and_started_without_being_waited_for(worker: Prefix) -> None:
    assert worker.start("worker").returncode == 0
    assert worker.called() == [
        "systemctl --quiet --no-reload enable fleetsight-worker.service",
        "systemctl --no-block start fleetsight-worker.service",
    ]


def test_a_web_instance_starts_the_unit_that_prepares_it_and_enables_nothing_before(web: Prefix) -> None:
    assert web.start("web").returncode == 0
    assert web.called() == ["systemctl --no-block start fleetsight-prepare.service"]


def test_the_controller_assumes_its_own_role_as_botocore_reads_it(web: Prefix) -> None:
    web.start("web", FLEETSIGHT_CONTROLLER_ROLE=ROLE_ARN)
    profile = configparser.ConfigParser()
    profile.read(web.etc / "aws-controller")
    assert dict(profile["default"]) == {
        "role_arn": ROLE_ARN,
        "credential_source": "Ec2InstanceMetadata",
        "role_session_name": "controller",
    }


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [("", "https://sts.eu-central-1.amazonaws.com"), ("http://127.0.0.1:5000", "http://127.0.0.1:5000")],
    ids=["aws", "embedded"],
)
def test_the_controllers_role_is_asked_of_the_cloud_that_the_stack_is_on(
    web: Prefix, monkeypatch: pytest.MonkeyPatch, endpoint: str, expected: str
) -> None:
    settings = {"FLEETSIGHT__AWS__REGION": "eu-central-1"} | (
        {"FLEETSIGHT__AWS__ENDPOINT_URL": endpoint} if endpoint else {}
    )
    web.start("web", FLEETSIGHT_CONTROLLER_ROLE=ROLE_ARN, **settings)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(web.etc / "aws-controller"))
    assert botocore.session.get_session().create_client("sts").meta.endpoint_url == expected


def test_without_a_role_of_its_own_the_controller_has_the_instances(web: Prefix) -> None:
    web.start("web")
    assert (web.etc / "aws-controller").read_text() == "[default]\n"


@pytest.mark.parametrize("arguments", [(), ("web",), ("worker", "web"), ("nothing",), ("",)])
def test_another_role_than_the_images_is_refused(worker: Prefix, arguments: tuple[str, ...]) -> None:
    done = worker.start(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("fleetsight: not started: ")
    assert worker.called() == []


# ---- With CloudWatch's agent in the image


def with_agents(prefix: Prefix) -> Prefix:
    """Add to an image what `provision.sh --agents` does."""
    shutil.copy(FILES / "agents" / "opt" / "fleetsight" / "start-logs", prefix.home)
    (prefix.home / "start-logs").chmod(0o755)
    shutil.copy(FILES / f"agents-{prefix.role}" / "opt" / "fleetsight" / "cloudwatch-agent.json", prefix.home)
    return prefix


def collected(prefix: Prefix) -> dict[str, str]:
    """Return the log group of each file that the agent reads."""
    said = json.loads((prefix.etc / "cloudwatch-agent.json").read_text())
    files = said["logs"]["logs_collected"]["files"]["collect_list"]
    return {each["file_path"]: each["log_group_name"] for each in files}


def test_a_workers_lines_go_to_its_stacks_log_group(worker: Prefix) -> None:
    assert with_agents(worker).start("worker", FLEETSIGHT_LOGS="/mine").returncode == 0
    assert collected(worker) == {"/var/log/fleetsight/worker.log": "/mine/worker"}
    assert "systemctl --no-block start fleetsight-logs@worker.service fleetsight-agent.service" in worker.called()


def test_the_web_instances_lines_go_to_two_log_groups(web: Prefix) -> None:
    assert with_agents(web).start("web", FLEETSIGHT_LOGS="/mine").returncode == 0
    assert collected(web) == {
        "/var/log/fleetsight/web.log": "/mine/web",
        "/var/log/fleetsight/controller.log": "/mine/controller",
    }
    units = "fleetsight-logs@web.service fleetsight-logs@controller.service fleetsight-agent.service"
    assert f"systemctl --no-block start {units}" in web.called()


def test_without_log_groups_nothing_is_sent(worker: Prefix) -> None:
    assert with_agents(worker).start("worker").returncode == 0
    assert not (worker.etc / "cloudwatch-agent.json").exists()
    assert not any("agent" in line for line in worker.called())
