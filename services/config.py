"""The one configuration: config.yaml, overridden by the environment, validated as a whole.

`FLEETSIGHT__FLEET__MAX_WORKERS=3` overrides `fleet.max_workers`; its value is read as YAML. An unknown key, a wrong
type or a value out of range stops the process with every fault named. Secrets are never in here.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.endpoint import Endpoint
from services.errors import ConfigError

PREFIX = "FLEETSIGHT__"
DEMO_BUNDLE = Path("app_tier/demo/bundle")
"""The bundle that ships with the project; config.yaml names it."""

PATH_VARIABLE = "FLEETSIGHT_CONFIG"
"""Names the file to read instead of config.yaml in the working directory."""

BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,75}$")]
TableName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")]
Seconds = Annotated[float, Field(gt=0)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.\[\]:-]+)$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Aws(_Section):
    """Which cloud, and how patiently to call it."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    max_attempts: int = Field(ge=1, le=20)

    def endpoint(self, pool_size: int = 16) -> Endpoint:
        """Return what the client factory needs; `pool_size` is the threads that share a client."""
        return Endpoint(self.region, self.endpoint_url, self.max_attempts, pool_size=pool_size)


class Names(_Section):
    """Names of everything in the account; FIFO queues get their suffix by themselves."""

    input_bucket: BucketName
    output_bucket: BucketName
    request_queue: QueueName
    response_queue: QueueName
    dead_letter_queue: QueueName
    job_table: TableName
    web_instance: str = Field(min_length=1, max_length=255)
    worker_instance: str = Field(min_length=1, max_length=255)


class Queues(_Section):
    """How the queues treat a message."""

    kind: Literal["standard", "fifo"]
    visibility_timeout_seconds: int = Field(ge=1, le=43_200)
    max_receive_count: int = Field(ge=1, le=1_000)


class Web(_Section):
    """The web tier."""

    host: str
    port: int = Field(ge=1, le=65_535)
    processes: int = Field(ge=1, le=64)
    threads: int = Field(ge=1, le=4_096)
    max_files_per_request: int = Field(ge=1, le=10_000)
    max_image_bytes: int = Field(ge=1_024, le=100 * 2**20)
    max_image_pixels: int = Field(ge=1, le=500_000_000)
    max_request_bytes: int = Field(ge=1_024, le=2**32)
    direct_upload_seconds: int = Field(ge=1, le=3_600)
    shrink_above_pixels: int = Field(ge=0, le=100_000)
    max_open_jobs: int = Field(ge=1, le=100_000)
    cors_origins: tuple[Origin, ...]


class Classic(_Section):
    """The classic synchronous contract: one image a request, answered with its label as plain text."""

    enabled: bool
    reply: Literal["by_field", "label", "name_and_label"]
    wait_seconds: float = Field(gt=0, le=3_600)


class Worker(_Section):
    """The app tier: one of these on each instance."""

    bundle: Path
    engine: Literal["openvino", "torch"]
    threads: int = Field(ge=0, le=256)
    streams: int = Field(ge=0, le=256)
    batch_size: int = Field(ge=0, le=256)
    batch_wait_seconds: float = Field(ge=0, le=10)
    fetch_threads: int = Field(ge=0, le=128)
    decode_threads: int = Field(ge=0, le=128)
    publish_threads: int = Field(ge=0, le=128)
    top_k: int = Field(ge=1, le=100)
    idle_seconds: Seconds
    drain_seconds: Seconds


