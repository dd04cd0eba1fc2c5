"""Two lives of a stack on AWS itself, in the account of the AWS credentials that the environment names.

    FLEETSIGHT_AWS=1 FLEETSIGHT_AWS_OPEN_TO=198.51.100.7/32 .venv/bin/python -m pytest -s tests/aws

The network is that of this machine, since the test asks the page. It takes about an hour and costs about one US
dollar, an estimate from the prices in config.yaml: two builders, a web instance for an hour, and two or three workers
for some minutes. The calls, and the seconds of each step, are in the file that it names. All that it makes carries
the tag `fleetsight` with a prefix of its own, and is deleted at the end, also if a step fails. If the test itself is
killed, run the command that it prints first.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import pytest
import urllib3
from click.testing import CliRunner

from core.ids import new_id
from fleetsight_client.api import ApiClient
from scripts.aws.context import TAG, AwsAccount, Waiter
from scripts.aws.deploy.stack import StackDescription, find_stack
from scripts.cli import fleetsight
from scripts.demo_model import DEMO_NAME
from scripts.run.batch import Batch
from scripts.run.images import ImageSet, sample_images
from scripts.run.sign_in import operator_token
from services.accounts import Accounts
from services.table import Table
from tests.support.aws_record import AwsRecord

SPOT_SECONDS: Final = 900.0
"""For a Spot worker to be there: Spot capacity may be short for a while."""

pytestmark = [
    pytest.mark.skipif(os.environ.get("FLEETSIGHT_AWS") != "1", reason="needs an AWS account: set FLEETSIGHT_AWS=1"),
    # Without a name of its own the page has a certificate that the instance has made itself.
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
]

EMAIL = "ops@example.org"


class PageClient(ApiClient):
    """A client of a page with a certificate that the instance has made itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pool = urllib3.PoolManager(cert_reqs="CERT_NONE")


@dataclass
class Life:
    """Runs commands for one prefix, as a person would type them."""

    account: AwsAccount
    prefix: str
    record: AwsRecord

    @property
    def where(self) -> list[str]:
        return ["--prefix", self.prefix, "--region", self.account.region_name]

    @property
    def stack(self) -> StackDescription:
        stack = find_stack(self.account, self.prefix)
        assert stack is not None
        return stack

    def run(self, *arguments: str) -> str:
        """Run a command."""
        whole = [*arguments, *self.where]
        click.echo(" ".join(["fleetsight", *whole]))
        with self.record.step(" ".join(arguments)):
            result = CliRunner().invoke(fleetsight, whole)
        click.echo(result.output)
        assert result.exit_code == 0, result.output
        return result.output

    def up(self, *arguments: str) -> str:
        """Bring the stack up; return the address of its page."""
        return self.run("up", "--yes", *arguments).rsplit("Fleetsight is at ", 1)[1].strip()

    def sign_in(self, address: str) -> PageClient:
        """Return a client of the page with a token of the operator.

        Only a browser can use Cognito's page. It must be shown.
        """
        asked = urllib3.PoolManager(cert_reqs="CERT_NONE").request(
            "GET", f"{address}/sign-in", timeout=60, retries=10
        )
        assert asked.status == 200, asked.data
        assert ".amazoncognito.com/" in str(asked.geturl())
        table = Table(self.account.dynamodb, self.stack.outputs["JobTableName"])
        return PageClient(address, token=operator_token(table, self.accounts.sub_of(EMAIL)))

    def instances(self) -> list[Any]:
        pages = self.account.ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": f"tag:{TAG}", "Values": [self.prefix]}]
        )
        return [each for page in pages for group in page["Reservations"] for each in group["Instances"]]

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.account.cognito, self.stack.outputs["UserPoolId"])


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    account = AwsAccount(os.environ.get("FLEETSIGHT_AWS_REGION"), os.environ.get("AWS_PROFILE"))
    record = AwsRecord(tmp_path / "record.jsonl")
    made = Life(account, f"fs-{new_id()[-8:].lower()}", record)
    click.echo(f"The record is in {record.path}")
    undo = ["down", "--yes", "--delete-data"]
    click.echo(" ".join(["\nIf this is killed, run: ./scripts/fleetsight", *undo, *made.where]))
    with record.calls():
        try:
            yield made
        finally:
            made.run(*undo)


def classify(client: ApiClient, images: ImageSet) -> str:
    """Send images and wait for their results; return the job's id."""
    summary = Batch(client, images, lambda _: None, model=DEMO_NAME).run()
    assert summary.ok, summary
    assert summary.right is not None
    assert summary.right >= 0.99 * summary.images
    return summary.job_id


def test_a_stack_lives_twice_and_keeps_its_data(life: Life, tmp_path: Path) -> None:
    open_to = os.environ.get("FLEETSIGHT_AWS_OPEN_TO")
    assert open_to, "set FLEETSIGHT_AWS_OPEN_TO to the network of this machine, such as 198.51.100.7/32"
    images = sample_images(tmp_path)

    life.run("aws", "check")
    address = life.up("--open-to", open_to, "--demo", "--config", "fleet.max_workers=2")
    life.run("up", "--dry-run")
    life.run("users", "add", EMAIL, "--operator")
    client = life.sign_in(address)
    first_job = classify(client, images)
    life.run("status")
    for instance in life.instances():
        assert {"Key": TAG, "Value": life.prefix} in instance["Tags"]
    volumes = life.account.ec2.describe_volumes(Filters=[{"Name": f"tag:{TAG}", "Values": [life.prefix]}])["Volumes"]
    attached = {each["InstanceId"] for volume in volumes for each in volume["Attachments"]}
    running = {each["InstanceId"] for each in life.instances() if each["State"]["Name"] == "running"}
    assert running <= attached, "a running instance has a disk without the tag"

    client = life.sign_in(life.up("--config", "fleet.market=spot"))
    job = client.create_job("spot")
    client.add_images(job, [(path.name, path.read_bytes()) for path in images.files[:20]])
    Waiter().until(
        lambda: [each for each in life.instances() if each.get("InstanceLifecycle") == "spot"],
        "a Spot worker",
        seconds=SPOT_SECONDS,
    )
    Waiter().until(lambda: client.status(job)["done"] == 20, "20 results of a Spot worker", seconds=SPOT_SECONDS)

    life.run("roll", "--new-session-key")
    life.run("down", "--yes")
    for name in ("input", "output"):
        life.account.s3.head_bucket(Bucket=f"{life.prefix}-{name}-{life.account.id}-{life.account.region_name}")

    client = life.sign_in(life.up("--demo"))
    kept = list(client.results(first_job))
    assert len(kept) == len(images.files)
    assert all(each["status"] == "done" for each in kept)
    classify(client, images)
    assert [each.email for each in life.accounts.list()] == [EMAIL]
