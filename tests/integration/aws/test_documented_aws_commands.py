"""The documents' commands about AWS run as they are written, with ministack in AWS's place.

Only the environment names it. A shell's rules split a command into words, and this process runs it:
`test_documented_commands.py` starts the wrapper in a shell. The test plays the instances whenever a command waits:
builders build, the web instance answers, and the controller replaces workers. A variant of a stack, and the
replacement of web instances by `roll --new-session-key`, are dry runs.
"""

import os
import re
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask
from werkzeug.serving import make_server

from localcloud.launch import REGION
from scripts.aws.bake.bake import select_bundle
from scripts.aws.context import AwsAccount, Waiter
from scripts.aws.deploy.stack import StackDescription, find_stack
from scripts.cli import fleetsight
from scripts.model.built_once import PHOTOS
from services.accounts import OPERATORS, Accounts
from services.ec2 import VERSION_TAG
from tests.support.aws_builders import Builders, instances
from tests.support.aws_stage import Stage, left
from tests.support.bundles import relabelled_bundle
from tests.support.clocks import PlayedClock
from tests.support.documents import DOCUMENTS, CommandBlock, command_blocks, one_line, output_pattern
from tests.support.servers import serving

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

PREFIX = "fleetsight"
"""The default of `--prefix`, which the documents' commands leave out."""

ABOUT_AWS = re.compile(
    r"\./scripts/fleetsight (?:aws check --region|up|bake|roll|down|(?:status|users operator) .*--region)"
)
COMMANDS = [
    (block, command)
    for document in DOCUMENTS
    for block in command_blocks(document)
    for command in block.commands
    if ABOUT_AWS.match(command)
]

TYPED = {"up": "y\n", "down": f"{PREFIX}\n"}
"""What the reader answers to the questions of a command."""


PAGE, FIRST_HOUR, STACK, OPERATE = "docs/aws.md", "docs/aws-first-hour.md", "infra/README.md", "docs/operate.md"
CHECK, CREATE, DELETE = "Prepare the account", "Create a stack", "Delete a stack"
"""The sections of `FIRST_HOUR` with commands about AWS."""

UPGRADE, RESTORE = "Upgrade", "Restore the job table"
"""The sections of `OPERATE` with commands about AWS."""


def commands_of(document: str, *sections: str) -> list[tuple[CommandBlock, str]]:
    """Return the commands about AWS of a document or of its sections, in order, with their blocks."""
    found = [(block, command) for block, command in COMMANDS if block.document == document]
    return [each for each in found if not sections or each[0].section in sections]


PAUSE_SECONDS = 0.1
"""Real seconds of a command's pause, in which the cloud, another process, can act."""