class Fleet(_Section):
    """How many workers, and of what make. Limits are read again while the controller runs."""

    policy: Literal["backlog", "deadline", "fixed"]
    min_workers: int = Field(ge=0, le=1_000)
    max_workers: int = Field(ge=0, le=1_000)
    images_per_worker: int = Field(ge=1)
    target_seconds: float = Field(gt=0, le=86_400)
    image_seconds: float = Field(gt=0, le=3_600)
    boot_seconds: float = Field(gt=0, le=3_600)
    image_id: str = Field(min_length=1)
    instance_type: str = Field(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")
    instance_profile: str | None
    subnet_id: str | None
    security_group_ids: tuple[str, ...]
    scale_in: Literal["terminate", "stop"]
    user_data: str = Field(pattern=r"^#!")

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most max_workers ({self.max_workers})")
        return self


class Controller(_Section):
    """The autoscaler, the collector and the reconciler."""

    interval_seconds: Seconds
    lease_seconds: Seconds
    reconcile_seconds: Seconds
    lost_after_seconds: Seconds


class Retention(_Section):
    """How long what users sent, and what was answered, is kept."""

    unkept_days: float = Field(ge=0, le=3_650)
    repeat_days: float = Field(ge=0, le=3_650)

    @property
    def unkept_lifetime(self) -> timedelta:
        """How long a job without `keep` stands; zero when it does not expire."""
        return timedelta(days=self.unkept_days)

    @property
    def repeat_lifetime(self) -> timedelta:
        """How long a result stands for the same bytes; zero when it does not."""
        return timedelta(days=self.repeat_days)


class Prices(_Section):
    """US dollars, for the cost lines; AWS's list prices of the region."""

    instance_hour: float = Field(ge=0)
    minimum_billed_seconds: float = Field(ge=0)


class Config(_Section):
    """Everything that can be set."""

    aws: Aws
    names: Names
    queues: Queues
    web: Web
    classic: Classic
    worker: Worker
    fleet: Fleet
    controller: Controller
    retention: Retention
    prices: Prices

    def queue_name(self, name: str) -> str:
        """Return the queue's name as SQS knows it: FIFO queues carry a suffix."""
        return f"{name}.fifo" if self.queues.kind == "fifo" else name


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the file to read: `FLEETSIGHT_CONFIG`, or config.yaml in the working directory."""
    return Path(environment.get(PATH_VARIABLE, "config.yaml"))


def load_config(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Config:
    """Return the validated configuration.

    Args:
        path: the YAML file; by default `config_path()`.
        environment: overrides, as `FLEETSIGHT__SECTION__KEY`.

    Raises:
        ConfigError: when the file cannot be read or any key is unknown, missing or not allowed; names them all.
    """
    path = path or config_path(environment)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; run from the project's folder or set {PATH_VARIABLE}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return parse_config(values, environment, source=str(path))


def parse_config(values: object, environment: Mapping[str, str] | None = None, source: str = "config") -> Config:
    """Return the configuration that `values`, a mapping of sections, and the overrides in `environment` make.

    Raises:
        ConfigError: as `load_config`.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected sections such as `fleet:`, found {values!r}")
    merged = _overridden(values, environment or {})
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join([f"{source} is not valid:", *_faults(error)])) from error


def _overridden(values: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    merged = {key: dict(section) if isinstance(section, dict) else section for key, section in values.items()}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
            continue
        path = variable.removeprefix(PREFIX).lower().split("__")
        if len(path) != 2:
            raise ConfigError(f"{variable}: overrides have the form {PREFIX}SECTION__KEY")
        section = merged.setdefault(path[0], {})
        if not isinstance(section, dict):
            raise ConfigError(f"{path[0]}: expected a section, found {section!r}")
        try:
            section[path[1]] = yaml.safe_load(environment[variable])
        except yaml.YAMLError as error:
            raise ConfigError(f"{variable}={environment[variable]!r} is not YAML: {error}") from error
    return merged


def _faults(error: ValidationError) -> list[str]:
    """Return a line for each fault: key, value, what is allowed."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        found = fault["input"]
        match fault["type"]:
            case "extra_forbidden":
                lines.append(f"  {key}: unknown key (value {found!r}); see config.yaml for those there are")
            case "missing":
                lines.append(f"  {key}: missing; see config.yaml for its meaning")
            case _:
                shown = "" if isinstance(found, dict) else f" = {found!r}"
                lines.append(f"  {key}{shown}: {fault['msg'].removeprefix('Value error, ')}")
    return lines
