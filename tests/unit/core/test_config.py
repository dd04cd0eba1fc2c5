"""Configuration: every fault is named with its key, its value and what is allowed."""

from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import (
    AUTO_MAX_WORKERS,
    AUTO_WORKERS_VARIABLE,
    PREFIX,
    Config,
    config_path,
    is_granted,
    load_config,
    parse_config,
    zone_named,
)
from core.s3_locations import S3Location
from services.errors import ConfigError
from tests.conftest import SHIPPED, shipped_values


def changed(section: str, key: str, value: object) -> dict[str, Any]:
    values = shipped_values()
    values[section][key] = value
    return values


def fault(values: object, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, environment)
    return str(caught.value)


def test_the_shipped_file_is_valid_and_says_what_every_key_means() -> None:
    config = load_config(SHIPPED, {})
    assert config.fleet.max_workers == 19
    for section, keys in config.model_dump().items():
        assert set(shipped_values()[section]) == set(keys), "no key is left to a hidden default"


@pytest.mark.parametrize(
    ("value", "environment", "expected"),
    [
        ("auto", {}, AUTO_MAX_WORKERS),
        ("auto", {AUTO_WORKERS_VARIABLE: "2"}, 2),
        (7, {f"{PREFIX}FLEET__MAX_WORKERS": "auto", AUTO_WORKERS_VARIABLE: "2"}, 2),
        ("auto", {f"{PREFIX}FLEET__MAX_WORKERS": "7", AUTO_WORKERS_VARIABLE: "2"}, 7),
        (7, {AUTO_WORKERS_VARIABLE: "2"}, 7),
    ],
)
def test_the_automatic_maximum_of_workers_is_that_of_the_machine(
    value: object, environment: dict[str, str], expected: int
) -> None:
    assert parse_config(changed("fleet", "max_workers", value), environment).fleet.max_workers == expected


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("fleet", "max_workers", -1, ["fleet.max_workers = -1", "greater than or equal to 0"]),
        ("fleet", "max_workers", "many", ["fleet.max_workers = 'many'", "must be an integer"]),
        ("fleet", "instance_types", [], ["fleet.instance_types", "name at least one instance type"]),
        ("fleet", "instance_type", "c7a.large", ["fleet.instance_type: unknown key (value 'c7a.large')"]),
        ("fleet", "user_data", "echo", ["fleet.user_data = 'echo'", "^#!"]),
        (
            "queues",
            "max_message_bytes",
            1_023,
            ["queues.max_message_bytes = 1023", "1,024 to 1,048,576", "set 1048576"],
        ),
        ("queues", "max_receive_count", 2, ["queues.max_receive_count = 2", "must be at least 10", "set 100"]),
        ("names", "input_bucket", "My_Bucket", ["names.input_bucket = 'My_Bucket'", "pattern"]),
        ("names", "model_bucket", "fleetsight-input", ["names.model_bucket = 'fleetsight-input'", "their images"]),
        ("web", "cors_origins", ["photos.example.org"], ["web.cors_origins.0 = 'photos.example.org'", "pattern"]),
        ("web", "cors_origins", ["*"], ["web.cors_origins = ['*']", "without sign-in", "Name the origins"]),
        ("auth", "mode", "oidc", ["auth", "needs issuer and client_id"]),
        ("auth", "issuer", "http://login.example.org", ["auth.issuer = 'http://login.example.org'", "use https"]),
        ("auth", "issuer", "https://login.example.org/?realm=lab", ["auth.issuer", "pattern"]),
        ("auth", "scopes", ["email", "profile"], ["auth", "['email', 'profile'] lacks openid"]),
        ("sandbox", "limits", "best_effort", ["sandbox.limits = 'best_effort'", "on AWS", "Set required"]),
        ("aws", "endpoint_url", "localhost:5000", ["aws.endpoint_url = 'localhost:5000'", "^https?://"]),
        ("prices", "s3_put_thousand", float("inf"), ["prices.s3_put_thousand = inf", "finite number"]),
        ("imports", "sources", [{"location": "photos"}], ["imports.sources.0.location = 'photos'", "s3://BUCKET"]),
        ("imports", "sources", [{"location": "s3://photos/*"}], ["the character '*' is not allowed"]),
        ("imports", "sources", [{"location": "s3://photos", "users": "ann"}], ["'everyone' or 'operators'"]),
        ("imports", "sources", [{"location": "s3://fleetsight-input/a"}], ["the system's own"]),
        ("imports", "sources", [{"location": "s3://fleetsight-output"}], ["the system's own"]),
        ("imports", "destinations", [{"location": "s3://fleetsight-models/a"}], ["the system's own"]),
        ("imports", "destinations", [{"location": "s3://photos/*"}], ["imports.destinations.0.location", "'*'"]),
        (
            "imports",
            "destinations",
            [{"location": "s3://fleetsight-input"}],
            ["imports.destinations", "system's own"],
        ),
    ],
)
def test_a_fault_names_key_value_and_what_is_allowed(section: str, key: str, value: object, words: list[str]) -> None:
    message = fault(changed(section, key, value))
    assert all(word in message for word in words), message