@dataclass
class Reader:
    """A reader of the documents who has an account of ministack; the test plays its instances."""

    account: AwsAccount
    pages: ExitStack
    now: float = 0.0
    _served: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Reach the builders."""
        self.stage = Stage(self.account, PREFIX)
        self.builders = Builders(self.account, PREFIX, honest=True)

    @property
    def stack(self) -> StackDescription:
        """The stack."""
        stack = find_stack(self.account, PREFIX)
        assert stack is not None
        return stack

    def run(self, command: str) -> str:
        """Run a command, and return its output on one line."""
        words = shlex.split(command, comments=True)[1:]
        environment = dict.fromkeys(name for name in os.environ if name.startswith("FLEETSIGHT"))
        endpoint = {"AWS_ENDPOINT_URL": self.account.endpoint_url, "AWS_DEFAULT_REGION": REGION}
        ran = CliRunner().invoke(
            fleetsight, words, TYPED.get(words[0]), {**environment, **endpoint, "COLUMNS": "100"}
        )
        assert ran.exit_code == 0, f"{command}\n{ran.output}\n{ran.exception!r}"
        return one_line(ran.output)

    def sleep(self, seconds: float) -> None:
        """Play the instances while a command waits; its clock goes on by more than the real time."""
        self.now += seconds / 5
        time.sleep(PAUSE_SECONDS)
        self.builders.work()
        for address in self.account.ec2.describe_addresses()["Addresses"]:
            self._serve(address["PublicIp"])
        self._replace_workers()

    def _replace_workers(self) -> None:
        """End a worker of another version than the default of the workers' template, as the controller would."""
        by_name = [{"Name": "launch-template-name", "Values": [f"{PREFIX}-worker"]}]
        for template in self.account.ec2.describe_launch_templates(Filters=by_name)["LaunchTemplates"]:  # type: ignore[arg-type]
            default = {"Key": VERSION_TAG, "Value": str(template["DefaultVersionNumber"])}
            running = instances(self.account, PREFIX, "running")
            workers = [each for each in running if {"Key": "Name", "Value": f"{PREFIX}-worker"} in each["Tags"]]
            if drifted := [each["InstanceId"] for each in workers if default not in each["Tags"]]:
                self.account.ec2.terminate_instances(InstanceIds=drifted[:1])

    def _serve(self, address: str) -> None:
        """Serve the health check of the page at the address of the stack."""
        if address in self._served:
            return
        self._served.add(address)
        app = Flask(__name__)
        app.add_url_rule("/healthz", view_func=lambda: "ok")
        try:
            listener = socket.create_server((address, 443))
        except PermissionError:
            pytest.skip("the page has port 443, which only root may open here")
        with listener:
            page = make_server(address, 443, app, threaded=True, ssl_context="adhoc", fd=listener.fileno())
        self.pages.enter_context(serving(page))

    def launch_workers(self, count: int) -> None:
        """Launch workers of the default version of their template, as the controller does."""
        template = {"LaunchTemplateName": self.stack.outputs["WorkerTemplateName"]}
        self.account.ec2.run_instances(LaunchTemplate=template, MinCount=count, MaxCount=count)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shared_accounts() -> type[AwsAccount]:
    """Return accounts by their arguments; commands share them, since making clients costs more than a command."""
    return cache(AwsAccount)  # type: ignore[return-value]


