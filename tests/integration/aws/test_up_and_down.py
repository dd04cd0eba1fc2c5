"""``fleetsight up`` to ``fleetsight down`` on ministack, with a static site and without, and the template itself.

The calls in the source are compared with those that were made: the commands make no call that was never tried.
Other programs read the template: cfn-lint, and the shell that runs its user data.
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scripts.aws.context import AwsAccount
from scripts.aws.deploy.settings import TEMPLATE_PATH, StackSettings, config_parameters
from scripts.aws.deploy.stack import find_stack
from scripts.aws.instances import instances_tagged, select_instance, session_command
from scripts.aws.preflight.permissions import boundary_policy
from scripts.aws.status import read_status
from services.accounts import Accounts
from tests.conftest import ROOT
from tests.support.aws_stage import WITH_SITE, Stage, data_buckets, launch_workers, left, make_belongings
from tests.support.iam.commands import PrintedPolicy, calls_in_source
from tests.support.iam.judge import PermissionCheck
from tests.support.stack_template import GIVEN, user_data

pytestmark = pytest.mark.thorough

FOLDER = ROOT / "scripts" / "aws"
OWN = [each for each in FOLDER.rglob("*.py") if not {"bake", "rollout.py"} & set(each.relative_to(FOLDER).parts)]
"""Modules of these commands; the others' are tested with them."""

WITH_STUBS = {
    ("cloudformation", "DescribeEvents"),
    ("cognito-idp", "DeleteUserPoolDomain"),
    ("cognito-idp", "ListUsers"),
    ("kms", "DescribeKey"),
    ("s3", "DeleteObject"),
    ("s3", "HeadObject"),
}
"""Calls that follow an answer which ministack does not give; `tests/unit/scripts` makes them, and the bake."""


