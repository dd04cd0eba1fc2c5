"""An AWS account that can be cut off, and simulated builders in it."""

import ast
import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import requests

from ami.archive import ArchiveFacts
from core.ids import new_id
from localcloud.launch import REGION
from scripts.aws.bake.bake import BakeOptions
from scripts.aws.bake.builders import BuilderConfig
from scripts.aws.bake.spec import ROLES, RUN_TAG, Role, SourceArchive
from scripts.aws.context import TAG, AwsAccount, AwsContext, Waiter
from tests.support.clocks import ManualClock

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef


class Killed(BaseException):
    """Plays kill -9: what raises it, and every call after it, never returns."""


@dataclass
class MortalAccount(AwsAccount):
    """An account of a process that may be killed, after which it makes no more calls; AWS may deny its calls.

    Attributes:
        refusals: error codes of calls such as RunInstances, one for each refusal.
        states: reported states of an own image, one for each call, before the true one.
    """

    dead: bool = False
    refusals: dict[str, list[str]] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)

    def reborn(self) -> None:
        """Be a new process on a day on which nothing is refused."""
        self.dead = False
        self.refusals.clear()
        self.states.clear()

    def client(self, service: str) -> Any:
        new = service not in self._clients
        client = super().client(service)
        if new:
            client.meta.events.register("before-call", self._before)
            client.meta.events.register("after-call.ec2.DescribeImages", self._images)
        return client

    def _before(self, model: Any, **_: Any) -> Any:
        if self.dead:
            raise Killed
        if codes := self.refusals.get(model.name):
            return SimpleNamespace(status_code=403), {"Error": {"Code": codes.pop(), "Message": "no"}}
        return None

    def _images(self, parsed: Any, **_: Any) -> None:
        for image in parsed.get("Images", []):
            if self.states and image["OwnerId"] == "123456789012":
                image["State"] = self.states.pop(0)