def test_a_source_for_operators_is_granted_to_no_other_user() -> None:
    sources = [{"location": "s3://photos/incoming/"}, {"location": "s3://archive", "users": "operators"}]
    values = shipped_values()
    values["imports"]["sources"] = sources
    grants = parse_config(values).imports.sources
    assert grants[0].location == "s3://photos/incoming"
    for text, to_user, to_operator in (
        ("s3://photos/incoming", True, True),
        ("s3://photos/incoming/day1", True, True),
        ("s3://photos/incoming2", False, False),
        ("s3://archive/2019", False, True),
    ):
        location = S3Location.parse(text)
        assert is_granted(grants, location, to_operator=False) is to_user
        assert is_granted(grants, location, to_operator=True) is to_operator


def test_a_missing_key_and_a_missing_section_are_named() -> None:
    values = shipped_values()
    del values["fleet"]["max_workers"], values["prices"]
    message = fault(values)
    assert "fleet.max_workers: missing" in message
    assert "prices: missing" in message


def test_all_faults_are_named_at_once() -> None:
    values = changed("fleet", "max_workers", -1)
    values["web"]["port"] = 0
    values["extra"] = {}
    message = fault(values)
    assert all(key in message for key in ("fleet.max_workers", "web.port", "extra: unknown key"))


def test_a_minimum_above_the_maximum_names_both() -> None:
    assert "min_workers (20) must be at most max_workers (19)" in fault(changed("fleet", "min_workers", 20))


def test_a_sandbox_without_all_limits_is_for_a_local_system_without_sign_in() -> None:
    lax = {f"{PREFIX}SANDBOX__LIMITS": "best_effort", f"{PREFIX}AWS__ENDPOINT_URL": "http://127.0.0.1:5000"}
    assert parse_config(shipped_values(), lax).sandbox.limits == "best_effort"
    signs_in = {
        f"{PREFIX}AUTH__MODE": "oidc",
        f"{PREFIX}AUTH__ISSUER": "https://login.example.org",
        f"{PREFIX}AUTH__CLIENT_ID": "fleetsight",
    }
    assert "with sign-in" in fault(shipped_values(), lax | signs_in)


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:9000", "[::1]:9000"])
def test_a_provider_on_this_machine_needs_no_tls(host: str) -> None:
    issuer = f"http://{host}/realms/lab"
    assert parse_config(changed("auth", "issuer", issuer)).auth.issuer == issuer


def test_spot_instances_that_would_be_stopped_are_refused_with_the_remedy() -> None:
    values = changed("fleet", "market", "spot")
    values["fleet"]["scale_in"] = "stop"
    message = fault(values)
    assert "cannot stop one-time Spot Instances: set scale_in to terminate, or market to on_demand" in message


def test_each_launched_instance_type_without_a_price_is_named_with_the_remedy() -> None:
    message = fault(changed("fleet", "instance_types", ["c7a.large", "c8a.large", "p5.large"]))
    assert "\n  prices.instance_hour: no price for c8a.large, p5.large, which the fleet launches; add it" in message


@pytest.mark.parametrize("values", [None, 3, [], "text", {"fleet": 3}, {"fleet": None}])
def test_what_is_no_mapping_of_sections_is_refused(values: object) -> None:
    assert fault(values)


def test_the_environment_overrides_the_file() -> None:
    environment = {
        f"{PREFIX}FLEET__MAX_WORKERS": "3",
        f"{PREFIX}AWS__ENDPOINT_URL": "http://127.0.0.1:5000",
        f"{PREFIX}WEB__HOSTS": "[a.example.org, b.example.org]",
        f"{PREFIX}FLEET__SUBNET_IDS": "[]",
        "FLEET__MIN_WORKERS": "9",
    }
    config = load_config(SHIPPED, environment)
    assert (config.fleet.max_workers, config.fleet.min_workers) == (3, 0)
    assert config.aws.endpoint().url == "http://127.0.0.1:5000"
    assert config.web.hosts == ("a.example.org", "b.example.org")
    assert config.fleet.subnet_ids == ()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "FLEET__MAX_WORKERS",
            "lots",
            "(from FLEETSIGHT__FLEET__MAX_WORKERS) = 'lots': must be an integer",
        ),
        ("CLASSIC__KEEP", "maybe", "classic.keep (from FLEETSIGHT__CLASSIC__KEEP) = 'maybe': must be true or false"),
        ("FLEET__INSTANCE_TYPES", "c7a.large", "= 'c7a.large': must be a list"),
        ("FLEET__MAXWORKERS", "3", "unknown key (value 3); did you mean max_workers?"),
        ("FLET__MAX_WORKERS", "3", "flet: unknown key (value {'max_workers': 3}); did you mean fleet?"),
        ("FLEET__A__B", "9", "overrides have the form FLEETSIGHT__SECTION__KEY"),
        ("FLEET__MAX_WORKERS", "[", "is not YAML"),
        ("FLEET__MAX_WORKERS", "!!int ", "is not YAML: IndexError"),
        ("FLEET__MAX_WORKERS", "2026-99-99", "is not YAML: ValueError"),
        ("FLEET__MAX_WORKERS", "[" * 1_000, "is not YAML: RecursionError"),
        ("FLEET__MAX_WORKERS", "[&a [1], *a, *a]", "is not YAML: line 1: it is used again"),
    ],
)
def test_a_wrong_override_is_named(variable: str, value: str, words: str) -> None:
    assert words in fault(shipped_values(), {f"{PREFIX}{variable}": value})