def test_each_call_in_the_source_is_made_from_up_to_down_and_is_in_the_policy_and_nothing_is_left(
    account: AwsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.aws.deploy.demo.photos_once", lambda *_: None)  # the demo serves alone
    trusted = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:*"}]}
    role = account.iam.create_role(RoleName="deployer", AssumeRolePolicyDocument=json.dumps(trusted))["Role"]["Arn"]
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    account.iam.put_role_policy(RoleName="deployer", PolicyName="all", PolicyDocument=json.dumps(everything))
    keys = account.sts.assume_role(RoleArn=role, RoleSessionName="ann")["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys["SessionToken"])
    account, made = AwsAccount("us-east-1", None, account.endpoint_url), set[tuple[str, str]]()
    printed = PrintedPolicy(account, "fsx", is_running=False)
    stage = RunningStage(account, printed)

    def note(model: Any, **_: Any) -> None:
        made.add((model.service_model.service_name, model.name))

    account._session.events.register("before-call", note)
    use_the_stack(stage)
    assert not left(stage)
    assert find_stack(account, "fsx") is None
    calls = {(getattr(account, owner).meta.service_model.service_name, call) for owner, call in calls_in_source(OWN)}
    assert sorted(calls - made) == sorted(WITH_STUBS)
    assert len(printed.needed) > 100
    assert printed.denied() == []
    assert printed.allowed_for("another") == []


class RunningStage(Stage):
    """A stage that tells a policy whether a command runs."""

    def __init__(self, account: AwsAccount, printed: PrintedPolicy) -> None:
        super().__init__(account, printed.prefix)
        self.printed = printed

    def up(self, **options: Any) -> str | None:
        self.printed.is_running = True
        try:
            return super().up(**options)
        finally:
            self.printed.is_running = False

    def note_published(self) -> None:
        """Note the calls of obstore, which the policy does not see: published objects are looked for, and written."""
        bucket = f"{self.prefix}-models-123456789012-us-east-1"
        keys = [each["Key"] for each in self.account.s3.list_objects_v2(Bucket=bucket)["Contents"]]
        for action in ("s3:GetObject", "s3:PutObject"):
            checks = [PermissionCheck(action, f"arn:aws:s3:::{bucket}/{key}") for key in keys]
            self.printed.needed |= {str(check): check for check in checks}

    def down(self, **options: Any) -> None:
        self.printed.is_running = True
        try:
            super().down(**options)
        finally:
            self.printed.is_running = False


def use_the_stack(stage: RunningStage) -> None:
    account = stage.account
    stage.store_images()
    document = json.dumps(
        boundary_policy("fsx", {"partition": "aws", "region": "us-east-1", "account": "123456789012"})
    )
    boundary = account.iam.create_policy(PolicyName="fsx-us-east-1-boundary", PolicyDocument=document)["Policy"][
        "Arn"
    ]
    assert stage.up(dry_run=True) is None
    wanted = {"LogRetentionDays": "7", "DeletionProtection": "true", **WITH_SITE}
    settings = StackSettings(wanted, {"fleet.max_workers": "5"})
    address = stage.up(settings=settings, bundle="demo")
    stage.note_published()
    status = read_status(stage.context)
    assert status is not None
    assert (status.stack, status.page, status.template) == ("CREATE_COMPLETE", address, (1, 1))
    assert json.dumps(asdict(status))
    accounts_of(stage).add("a@example.org")
    user = accounts_of(stage).sub_of("a@example.org")
    stack = find_stack(account, "fsx")
    assert stack is not None
    assert stack.parameters["PermissionsBoundaryArn"] == boundary

    steps = len(stage.steps)
    assert stage.up() == address
    assert "CloudFormation has begun" not in stage.steps[steps:]
    (group,) = account.logs.describe_log_groups(logGroupNamePrefix="/fsx/web")["logGroups"]
    assert group["retentionInDays"] == 7
    assert account.dynamodb.describe_table(TableName="fsx-jobs")["Table"]["DeletionProtectionEnabled"]
    with pytest.raises(account.cloudformation.exceptions.ClientError, match="TerminationProtection is enabled"):
        account.cloudformation.delete_stack(StackName="fsx")

    changed = {"LogRetentionDays": "30", "UndeleteDays": "14", "AccessLogDays": "30"}
    stage.up(settings=StackSettings(changed))
    (group,) = account.logs.describe_log_groups(logGroupNamePrefix="/fsx/web")["logGroups"]
    assert group["retentionInDays"] == 30
    assert [account.s3.get_bucket_versioning(Bucket=each)["Status"] for each in data_buckets(stage)] == [
        "Enabled"
    ] * 2

    (web,) = instances_tagged(account, "fsx", states=["running"])
    assert session_command(account, select_instance([web], "fsx", "web"))[4] == web.instance_id

    launch_workers(stage, 2)
    make_belongings(stage)
    bucket = data_buckets(stage)[0]
    account.s3.put_object(Bucket=bucket, Key="kept", Body=b"image")
    account.s3.create_multipart_upload(Bucket=bucket, Key="unfinished")
    stage.down()
    assert account.s3.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"image"
    account.logs.create_log_group(logGroupName="/fsx/worker")  # by a worker's last words
    stage.down()
    assert "deleted the log group /fsx/worker" in stage.steps
    stage.up(settings=StackSettings({"DeletionProtection": "true"}))
    imported = re.findall(r"^ ?import +(\w+)", stage.seen, re.MULTILINE)
    assert sorted(imported) == ["InputBucket", "JobTable", "LogBucket", "ModelBucket", "OutputBucket"]
    assert account.s3.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"image"
    assert accounts_of(stage).sub_of("a@example.org") == user
    stage.down(delete_data=True)


def accounts_of(stage: Stage) -> Accounts:
    """Return the accounts of the stack's pool."""
    stack = find_stack(stage.account, stage.prefix)
    assert stack is not None
    return Accounts(stage.account.cognito, stack.outputs["UserPoolId"])


TEMPLATES = ("WebTemplate", "WorkerTemplate")


def test_cfn_lint_has_nothing_to_say_by_its_strictest_rules() -> None:
    command = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run(
        [command, "--include-checks", "I", "W", "--", TEMPLATE_PATH], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


@pytest.mark.parametrize("name", TEMPLATES)
def test_user_data_is_a_shell_script_without_secrets(name: str) -> None:
    script = user_data(name)
    assert script.startswith("#!/bin/sh\n")
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"secret|password|token|AKIA|resolve:(ssm-secure|secretsmanager)", script, re.IGNORECASE)


@pytest.mark.parametrize(("tier", "name"), [("WebTemplate", "WebSettings"), ("WorkerTemplate", "WorkerSettings")])
def test_settings_have_the_last_word_in_user_data_and_a_shell_reads_them(
    tier: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = '["a b", {"x": 1}]'
    line = config_parameters({"worker.idle_seconds": "7", "worker.batch_size": value})[name]
    monkeypatch.setitem(GIVEN, name, line)
    script = user_data(tier).rsplit("\n", 2)[0]
    shown = subprocess.run(["sh", "-c", f"{script}\nenv"], capture_output=True, text=True, check=True, env={}).stdout
    assert "FLEETSIGHT__WORKER__IDLE_SECONDS=7\n" in shown
    assert f"FLEETSIGHT__WORKER__BATCH_SIZE={value}\n" in shown
