"""The one configuration: config.yaml, overridden by the environment, validated as a whole.

`FLEETSIGHT__FLEET__MAX_WORKERS=3` overrides `fleet.max_workers`; its value is read as YAML. An unknown key, a wrong
type or a value out of range stops the process with every fault named. Secrets are never in here.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, timedelta, tzinfo
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from core.images import ImageLimits
from core.logs import ProcessLevel
from core.s3_locations import MAX_LOCATION_CHARACTERS, S3Location
from core.yaml_text import YAML_ERRORS, parse_yaml, yaml_reason
from services.endpoint import Endpoint
from services.errors import ConfigError

PREFIX = "FLEETSIGHT__"
_PROJECT = Path(__file__).absolute().parents[1]
DEMO_BUNDLE = Path("app_tier/demo/bundle")
"""The bundle that ships with the project; config.yaml names it."""


PATH_VARIABLE = "FLEETSIGHT_CONFIG"
"""Names the file to read instead of the project's config.yaml."""

BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
TableName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")]
Seconds = Annotated[float, Field(gt=0)]
InstanceType = Annotated[str, Field(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_CAP_DOLLARS = 1_000_000
"""The maximum of a spending cap, and of the dollars that operators allow beside it."""
SpendingCap = Annotated[float, Field(gt=0, le=MAX_CAP_DOLLARS, allow_inf_nan=False)]
EngineName = Literal["openvino", "torch"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MIN_RECEIVES = 10
"""Minimum receives before a request becomes a dead letter: workers answer it before that."""
MIN_MESSAGE_BYTES = 1_024
MESSAGE_BYTES_OF_AN_IMAGE = 16
"""Bytes that a request has at most for each image of its pack, in addition to those of the smallest message."""
MAX_MESSAGE_BYTES = 1_048_576
"""Values that SQS allows for a queue's MaximumMessageSize; the maximum is the default (1 MiB, since August 2025).

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
https://aws.amazon.com/about-aws/whats-new/2025/08/amazon-sqs-max-payload-size-1mib/
"""
MAX_WORKERS = 1_000
"""The maximum of the workers' limits that operators or the configuration may set."""

AUTO = "auto"
AUTO_MAX_WORKERS = 19
"""The value of `fleet.max_workers: auto`, where the environment has no other one."""
AUTO_WORKERS_VARIABLE = "FLEETSIGHT_AUTO_WORKERS"
"""Names the value of `fleet.max_workers: auto`; scripts/run.sh sets it to the workers that fit its machine."""

Origin = Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.\[\]:-]+)$")]
# AWS gives load balancers names with capitals; browsers request them in lower case.
HostName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"), AfterValidator(str.lower)
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AwsSettings(_Section):
    """The cloud."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")

    def endpoint(self, pool_size: int = 16) -> Endpoint:
        """Return the endpoint for the client factory; `pool_size` is the number of threads that share a client."""
        return Endpoint(self.region, self.endpoint_url, pool_size=pool_size)


class NameSettings(_Section):
    """Names of the resources in the account. Bucket names are global on AWS, so each has a key.

    Attributes:
        prefix: the names of queues and instances begin with it.
    """

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,50}$")]
    input_bucket: BucketName
    output_bucket: BucketName
    model_bucket: BucketName
    job_table: TableName

    @field_validator("model_bucket")
    @classmethod
    def _is_not_for_images(cls, value: str, names: ValidationInfo) -> str:
        if value == names.data.get("input_bucket"):
            raise ValueError("users put their images there; name another bucket")
        return value

    @property
    def request_queue(self) -> str:
        """The queue of requests, without the suffix of FIFO queues, as the next two."""
        return f"{self.prefix}-requests"

    @property
    def response_queue(self) -> str:
        """The queue of responses."""
        return f"{self.prefix}-responses"

    @property
    def dead_letter_queue(self) -> str:
        """The queue of requests that were received too often."""
        return f"{self.prefix}-dead-letters"

    @property
    def web_instance(self) -> str:
        """The tag `Name` of web instances."""
        return f"{self.prefix}-web"

    @property
    def worker_instance(self) -> str:
        """The tag `Name` of the fleet's workers: every instance with it belongs to the fleet."""
        return f"{self.prefix}-worker"

    @property
    def buckets(self) -> frozenset[str]:
        """The system's own buckets."""
        return frozenset({self.input_bucket, self.output_bucket, self.model_bucket})


class QueueSettings(_Section):
    """Settings of the queues."""

    kind: Literal["standard", "fifo"]
    visibility_timeout_seconds: int = Field(ge=1, le=43_200)
    # The validators below enforce these bounds, with messages of their own.
    max_receive_count: int = Field(le=1_000, json_schema_extra={"minimum": MIN_RECEIVES})
    max_message_bytes: int = Field(json_schema_extra={"minimum": MIN_MESSAGE_BYTES, "maximum": MAX_MESSAGE_BYTES})

    @field_validator("max_message_bytes")
    @classmethod
    def _is_a_size_of_sqs(cls, value: int) -> int:
        if not MIN_MESSAGE_BYTES <= value <= MAX_MESSAGE_BYTES:
            raise ValueError(
                f"must be from {MIN_MESSAGE_BYTES:,} to {MAX_MESSAGE_BYTES:,} bytes, the sizes that SQS allows; "
                f"set {MAX_MESSAGE_BYTES}, its default"
            )
        return value

    @field_validator("max_receive_count")
    @classmethod
    def _leaves_room_for_lost_workers(cls, value: int) -> int:
        if value < MIN_RECEIVES:
            raise ValueError(
                f"must be at least {MIN_RECEIVES}, since one that ends workers fails at its sixth receive; set 100"
            )
        return value


class WebSettings(_Section):
    """The web tier."""

    host: str
    port: int = Field(ge=1, le=65_535)
    hosts: tuple[HostName, ...]
    behind_proxy: bool
    processes: int = Field(ge=1, le=64)
    threads: int = Field(ge=1, le=4_096)
    max_files_per_request: ClassVar[int] = 1_000  # a client sends more files in several requests to the same job
    max_image_bytes: int = Field(ge=1_024, le=100 * 2**20)
    max_image_pixels: int = Field(ge=1, le=500_000_000)
    max_image_frames: ClassVar[int] = 1_000  # only the first one is classified, but a decoder counts all
    max_request_bytes: int = Field(ge=1_024, le=2**32)
    direct_upload_seconds: ClassVar[int] = 600  # enough for a large file on a slow line
    max_open_jobs: int = Field(ge=1, le=100_000)
    cors_origins: tuple[Origin, ...]
    direct_uploads: bool

    @property
    def image_limits(self) -> ImageLimits:
        """The limits of an image, for all parts of the system."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.max_image_frames)


class AuthSettings(_Section):
    """Sign-in.

    Attributes:
        mode: none, every client that reaches the page is the one user; oidc, users sign in at an OpenID provider.
        open: whether mode none may serve clients of other machines.
        issuer, client_id: the provider's address, as its tokens have it, and the name of this site there.
        scopes: asked for at sign-in.
        groups_claim, operators_group: the claim with a user's groups, and the group that manages the fleet.
    """

    mode: Literal["none", "oidc"]
    open: bool
    issuer: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$", max_length=500)] | None
    client_id: Annotated[str, Field(pattern=r"^[!-~]{1,256}$")] | None
    scopes: tuple[Annotated[str, Field(pattern=r"^[!-~]{1,100}$")], ...]
    groups_claim: Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
    operators_group: Annotated[str, Field(min_length=1, max_length=200)]
    session_idle_minutes: float = Field(gt=0, le=1_440)
    session_hours: float = Field(gt=0, le=720)

    @model_validator(mode="after")
    def _provider_is_named(self) -> Self:
        if self.mode == "oidc" and (self.issuer is None or self.client_id is None):
            raise ValueError(
                "mode oidc needs issuer and client_id: the OpenID provider's address, and the id of this site there"
            )
        if "openid" not in self.scopes:
            raise ValueError(f"scopes = {[*self.scopes]!r} lacks openid, without which a provider sends no ID token")
        return self

    @field_validator("issuer")
    @classmethod
    def _is_encrypted(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("http:") and not is_loopback(urlsplit(value).hostname or ""):
            raise ValueError("use https: without it, others on the way can sign in as anyone")
        return value


class LimitSettings(_Section):
    """Limits of one user, or of one address without a signed-in user; 0 is no limit."""

    store: Literal["memory", "table"]
    requests_per_minute: int = Field(ge=0, le=10_000_000)
    images_per_day: int = Field(ge=0)
    bytes_per_day: int = Field(ge=0)
    jobs_per_day: ClassVar[int] = 10_000  # one for each ten images of the quota's default
    # A user's jobs that have images without a result: a tenth of `web.max_open_jobs`, so that ten users have room.
    open_jobs: ClassVar[int] = 100


class ClassicSettings(_Section):
    """The classic synchronous API: one image per request, answered with its label as plain text.

    Attributes:
        keep: whether images that clients send one by one are kept, at every address.
    """

    enabled: bool
    keep: bool
    wait_seconds: float = Field(gt=0, le=3_600)


class WorkerSettings(_Section):
    """The worker on each instance of the app tier."""

    bundle: Path
    bundle_sha256: str | None = Field(pattern=r"[0-9a-fA-F]{64}")
    engine: EngineName
    threads: int = Field(ge=0, le=256)
    batch_size: int = Field(ge=0, le=256)
    decode_seconds: float = Field(ge=0.1, le=600)
    model_megabytes: int = Field(default=0, ge=0, le=1_048_576)
    call_threads: int = Field(ge=0, le=128)
    top_k: int = Field(ge=1, le=100)
    idle_seconds: Seconds
    # A stopped worker finishes its images in this time: well within the two minutes of a Spot Instance's notice, for
    # which it polls every 5 s.
    drain_seconds: ClassVar[float] = 60


class PackSettings(_Section):
    """The packs in which images of a job are stored, requested and answered."""

    max_images: int = Field(ge=1, le=50)


class SandboxSettings(_Section):
    """The processes that open images.

    Attributes:
        limits: required, every limit of what they may do must be set; best_effort, those that the system can set.
    """

    limits: Literal["required", "best_effort"] = "required"


class ScheduleEntry(_Section):
    """At least `min_workers` from one time of day to another; if `to` is not later, to that time of the next day."""

    # Serialized as it was read, so that a dumped configuration can be parsed again.
    model_config = ConfigDict(serialize_by_alias=True)

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    begin: str = Field(alias="from")
    to: str
    min_workers: int = Field(ge=0, le=MAX_WORKERS)

    @field_validator("begin", "to", mode="before")
    @classmethod
    def _is_a_time_of_day(cls, value: object) -> object:
        # YAML reads 18:00 without quotes as the number 1080.
        if not isinstance(value, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value, re.ASCII):
            raise ValueError('write a time of day from "00:00" to "23:59", in quotes')
        return value


class FleetSettings(_Section):
    """Number and type of workers. The controller reads the limits again while it runs."""

    policy: Literal["backlog", "deadline", "fixed", "schedule"]
    min_workers: int = Field(ge=0, le=MAX_WORKERS)
    max_workers: int = Field(ge=0, le=MAX_WORKERS)
    images_per_worker: int = Field(ge=1)
    target_seconds: float = Field(gt=0, le=86_400)
    # A worker's time for an image until it is measured: that of a small ResNet on a CPU.
    image_seconds: ClassVar[float] = 0.05
    boot_seconds: float = Field(gt=0, le=3_600)
    boot_allowance_seconds: float = Field(gt=0, le=86_400)
    # A worker sends a heartbeat every 10 s: five in a row are missing.
    silent_seconds: ClassVar[float] = 60
    # Workers of this age are replaced, a few at a time, so that what leaks in one does not grow for ever.
    max_lifetime_seconds: ClassVar[float] = 86_400
    # Bounds the cost of a mistake.
    launches_per_minute: ClassVar[int] = 120
    dollars_per_day: SpendingCap | None = None
    dollars_per_month: SpendingCap | None = None
    schedule: tuple[ScheduleEntry, ...]
    timezone: str
    launch_template: Annotated[str, Field(pattern=r"^[A-Za-z0-9().\-/_]{3,128}$")] | None
    market: Literal["on_demand", "spot"]
    instance_types: tuple[InstanceType, ...]
    subnet_ids: tuple[Annotated[str, Field(min_length=1)], ...]
    image_id: str = Field(min_length=1)
    scale_in: Literal["terminate", "stop"]
    user_data: str = Field(pattern=r"^#!")

    @field_validator("instance_types")
    @classmethod
    def _some_type_is_named(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if not types:
            raise ValueError("name at least one instance type, such as [c7a.large]; the first is preferred")
        return types

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, name: str) -> str:
        zone_named(name)
        return name

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most max_workers ({self.max_workers})")
        if self.market == "spot" and self.scale_in == "stop":
            raise ValueError(
                "market spot and scale_in stop exclude each other, since EC2 cannot stop one-time Spot Instances: "
                "set scale_in to terminate, or market to on_demand"
            )
        if self.schedule and self.policy != "schedule":
            raise ValueError(
                f"schedule has entries, which the policy {self.policy!r} ignores: "
                "set policy to schedule, or schedule to []"
            )
        day, month = self.dollars_per_day, self.dollars_per_month
        if day is not None and month is not None and day > month:
            raise ValueError(
                f"dollars_per_day ({day:g}) must be at most dollars_per_month ({month:g}): lower it, or set null"
            )
        return self

    @property
    def has_spending_cap(self) -> bool:
        """Whether the cost of a day or of a month is capped."""
        return self.dollars_per_day is not None or self.dollars_per_month is not None

    @property
    def zone(self) -> tzinfo:
        """The time zone of the schedule."""
        return zone_named(self.timezone)


class ControllerSettings(_Section):
    """The autoscaler, the collector and the reconciler."""

    interval_seconds: Seconds
    lease_seconds: Seconds
    reconcile_seconds: Seconds
    lost_after_seconds: Seconds


class RetentionSettings(_Section):
    """Retention of images and results."""

    unkept_days: float = Field(ge=0, le=3_650)

    @property
    def unkept_lifetime(self) -> timedelta:
        """Lifetime of a job without `keep`; zero if it does not expire."""
        return timedelta(days=self.unkept_days)


TopicArn = Annotated[str, Field(pattern=r"^arn:[a-z-]+:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}$")]


class NotificationSettings(_Section):
    """The SNS topic that gets messages on finished jobs, spending caps and outages."""

    topic_arn: TopicArn | None


class MetricSettings(_Section):
    """Metrics for operators.

    Attributes:
        controller_port: of the loopback interface, on which the controller serves its metrics; 0 for none.
        cloudwatch_namespace: of the metrics that CloudWatch extracts from log lines; None for none.
    """

    controller_port: int = Field(ge=0, le=65_535)
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
    cloudwatch_namespace: Annotated[str, Field(max_length=255, pattern=r"^[0-9A-Za-z._#:/-]+$")] | None

    @field_validator("cloudwatch_namespace")
    @classmethod
    def _is_not_reserved(cls, namespace: str | None) -> str | None:
        if namespace is not None and namespace.startswith(("AWS/", ":")):
            raise ValueError("CloudWatch reserves namespaces that begin with AWS/ or a colon; set another one")
        return namespace


class LogSettings(_Section):
    """The minimum level of the log lines of web tier, controller and workers."""

    level: ProcessLevel = "info"


class TracingSettings(_Section):
    """Export of spans by OTLP/HTTP.

    Attributes:
        endpoint: base URL of the collector; None exports nothing.
        sample_ratio: share of the web tier's requests with exported spans.
    """

    endpoint: Annotated[str, Field(max_length=2_048, pattern=r"^https?://[^\s@]+$")] | None = None
    sample_ratio: float = Field(default=1.0, ge=0, le=1)


def _as_location(text: str) -> str:
    """Return `text`, a location in S3, in its normal form. Its characters stand for themselves in an IAM policy."""
    if found := re.search(r"[^A-Za-z0-9!_.()=@+/:-]", text):
        raise ValueError(f"the character {found[0]!r} is not allowed here; name a folder above it")
    return str(S3Location.parse(text))


class S3Grant(_Section):
    """A location in S3, with all that is in it, and the users who may name it."""

    location: Annotated[str, Field(max_length=MAX_LOCATION_CHARACTERS), AfterValidator(_as_location)]
    users: Literal["everyone", "operators"] = "everyone"


class ImportSettings(_Section):
    """Jobs from S3: the locations that they may read, and those to which results may be copied."""

    sources: tuple[S3Grant, ...]
    destinations: tuple[S3Grant, ...]


def is_granted(grants: Sequence[S3Grant], location: S3Location, *, to_operator: bool) -> bool:
    """Return whether a user may name `location`: one of `grants` contains it, and is for such a user."""
    return any(
        S3Location.parse(grant.location).contains(location) and (to_operator or grant.users == "everyone")
        for grant in grants
    )


HOURS_A_MONTH = 730
"""The hours of AWS's own calculator: 8,760 a year divided by twelve. https://calculator.aws/"""


class PriceSettings(_Section):
    """Prices in US dollars, for the displayed cost; AWS's list prices of the region.

    Attributes:
        instance_hour: On-Demand price by instance type.
        spot_hour: Spot price by instance type; by default the On-Demand price, which Spot never exceeds.
        minimum_billed_seconds: billed minimum of each start of an instance.
        fair_queue_million: added to `sqs_million` for requests of messages with a group, as in a fair queue.
        worker_disk_gb: the disk of a worker; a stack on AWS sets it.
    """

    instance_hour: dict[InstanceType, Dollars] = Field(min_length=1)
    spot_hour: dict[InstanceType, Dollars]
    minimum_billed_seconds: float = Field(ge=0)
    s3_put_thousand: Dollars
    s3_get_thousand: Dollars
    sqs_million: Dollars
    fair_queue_million: Dollars = 0.10
    dynamodb_write_million: Dollars
    dynamodb_read_million: Dollars
    disk_gb_month: Dollars
    worker_disk_gb: float = Field(default=8.0, ge=0)
    snapshot_gb_month: Dollars
    public_address_hour: Dollars
    load_balancer_hour: Dollars
    alarm_month: Dollars
    dashboard_month: Dollars
    metric_month: Dollars
    log_gb: Dollars
    object_gb_month: Dollars
    item_gb_month: Dollars

    def hourly(self, instance_type: str, *, spot: bool = False) -> float:
        """Return the price of an instance-hour.

        A type that is not listed, as of an instance that was launched into the fleet by hand, counts as the
        most expensive listed type: the displayed cost is rather too high than too low.
        """
        on_demand = self.instance_hour.get(instance_type, max(self.instance_hour.values()))
        return self.spot_hour.get(instance_type, on_demand) if spot else on_demand

    def worker_hour(self, instance_type: str, *, spot: bool = False) -> float:
        """Return the price of an hour of a worker: its instance, public address and disk.

        EC2 bills all three by the second, at least `minimum_billed_seconds`:
        https://aws.amazon.com/vpc/pricing/, https://aws.amazon.com/ebs/pricing/.
        """
        disk = self.worker_disk_gb * self.disk_gb_month / HOURS_A_MONTH
        return self.hourly(instance_type, spot=spot) + self.public_address_hour + disk

    def launch_dollars(self, instance_types: Iterable[str]) -> float:
        """Return the most that one launch of any of these types is billed for the minimum time."""
        dearest = max((self.worker_hour(each) for each in instance_types), default=0.0)
        return dearest * self.minimum_billed_seconds / 3_600


class Config(_Section):
    """The whole configuration."""

    aws: AwsSettings
    names: NameSettings
    queues: QueueSettings
    web: WebSettings
    auth: AuthSettings
    limits: LimitSettings
    classic: ClassicSettings
    worker: WorkerSettings
    packs: PackSettings
    sandbox: SandboxSettings = SandboxSettings()
    fleet: FleetSettings
    controller: ControllerSettings
    retention: RetentionSettings
    notifications: NotificationSettings
    metrics: MetricSettings
    logs: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    imports: ImportSettings
    prices: PriceSettings

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if free := [each for each in self.fleet.instance_types if each not in self.prices.instance_hour]:
            raise ValueError(
                f"prices.instance_hour: no price for {', '.join(free)}, which the fleet launches; add it, from "
                "https://aws.amazon.com/ec2/pricing/on-demand/"
            )
        if self.auth.mode == "none" and not self.auth.open and not is_loopback(self.web.host):
            raise ValueError(
                f"web.host = {self.web.host!r}: without sign-in (auth.mode none) the page is served on this machine "
                "only. Set auth.mode to oidc, web.host to 127.0.0.1, or, where everybody who reaches the page may "
                "see and do everything, auth.open to true"
            )
        if self.sandbox.limits != "required" and (self.auth.mode != "none" or self.aws.endpoint_url is None):
            raise ValueError(
                f"sandbox.limits = {self.sandbox.limits!r}: with sign-in, and on AWS, processes that open images "
                "must have all limits. Set required"
            )
        if self.auth.mode == "none" and "*" in self.web.cors_origins:
            raise ValueError(
                f"web.cors_origins = {[*self.web.cors_origins]!r}: without sign-in (auth.mode none) every page in "
                "a visitor's browser could see and do everything. Name the origins, or set auth.mode to oidc"
            )
        return self

    @model_validator(mode="after")
    def _caps_allow_a_launch(self) -> Self:
        launch = self.prices.launch_dollars(self.fleet.instance_types)
        for key in ("dollars_per_day", "dollars_per_month"):
            cap = getattr(self.fleet, key)
            if cap is not None and cap < launch:
                raise ValueError(
                    f"fleet.{key} = {cap:g}: one launch is billed {launch:.2g} dollars at least, so no worker would "
                    "ever start; set more, or null for no cap, or fleet.max_workers to 0"
                )
        return self

    @model_validator(mode="after")
    def _own_buckets_are_not_granted(self) -> Self:
        granted = {"sources": self.imports.sources, "destinations": self.imports.destinations}
        for key, grant in ((key, grant) for key, grants in granted.items() for grant in grants):
            if S3Location.parse(grant.location).bucket in self.names.buckets:
                raise ValueError(
                    f"imports.{key} = {grant.location!r}: this bucket is the system's own; name another one"
                )
        return self

    @property
    def max_pack_images(self) -> int:
        """Maximum images of a pack: as many as `packs.max_images`, if their request fits into a message."""
        fitting = (self.queues.max_message_bytes - MIN_MESSAGE_BYTES) // MESSAGE_BYTES_OF_AN_IMAGE
        return max(1, min(self.packs.max_images, fitting))

    def queue_name(self, name: str) -> str:
        """Return the queue's name in SQS: FIFO queues have a suffix."""
        return f"{name}.fifo" if self.queues.kind == "fifo" else name


def is_loopback(host: str) -> bool:
    """Return whether a server that listens at `host` is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@cache
def zone_named(name: str) -> tzinfo:
    """Return the time zone of an IANA name; UTC needs no time zone database.

    Raises:
        ValueError: this machine has no time zone of that name.
    """
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            "this machine's time zone database (the package tzdata) has none of that name; "
            "use one such as UTC, Europe/Berlin or America/New_York"
        ) from error


def config_path(environment: Mapping[str, str] = os.environ, project: Path = _PROJECT) -> Path:
    """Return the file to read: `FLEETSIGHT_CONFIG`, or config.yaml in the project's folder."""
    return Path(environment.get(PATH_VARIABLE) or project / "config.yaml")


def load_config(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Config:
    """Return the validated configuration.

    Args:
        path: the YAML file; by default `config_path()`.
        environment: overrides, as `FLEETSIGHT__SECTION__KEY`.

    Raises:
        ConfigError: the file cannot be read, or keys are unknown, missing or invalid; names all of them.
    """
    path = path or config_path(environment)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; name another file with {PATH_VARIABLE}") from error
    except YAML_ERRORS as error:
        raise ConfigError(f"{path} is not YAML: {yaml_reason(error)}") from error
    return parse_config(values, environment, source=str(path))


def parse_config(values: object, environment: Mapping[str, str] | None = None, source: str = "config") -> Config:
    """Return the configuration of `values`, a mapping of sections, with the overrides in `environment`.

    Raises:
        ConfigError: as `load_config`.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected sections such as `fleet:`, found {values!r}")
    merged = _overridden(values, environment or {})
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        is_overridden = any(variable.startswith(PREFIX) for variable in environment or {})
        what = f"{source}, with the variables of the environment," if is_overridden else source
        raise ConfigError("\n".join([f"{what} is not valid:", *_faults(error, environment or {})])) from error


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
            section[path[1]] = parse_yaml(environment[variable])
        except YAML_ERRORS as error:
            raise ConfigError(f"{variable}={environment[variable]!r} is not YAML: {yaml_reason(error)}") from error
    fleet = merged.get("fleet")
    if isinstance(fleet, dict) and fleet.get("max_workers") == AUTO:
        fleet["max_workers"] = environment.get(AUTO_WORKERS_VARIABLE, AUTO_MAX_WORKERS)
    return merged


def _faults(error: ValidationError, environment: Mapping[str, str]) -> list[str]:
    """Return a line for each fault: the key, its value, the variable that it comes from, and the allowed values."""
    lines = []
    for fault in error.errors(include_url=False):
        parts = [str(part) for part in fault["loc"]]
        variable = f"{PREFIX}{'__'.join(parts[:2])}".upper()
        key = ".".join(parts) + (f" (from {variable})" if variable in environment else "")
        found = fault["input"]
        match fault["type"]:
            case "extra_forbidden":
                lines.append(f"  {key}: unknown key (value {found!r}); {_hint(parts)}")
            case "missing":
                lines.append(f"  {key}: missing; see config.yaml for its meaning")
            case _:
                shown = "" if isinstance(found, dict) else f" = {found!r}"
                # A contradiction between two sections has no key.
                where = f"{key}{shown}: " if key else ""
                lines.append(f"  {where}{fault_words(fault['msg'])}")
    return lines


_USER_WORDS = {"a valid boolean": "true or false", "a valid integer": "an integer", "a valid tuple": "a list"}
"""Types as a user of YAML knows them, by the words of pydantic."""


def fault_words(message: str) -> str:
    """Return a message of pydantic for users, who write YAML and not Python."""
    words = re.sub(r", (unable to|got a number with) .*", "", message.removeprefix("Value error, "))
    words = re.sub(r"^(Input|String|Tuple) should ", "must ", words).replace(" after validation", "")
    for program, user in _USER_WORDS.items():
        words = words.replace(program, user)
    return words


def _hint(unknown: Sequence[str]) -> str:
    """Return what a user may have meant by an unknown key, given as the parts of its path."""
    fields = Config.model_fields
    if (
        len(unknown) == 2
        and isinstance(section := fields[unknown[0]].annotation, type)
        and issubclass(section, _Section)
    ):
        fields = section.model_fields
    near = get_close_matches(unknown[-1], fields, n=1) if len(unknown) <= 2 else []
    return f"did you mean {near[0]}?" if near else "see config.yaml for those there are"
