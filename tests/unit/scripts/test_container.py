"""The container image and compose.yaml keep their promises, as far as they can be read without an engine."""

import re
from typing import Any

import pytest
import yaml

from core.config import load_config
from services.errors import ConfigError
from tests.conftest import ROOT, SHIPPED
from tests.support.container import ignored_patterns, stages

STAGES = stages()
IMAGE = STAGES[-1]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    [service] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    return dict(service)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.base)
def test_each_base_is_pinned_by_a_tag_and_a_digest(stage: Any) -> None:
    name, colon, tag = stage.base.partition(":")
    assert name
    assert colon
    assert re.fullmatch(r"\d+\.\d+[\w.-]*", tag), tag
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", stage.digest)


def test_the_build_context_has_no_local_files() -> None:
    local = {".git", ".venv", "**/__pycache__", ".fleetsight", ".mypy_cache", ".pytest_cache"}
    assert local <= set(ignored_patterns())


def test_the_image_has_no_secret() -> None:
    text = (ROOT / "Dockerfile").read_text() + (ROOT / "compose.yaml").read_text()
    assert not re.search(r"(?i)(secret|password|token|access_key)\w*\s*[:=]", text)
    assert not IMAGE.of("ARG")


def test_compose_publishes_the_page_on_this_machine_only(service: dict[str, Any]) -> None:
    assert service["environment"] == {"FLEETSIGHT__AUTH__OPEN": "true"}
    assert [port.partition(":")[0] for port in service["ports"]] == ["127.0.0.1"]
    assert {port.rsplit(":", 1)[1] for port in service["ports"]} == set(IMAGE.of("EXPOSE"))


def test_compose_takes_away_what_the_system_does_not_need(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert "privileged" not in service
    assert [volume.partition(":")[2] for volume in service["volumes"]] == IMAGE.of("VOLUME")
    [tmp] = service["tmpfs"]
    assert IMAGE.environment["FLEETSIGHT_HOME"].startswith(tmp.partition(":")[0])
    assert "exec" in tmp.partition(":")[2].split(",")


def test_the_image_alone_does_not_serve_other_machines_without_sign_in() -> None:
    environment = {name: value for name, value in IMAGE.environment.items() if name.startswith("FLEETSIGHT__")}
    with pytest.raises(ConfigError, match=r"without sign-in .* is served on this machine only"):
        load_config(SHIPPED, environment)
    assert load_config(SHIPPED, {**environment, "FLEETSIGHT__AUTH__OPEN": "true"}).web.host == "0.0.0.0"
