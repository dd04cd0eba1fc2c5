"""The stack in an account of ministack, which others wrote by AWS's documents: created, updated, deleted, adopted.

`fleetsight up` and `down` run as they are. What ministack lacks is taken out of the template, and listed in `GAPS`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.config import load_config
from localcloud.access_keys import owner_key
from scripts.aws.buckets import delete_bucket
from scripts.aws.context import AwsAccount, AwsContext, Waiter
from scripts.aws.deploy import change_set
from scripts.aws.deploy.settings import StackSettings, load_template, upload_template
from scripts.aws.deploy.stack import StackDescription, StackFailedError, find_stack
from scripts.aws.deploy.up import Prompts, UpOptions, up
from scripts.aws.down import DownOptions, down
from tests.support.emulator import running_emulator

pytestmark = pytest.mark.processes

PREFIX = "fsx"
KEPT = {"JobTable", "InputBucket", "OutputBucket", "ModelBucket", "LogBucket"}
"""What a stack leaves behind, and the next one adopts. `up` finds the user pool itself."""

_RESOURCE = r"^  {}:\n(?:    .*\n|\n(?=    ))+"
GAPS: dict[str, tuple[str, str]] = {
    "no type AWS::Budgets::Budget": (_RESOURCE.format("MonthlyCost"), ""),
    "no type AWS::EC2::SecurityGroupIngress": (_RESOURCE.format("WebFrom\\w+"), ""),
    "no type AWS::Cognito::ManagedLoginBranding": (_RESOURCE.format("ManagedLogin"), ""),
    "no type AWS::EC2::EIP": (_RESOURCE.format("(?:PageIp|PageAddressPolicy)"), ""),
    "no type AWS::EC2::EIP, in the user data": (r"!Select \[1, \[!Ref PageAddressPolicy, .*?\]\]", '"none"'),
    "no type AWS::EC2::EIP, in the outputs": (r"https://\$\{PageIp\}", "https://127.0.0.1"),
    "no !Select and !Split in a condition": (r"(?<=BundleIsInS3: ).*", '!Equals [!Ref BundleAddress, "s3:"]'),
    "no signals of instances": (r"^    CreationPolicy: .*\n", ""),
}
"""Parts of the template that ministack lacks, by regular expressions, and what replaces them."""

IMPORT_FAULT = "InputBucket: Resource of type 'AWS::S3::Bucket' with identifier '.*' already exists"
"""ministack proposes the import of buckets, and forgets it when it executes the change set."""


@dataclass
class Emulated:
    """Runs the commands in an account of ministack, in which images exist."""

    account: AwsAccount
    said: list[str] = field(default_factory=list)
    proposed: list[change_set.ProposedChangeSet] = field(default_factory=list)

    @property
    def context(self) -> AwsContext:
        say: Any = lambda shown: self.said.append(str(shown))  # noqa: E731
        return AwsContext(self.account, PREFIX, say, say, Waiter(report=say))

    def up(self, **parameters: str) -> StackDescription:
        (image, *_) = self.account.ec2.describe_images()["Images"]
        for role in ("web", "worker"):
            self.account.ssm.put_parameter(
                Name=f"/{PREFIX}/image/{role}", Type="String", Value=image["ImageId"], Overwrite=True
            )
        options = UpOptions(StackSettings({"MonthlyBudget": "0", **parameters}), bake=False)
        up(self.context, options, Prompts(lambda _: True, lambda _: True))
        stack = find_stack(self.account, PREFIX)
        assert stack is not None
        return stack

    def down(self) -> None:
        down(self.context, DownOptions(), load_config().prices, lambda _: True)

    def adopted(self) -> set[str]:
        """Return what the change sets since the last call would import."""
        proposed, self.proposed = self.proposed, []
        return {each.name for one in proposed for each in one.changes if each.action == "Import"}

    def buckets(self) -> dict[str, str | None]:
        """Return the state of versioning by the names of the buckets."""
        s3 = self.account.s3
        names = [each["Name"].split("-")[1] for each in s3.list_buckets()["Buckets"]]
        ends = f"{self.account.id}-{self.account.region_name}"
        return {name: s3.get_bucket_versioning(Bucket=f"{PREFIX}-{name}-{ends}").get("Status") for name in names}


@pytest.fixture
def emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    for name, value in owner_key().environment.items():
        monkeypatch.setenv(name, value)
    body = load_template().body
    for gap, (pattern, instead) in GAPS.items():
        body, count = re.subn(pattern, lambda _, instead=instead: instead, body, flags=re.MULTILINE)  # type: ignore[misc]
        assert count, gap

    def by_path(context: AwsContext, _: str) -> str:
        """Upload the template without the gaps; ministack knows only URLs with the bucket in the path."""
        return re.sub(r"//([^.]+)\.(s3\.[^/]+)", r"//\2/\1", upload_template(context, body))

    def created(*args: Any, **options: Any) -> change_set.ProposedChangeSet | None:
        proposed = change_set.create_change_set(*args, **options)
        made.proposed += [] if proposed is None else [proposed]
        return proposed

    monkeypatch.setattr("scripts.aws.deploy.up.upload_template", by_path)
    monkeypatch.setattr("scripts.aws.deploy.up.create_change_set", created)
    # It launches no instance that has the tags of a launch template, and its images are not Debian's.
    monkeypatch.setattr("scripts.aws.deploy.up.wait_for_page", lambda _, stack, __: stack.outputs["PageAddress"])
    monkeypatch.setattr("scripts.aws.deploy.up.run_checks", lambda *_: [])
    folder = tmp_path / "emulator"
    folder.mkdir()
    with running_emulator(folder, services="") as endpoint_url:
        made = Emulated(AwsAccount("us-east-1", None, endpoint_url))
        yield made


def test_the_stack_is_created_updated_deleted_and_its_data_are_proposed_for_adoption(emulated: Emulated) -> None:
    assert emulated.up().status == "CREATE_COMPLETE"
    assert len(emulated.proposed[0].changes) > 50
    assert emulated.buckets() == {"bake": None, "input": None, "output": None, "models": "Enabled"}

    assert emulated.up(LogRetentionDays="7", UndeleteDays="14", AccessLogDays="30").status == "UPDATE_COMPLETE"
    (group,) = emulated.account.logs.describe_log_groups(logGroupNamePrefix=f"/{PREFIX}/web")["logGroups"]
    assert group["retentionInDays"] == 7
    enabled = dict.fromkeys(("input", "output", "models"), "Enabled")
    assert emulated.buckets() == {"bake": None, "logs": None, **enabled}

    emulated.down()
    assert find_stack(emulated.account, PREFIX) is None
    assert emulated.buckets() == {"logs": None, **enabled}

    with pytest.raises(StackFailedError, match=IMPORT_FAULT):
        emulated.up()
    assert emulated.adopted() == KEPT

    for name in emulated.buckets():
        delete_bucket(emulated.account, f"{PREFIX}-{name}-{emulated.account.id}-us-east-1")
    table = emulated.account.dynamodb.describe_table(TableName=f"{PREFIX}-jobs")["Table"]
    assert emulated.up().status in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    assert emulated.adopted() == {"JobTable"}
    assert (
        emulated.account.dynamodb.describe_table(TableName=f"{PREFIX}-jobs")["Table"]["TableId"] == table["TableId"]
    )
    assert emulated.buckets()["output"] == "Enabled", "the settings of the stack before apply again"