@pytest.fixture
def reader(
    account: AwsAccount, shared_accounts: type[AwsAccount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    """A reader with a built model and an empty account, which is empty again afterwards."""
    relabelled_bundle(tmp_path / PHOTOS, PHOTOS, " in a photo")
    for module in ("scripts.model.built_once", "scripts.aws.deploy.up"):
        monkeypatch.setattr(f"{module}.MODELS_FOLDER", tmp_path)
    for module in ("scripts.aws.commands", "scripts.aws.deploy.up"):
        monkeypatch.setattr(f"{module}.select_bundle", partial(select_bundle, models=tmp_path))
    monkeypatch.setattr("scripts.aws.context.AwsAccount", shared_accounts)
    with ExitStack() as pages:
        made = Reader(account, pages)
        waiter = Waiter(PlayedClock(lambda: made.now, sleep=made.sleep), lambda _: None)
        monkeypatch.setattr("scripts.aws.commands.Waiter", lambda: waiter)
        yield made
        made.stage.down(delete_data=True)


def test_the_page_prints_what_it_shows_from_the_check_until_nothing_is_left(reader: Reader) -> None:
    check, _ = commands_of(FIRST_HOUR, CHECK)
    for block, command in [check, *commands_of(FIRST_HOUR, CREATE, DELETE)]:
        assert block.output or "users operator" in command, f"{command} has no output below it"
        if "users operator" in command:
            accounts = Accounts(reader.account.cognito, reader.stack.outputs["UserPoolId"])
            accounts.add("you@example.org")  # on the page
        printed = reader.run(command)
        is_as_shown = bool(re.search(output_pattern(block.output), printed))
        assert is_as_shown, f"{command} printed\n{printed}\nand {block.document} has\n{block.output}"
        match command.split()[1]:
            case "up" if "--dry-run" in command:
                assert find_stack(reader.account, PREFIX) is None
            case "up":
                assert printed.endswith(f"Fleetsight is at {reader.stack.outputs['PageAddress']}")
                assert reader.stack.parameters["WebCidr"] == "198.51.100.7/32"
                assert reader.stack.parameters["AlertEmail"] == "you@example.org"
                baked = reader.account.ssm.get_parameter(Name=f"/{PREFIX}/image/web")["Parameter"]["Value"]
                assert [each["ImageId"] for each in instances(reader.account, PREFIX, "running")] == [baked]
            case "users":
                assert [account.groups for account in accounts.list()] == [{OPERATORS}]
            case "down":
                kept = {"bucket of data", "job table", "user pool"}
                assert left(reader.stage) == kept


def test_the_upgrade_finds_its_images_changes_nothing_and_rolls_the_workers(reader: Reader) -> None:
    """The images that README's `up` has baked are of this release, and CloudFormation's new version is played."""
    [(_, deploy)] = commands_of("README.md")
    address = reader.run(deploy).rsplit("Fleetsight is at ", 1)[1]
    reader.launch_workers(3)

    printed = {}
    for _, command in commands_of(OPERATE, UPGRADE):
        if " --rebake " in command:
            reader.account.ec2.create_launch_template_version(
                LaunchTemplateName=reader.stack.outputs["WorkerTemplateName"], SourceVersion="1",
                LaunchTemplateData={},
            )  # fmt: skip
        printed[command.partition(" --region")[0].removeprefix("./scripts/fleetsight ")] = reader.run(command)

    assert list(printed) == ["aws check", "up --rebake"]
    assert " stop " not in printed["aws check"]
    upgraded = printed["up --rebake"]
    assert upgraded.count("image of this source and base already") == 2
    assert "is as it should be. " in upgraded
    assert f"Fleetsight is at {address} " in upgraded
    assert "it shall be version 2" in upgraded
    assert "3 workers are of other versions: the controller replaces a few at a time." in upgraded
    assert "1 workers of other versions are left" in upgraded
    assert upgraded.endswith("All workers are of version 2; `fleetsight roll --back` is the way back.")

    [new_key] = [command for _, command in commands_of(PAGE) if " roll " in command]
    printed_of_key = reader.run(f"{new_key} --dry-run")
    assert (
        "A new key would be put first into /fleetsight/session-keys, and these replaced: fleetsight-"
        in printed_of_key
    )


def test_the_stack_takes_a_restored_table(reader: Reader) -> None:
    for _, command in commands_of(OPERATE, RESTORE):
        assert "add JobTable DynamoDB::Table" in reader.run(f"{command} --dry-run")


def test_the_checks_of_an_account_find_that_ec2_launches_the_types(reader: Reader) -> None:
    default, free_plan = (command for _, command in commands_of(FIRST_HOUR, CHECK))
    assert "ok launch: EC2 accepts a dry run of c7a.large" in reader.run(default)
    assert "ok launch: EC2 accepts a dry run of c7i-flex.large" in reader.run(free_plan)
    assert not left(reader.stage)


VARIANTS = {
    "TlsParameter=": ("", "add TlsPolicy IAM::Policy"),
    "fleet.instance_types=[c7g.large,": ("", "ok launch: EC2 accepts a dry run of c7a.large, c7g.large, m7g.large"),
    "worker.engine=torch": ("", "gpus: the engine torch"),
    "StaticSite=true": (
        " --open-to everybody --domain images.example.org --zone Z1 --certificate arn:aws:acm:us-east-1:123456789012:"
        "certificate/1",
        "add Site CloudFront::Distribution",
    ),
}
"""By a part of a command that configures a stack: the options of that stack, and what is printed."""


@pytest.mark.parametrize("part", VARIANTS)
def test_a_change_of_a_stack_is_accepted_and_shown(reader: Reader, part: str) -> None:
    given, expected = VARIANTS[part]
    (block,) = {block for page in (PAGE, STACK) for block, command in commands_of(page) if part in command}
    for command in block.commands:
        if " bake " in command:
            assert "worker ami-" in reader.run(command)
        elif part in command:
            printed = reader.run(f"{command.partition(' #')[0]}{given} --dry-run")
            assert expected in printed, printed


def test_each_command_about_aws_is_in_one_of_these_tests() -> None:
    assert {block.document for block, _ in COMMANDS} == {"README.md", FIRST_HOUR, PAGE, STACK, OPERATE}
    assert {block.section for block, _ in commands_of(FIRST_HOUR)} == {CHECK, CREATE, DELETE}
    assert {block.section for block, _ in commands_of(OPERATE)} == {UPGRADE, RESTORE}
    for block, command in [*commands_of(PAGE), *commands_of(STACK)]:
        assert " roll " in command or any(part in each for part in VARIANTS for each in block.commands), command