class BuildersClock(ManualClock):
    """A clock that advances only by sleeps, in which builders work."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(0.0)
        self.work, self.pace = work, 1.0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds * self.pace)
        self.work()


@dataclass
class Builders:
    """Plays every running builder of a prefix: reads its user data, fetches, checks, reports and stops.

    Attributes:
        says: what is reported otherwise, by role; None for a builder that never reports.
        stops: whether they do in the end.
        honest: whether what the image says of itself is taken from the archive.
    """

    account: AwsAccount
    prefix: str
    says: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    stops: bool = True
    honest: bool = False

    def work(self) -> None:
        for instance in instances(self.account, self.prefix, "running"):
            if not any(tag["Key"] == RUN_TAG for tag in instance["Tags"]):
                continue  # one that the stack has launched
            self.check_network(instance)
            settings = self.settings(instance["InstanceId"])
            report = self.report(settings)
            if report is not None:
                requests.put(settings["log_url"], data=b"line 1\nline 2\n", timeout=120).raise_for_status()
                requests.put(settings["report_url"], data=json.dumps(report), timeout=120).raise_for_status()
            if self.stops:
                self.account.ec2.stop_instances(InstanceIds=[instance["InstanceId"]])

    def check_network(self, instance: Any) -> None:
        """Check that a builder can call by HTTPS, and nothing else."""
        group_ids = [each["GroupId"] for each in instance["SecurityGroups"]]
        (group,) = self.account.ec2.describe_security_groups(GroupIds=group_ids)["SecurityGroups"]
        assert group["IpPermissions"] == []
        assert [(each["IpProtocol"], each["FromPort"]) for each in group["IpPermissionsEgress"]] == [("tcp", 443)]

    def settings(self, instance_id: str) -> Any:
        script = user_data(self.account, instance_id)
        last = script.rstrip().splitlines()[-1]
        found = re.fullmatch(r"main\(json\.loads\((.*)\)\)", last)
        assert found is not None
        return json.loads(ast.literal_eval(found[1]))

    def report(self, settings: Any) -> dict[str, Any] | None:
        role = settings["role"]
        otherwise = self.says.get(role, {})
        if otherwise is None:
            return None
        archive = requests.get(settings["source_url"], timeout=120)
        archive.raise_for_status()
        assert hashlib.sha256(archive.content).hexdigest() == settings["archive"]
        image = {"version": "0.1.0", "commit": "c0ffee", "role": role, "bundle": "b" * 64, "engine": "openvino"}
        if self.honest:
            with tarfile.open(fileobj=io.BytesIO(archive.content)) as unpacked:
                about = unpacked.extractfile("version.json")
                assert about is not None
                image |= json.loads(about.read())
        return {"ok": True, "role": role, "archive": settings["archive"], "seconds": 95.5, "image": image} | otherwise


@dataclass
class Bakery:
    """Everything that a bake needs, on an emulator.

    Attributes:
        die_after: the step after which its process is killed.
        fail_after: the step after which this is raised.
    """

    account: MortalAccount
    observer: AwsAccount
    prefix: str
    folder: Path
    roles: tuple[Role, ...] = ROLES
    reported: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    die_after: int | None = None
    fail_after: tuple[int, BaseException] | None = None
    orders: int = 0
    clock: BuildersClock = field(init=False)
    builders: Builders = field(init=False)

    def __post_init__(self) -> None:
        self.builders = Builders(self.observer, self.prefix)
        self.clock = BuildersClock(self.builders.work)

    def done(self, sentence: str) -> None:
        self.reported.append(sentence)
        if self.die_after == len(self.reported):
            self.account.dead = True
            raise Killed
        if self.fail_after is not None and self.fail_after[0] == len(self.reported):
            raise self.fail_after[1]

    @property
    def context(self) -> AwsContext:
        waiter = Waiter(self.clock, self.said.append)
        return AwsContext(self.account, self.prefix, self.done, lambda shown: self.said.append(str(shown)), waiter)

    @property
    def observing(self) -> AwsContext:
        """A context of the observer, without reports."""
        return AwsContext(self.observer, self.prefix, lambda _: None, lambda _: None)

    def options(self) -> BakeOptions:
        """Return options, each a minute later than the ones before."""
        self.orders += 1
        at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC) + timedelta(minutes=self.orders - 1)
        builder_config = BuilderConfig(lambda: new_id().lower())
        return BakeOptions(builder_config, self.roles, logs=self.folder / "logs", clock=ManualClock(0.0, at))

    def source(self, content: str = "source") -> SourceArchive:
        path = self.folder / f"{content}.tar.gz"
        path.write_text(content)
        facts = ArchiveFacts("0.1.0", "c0ffee", "b" * 64, "openvino", hashlib.sha256(content.encode()).hexdigest())
        return SourceArchive(path, facts)

    def again(self) -> "Bakery":
        """Return the same in a new process."""
        self.account.reborn()
        return Bakery(self.account, self.observer, self.prefix, self.folder, self.roles)

    def stored(self, role: str = "worker") -> str:
        return self.observer.ssm.get_parameter(Name=f"/{self.prefix}/image/{role}")["Parameter"]["Value"]

    def left(self) -> dict[str, list[str]]:
        return left(self.observer, self.prefix)


def instances(account: AwsAccount, prefix: str, *states: str) -> list[Any]:
    found = account.ec2.describe_instances(
        Filters=[
            {"Name": f"tag:{TAG}", "Values": [prefix]},
            {"Name": "instance-state-name", "Values": list(states) or ["pending", "running", "stopping", "stopped"]},
        ]
    )
    return [each for reservation in found["Reservations"] for each in reservation["Instances"]]


def user_data(account: AwsAccount, instance_id: str) -> str:
    said = account.ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
    packed = base64.b64decode(said["UserData"]["Value"])
    assert len(packed) < 16_384 / 2  # where a session's long token stands in its addresses, three times
    return gzip.decompress(packed).decode()


def left(account: AwsAccount, prefix: str) -> dict[str, list[str]]:
    """Return what carries the prefix's tag but images, and each snapshot that no image needs."""
    ec2 = account.ec2
    tag: list[FilterTypeDef] = [{"Name": f"tag:{TAG}", "Values": [prefix]}]
    images = ec2.describe_images(Owners=["self"], Filters=tag)["Images"]
    needed = {each["Ebs"]["SnapshotId"] for image in images for each in image["BlockDeviceMappings"]}
    bucket = f"{prefix}-bake-{account.id}-{REGION}"
    listed = [each["Name"] for each in account.s3.list_buckets()["Buckets"]]
    objects = account.s3.list_objects_v2(Bucket=bucket).get("Contents", []) if bucket in listed else []
    found = {
        "instances": [each["InstanceId"] for each in instances(account, prefix)],
        "groups": [each["GroupId"] for each in ec2.describe_security_groups(Filters=tag)["SecurityGroups"]],
        "volumes": [each["VolumeId"] for each in ec2.describe_volumes(Filters=tag)["Volumes"]],
        "snapshots": [
            each["SnapshotId"]
            for each in ec2.describe_snapshots(OwnerIds=["self"], Filters=tag)["Snapshots"]
            if each["SnapshotId"] not in needed
        ],
        "images": [each["ImageId"] for each in images if each["State"] != "available"],
        "objects": [each["Key"] for each in objects],
    }
    return {kind: ids for kind, ids in found.items() if ids}