def test_an_override_of_what_is_no_section_is_refused() -> None:
    assert "fleet: expected a section, found 3" in fault({"fleet": 3}, {f"{PREFIX}FLEET__MAX_WORKERS": "1"})


def test_a_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file.*FLEETSIGHT_CONFIG"):
        load_config(tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"\xff\xfe\x00", b"a: b: c", b"\x00", b"? [a]: b\n: {", 200_000 * b"[", 200_000 * b"- "],
    ids=range(7),
)
def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        load_config(path, {})


def test_the_file_is_that_of_the_environment_or_config_yaml() -> None:
    assert config_path({"FLEETSIGHT_CONFIG": "/etc/fleet.yaml"}) == Path("/etc/fleet.yaml")
    assert config_path({}) == SHIPPED


def test_a_name_of_the_page_is_taken_in_small_letters_as_browsers_ask_for_it() -> None:
    values = shipped_values()
    values["web"]["hosts"] = ["Fleet-LoadB-1A2B.us-east-1.elb.amazonaws.com"]
    assert parse_config(values).web.hosts == ("fleet-loadb-1a2b.us-east-1.elb.amazonaws.com",)


def test_fifo_queues_carry_their_suffix() -> None:
    assert parse_config(shipped_values()).queue_name("q") == "q"
    assert parse_config(changed("queues", "kind", "fifo")).queue_name("q") == "q.fifo"


def test_a_configuration_survives_being_written_and_read(tmp_path: Path) -> None:
    config = load_config(SHIPPED, {})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path, {}) == config


def office(**changes: object) -> dict[str, object]:
    return {"schedule": [{"days": ["mon", "sun"], "from": "08:00", "to": "18:00", "min_workers": 4} | changes]}


SCHEDULED = {"policy": "schedule", "timezone": "Europe/Berlin", **office()}


def scheduled(**changes: object) -> Config:
    values = shipped_values()
    values["fleet"] |= {**SCHEDULED, **changes}
    return parse_config(values)


def test_a_schedule_is_read_and_dumped_as_it_was_written() -> None:
    config = scheduled()
    [entry] = config.fleet.schedule
    assert (entry.begin, entry.to, entry.min_workers, entry.days) == ("08:00", "18:00", 4, ("mon", "sun"))
    assert str(config.fleet.zone) == "Europe/Berlin"
    assert parse_config(config.model_dump(mode="json")) == config
    [every_day] = scheduled(schedule=[{"from": "22:00", "to": "06:00", "min_workers": 1}]).fleet.schedule
    assert every_day.days == ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "backlog"}, ["which the policy 'backlog' ignores", "schedule to []"]),
        ({"timezone": "Mars/Base"}, ["fleet.timezone = 'Mars/Base'", "Europe/Berlin"]),
        ({"timezone": "../../etc/passwd"}, ["fleet.timezone"]),
        (office(**{"from": 1080}), ["schedule.0.from = 1080", "in quotes"]),
        (office(**{"from": "8:00", "to": "24:00"}), ["0.from = '8:00'", "0.to = '24:00'"]),
        (office(min_workers=1001), ["min_workers = 1001"]),
        (office(days=["monday"]), ["'monday'", "'mon'"]),
        (office(days=[]), ["days = []"]),
        (office(until="20:00"), ["schedule.0.until: unknown key"]),
    ],
)
def test_a_schedule_that_is_not_understood_is_refused_with_what_would_be(
    changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        scheduled(**changes)
    assert [each for each in words if each not in str(caught.value)] == []


def test_utc_needs_no_time_zone_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.config.ZoneInfo", None)
    zone_named.cache_clear()
    assert zone_named("UTC") is UTC
