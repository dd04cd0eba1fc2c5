"""The system runs with the settings and the roles of `infra/stack.yaml`, which allow what it needs, and no more."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import requests

from app_tier.bundle import DEMO_BUNDLE
from app_tier.pipeline import MAX_TRIES
from app_tier.receiver import MALFORMED_RECEIVES
from core.images import FORMATS
from core.jobs.buckets import OutputBucket
from core.messages import Heartbeat, RequestMessage
from fleetsight_client.api import UploadResult
from localcloud.launch import REGION
from scripts.client import FleetClient
from scripts.demo_model.signs import samples
from scripts.run.sign_in import operator_token
from scripts.run.system import free_port
from services.clients import Clients
from services.clock import utc_now
from services.ec2 import STACK_TAG, Fleet
from services.endpoint import Endpoint
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from services.table import Table
from tests.conftest import keys_in
from tests.support.bundles import relabelled_bundle
from tests.support.forked_system import ForkedCloud
from tests.support.forms import upload_by_forms
from tests.support.iam.checks import ACCOUNT, Account, checks_of
from tests.support.iam.judge import PermissionCheck, Verdict
from tests.support.iam.recording import FILE_VARIABLE, RECORDING, RecordedCall, read_calls
from tests.support.least_privilege import (
    DENIED_CALLS,
    IMAGE,
    NAME,
    DeployedStack,
    web_command,
    worker_command,
)
from tests.support.stack_template import GIVEN, SERVER_ROLES, listed, statements
from tests.support.waiting import wait_until
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

HASTE = {
    "FLEETSIGHT__CONTROLLER__INTERVAL_SECONDS": "0.4",
    "FLEETSIGHT__CONTROLLER__RECONCILE_SECONDS": "1",
    "FLEETSIGHT__CONTROLLER__LOST_AFTER_SECONDS": "2",
    "FLEETSIGHT__FLEET__BOOT_ALLOWANCE_SECONDS": "6",
    "FLEETSIGHT__FLEET__MARKET": "spot",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "3",
    "FLEETSIGHT__IMPORTS__SOURCES": '[{"location": "s3://photos/incoming"}]',
    "FLEETSIGHT__IMPORTS__DESTINATIONS": '[{"location": "s3://photos/labels"}]',
}
"""Short intervals, and Spot instances; `on_demand` has the calls of other launches."""


def signs(count: int, seed: int) -> list[tuple[str, bytes, str]]:
    """Return drawn signs: name, content, label."""
    return [(each.filename, each.data, each.label) for each in samples(count, seed)]


@dataclass
class Deployed:
    """The system on a cloud that records what the stack's roles call.

    Attributes:
        truth: labels by image.
        judged: what iam-simulate decided about each permission that the calls of a role need.
        denied: whether each of `DENIED_CALLS` is denied.
    """

    stack: DeployedStack
    clients: Clients
    api: FleetClient
    truth: dict[str, str] = field(default_factory=dict)
    judged: dict[str, dict[str, tuple[PermissionCheck, Verdict]]] = field(default_factory=dict)
    denied: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        outputs, sqs = self.stack.outputs, self.clients.sqs
        self.inputs = Bucket.named(self.clients, outputs["InputBucketName"])
        self.outputs = Bucket.named(self.clients, outputs["OutputBucketName"])
        self.requests = Queue.named(sqs, outputs["RequestQueueName"])
        self.dead_letters = Queue.named(sqs, outputs["DeadLetterQueueName"])
        self.responses = Queue(sqs, GIVEN["ResponseQueue"])
        self.fleet = Fleet(self.clients.ec2, outputs["WorkerInstanceName"])

    def upload(self, job_id: str, files: list[tuple[str, bytes, str]]) -> UploadResult:
        """Upload images, and remember what they are."""
        outcome = self.api.add_images(job_id, [(name, content) for name, content, _ in files])
        labels = {name: label for name, _, label in files}
        self.truth |= {image_id: labels[name] for image_id, name in outcome.accepted}
        return outcome

    def ended(self, job_id: str) -> bool:
        """Return whether every image of a job has its result."""
        return bool(self.api.status(job_id)["state"] == "finished")

    def wrong(self, job_id: str) -> list[dict[str, Any]]:
        """Return the results of a job that are not what the image shows."""
        return [each for each in self.api.results(job_id) if each.get("label") != self.truth[each["image_id"]]]

    def workers(self) -> list[str]:
        """Return the ids of the instances that are pending or running."""
        return [each.instance_id for each in self.fleet.instances(("pending", "running"))]

    def standing_by(self) -> str | None:
        """Return the id of a protected instance that operators see, or None; their list is a second behind EC2."""
        listed = {each["instance_id"] for each in self.api.instances()["instances"]}
        return next(
            (each.instance_id for each in self.fleet.instances() if each.protected and each.instance_id in listed),
            None,
        )

    def pause(self, idle: str) -> None:
        """Pause the fleet, and wait until the controller knows and no worker is left but the instance `idle`."""
        self.api.pause("a test")
        wait_until(lambda: (self.api.fleet() or {})["reason"].startswith("paused"), "the fleet is paused")
        wait_until(lambda: set(self.workers()) <= {idle}, "the workers are idle and end")

    def known(self) -> dict[str, str]:
        """Return the values of the placeholders in `DENIED_CALLS`."""
        outputs = self.stack.outputs
        return {
            "group": GIVEN["WebSecurityGroup"],
            "inputs": self.inputs.name,
            "models": outputs["ModelBucketName"],
            "outputs": self.outputs.name,
            "requests": self.requests.url,
            "responses": GIVEN["ResponseQueue"],
            "template": "fleetsight-worker",
            "web": self.stack.instances(outputs["WebInstanceName"])[0]["InstanceId"],
            "web_profile": f"{NAME}-WebProfile",
            "web_template": "fleetsight-web",
            "worker": self.stack.instances(self.fleet.name)[0]["InstanceId"],
            "worker_name": self.fleet.name,
        }

    def request(self, method: str, path: str) -> requests.Response:
        """Make a request of the API that its client has no method for."""
        headers = {"Authorization": f"Bearer {self.api.token}"}
        return requests.request(method, f"{self.api.base_url}/api/v1{path}", headers=headers, timeout=120)

    def logs(self) -> str:
        """Return the latest warnings and errors of all instances."""
        consoles = (self.stack.cloud.state_dir / "instances").glob("*/console.log")
        lines = [line for path in consoles for line in path.read_text(errors="replace").splitlines()]
        return "\n".join([line for line in lines if '"level": "info"' not in line][-30:])


@pytest.fixture(scope="module")
def deployed(_no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Web instance and stack on a cloud of their own, which records all calls."""
    folder, port = tmp_path_factory.mktemp("stack"), free_port()
    (folder / "session-keys").write_text("k" * 64)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv(FILE_VARIABLE, str(folder / "calls"))
    with ForkedCloud(folder, extensions=RECORDING) as cloud, patch.dict(GIVEN):
        monkeypatch.undo()
        stack, url = DeployedStack(cloud), cloud.endpoint_url
        haste = {**HASTE, KEYS_FILE_VARIABLE: str(folder / "session-keys")}
        GIVEN.update({"WebImage": IMAGE, "WorkerImage": IMAGE, "AWS::Region": REGION})
        GIVEN["Events"] = f"arn:aws:sns:{REGION}:{ACCOUNT}:{NAME}-events"
        GIVEN.update(StartWorker=worker_command(url), StartWeb=web_command(folder, url, port, haste))
        put_bundle(stack)
        stack.create()
        clients, page = Clients(Endpoint(REGION, url)), f"http://127.0.0.1:{port}"
        wait_until(FleetClient(page).ready, "the page of the stack's web instance")
        table = Table(clients.dynamodb, stack.outputs["JobTableName"])
        api = FleetClient(page, token=operator_token(table))
        yield Deployed(stack, clients, api)
        api.close()


def put_bundle(stack: DeployedStack) -> None:
    """Put the demo bundle where the stack's parameter says that it is."""
    bucket, _, prefix = GIVEN["BundleAddress"].removeprefix("s3://").partition("/")
    s3 = stack.client("s3")
    s3.create_bucket(Bucket=bucket)
    for path in DEMO_BUNDLE.iterdir():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())


OTHER_LABELS = " (2)"
"""What each label of the other bundle ends with."""


def put_other_bundle(stack: DeployedStack, place: str) -> str:
    """Put a copy of the demo bundle with other labels there; return its digest."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    with tempfile.TemporaryDirectory() as scratch:
        digest = relabelled_bundle(Path(scratch) / "other", "other", OTHER_LABELS)
        for path in (Path(scratch) / "other").iterdir():
            stack.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
    return digest


@pytest.fixture(scope="module")
def lived(deployed: Deployed) -> Deployed:
    """The same after a day in its life, and what iam-simulate decides about its calls and all others."""
    idle = launch_an_idle_instance(deployed)
    kept = deployed.api.create_job("kept", keep=True)
    unkept = deployed.api.create_job("not kept")
    deployed.upload(kept, signs(20, 1))
    deployed.upload(unkept, signs(10, 2))
    for job_id in (kept, unkept):
        upload_straight_to_the_bucket(deployed, job_id, signs(3, 3))
    broken = ("cut.jpg", next(data for name, data, _ in signs(10, 2) if name.endswith(".jpg"))[:900], "")
    deployed.upload(unkept, [broken])
    wait_until(lambda: deployed.ended(kept) and deployed.ended(unkept), "all has a result", details=deployed.logs)
    hold_and_drain(deployed)
    retry_what_failed(deployed, lose_requests(deployed, idle))
    cancel_and_resume(deployed, idle)
    take_from_s3(deployed, signs(3, 7), keep=True)
    take_from_s3(deployed, signs(3, 7), keep=False)
    use_another_model(deployed)
    assert deployed.wrong(kept) == []
    wait_until(lambda: merged(deployed, kept), "the results are one file")
    deployed.request("DELETE", f"/jobs/{unkept}").raise_for_status()
    wait_until(
        lambda: not keys_in(deployed.inputs, unkept) + keys_in(deployed.outputs, unkept), "a deleted job is gone"
    )
    wait_until(lambda: idle not in deployed.workers(), "the unhealthy instance is terminated")
    assert "lines" in deployed.api.console(idle)
    judge_roles(deployed)
    return deployed


def judge_roles(deployed: Deployed) -> None:
    """Judge all permissions of each role at once: a start of iam-simulate costs more than its verdicts."""
    calls = read_calls(deployed.stack.cloud.state_dir / "calls")
    account, known = Account(deployed.stack.client), deployed.known()
    for role in SERVER_ROLES:
        arn = GIVEN[f"{role}.Arn"]
        own = [call for call in calls if call.role == arn]
        used = {str(check): check for call in [*own, *on_demand(own)] for check in checks_of(call, account)}
        others = [
            (words, check)
            for words, attempt in DENIED_CALLS.items()
            if attempt.role == role
            for check in checks_of(attempt.call(arn, known), account)
        ]
        checks = [*used.values(), *(check for _, check in others)]
        verdicts = iter(deployed.stack.verdicts(role, checks))
        deployed.judged[role] = {name: (check, next(verdicts)) for name, check in used.items()}
        for words, _ in others:
            deployed.denied[words] = not next(verdicts).allowed or deployed.denied.get(words, False)
        assert next(verdicts, None) is None


def on_demand(calls: list[RecordedCall]) -> list[RecordedCall]:
    """Return the launches among the calls as they are if `fleet.market` is not spot."""
    launches = [call for call in calls if call.service == "ec2" and "Action=RunInstances" in call.body]
    return [replace(call, body=re.sub(r"&?InstanceMarketOptions[^&]*", "", call.body)) for call in launches]


def launch_an_idle_instance(deployed: Deployed) -> str:
    """Launch an instance of the fleet by hand that never works; return its id."""
    own = [{"Key": "Name", "Value": deployed.fleet.name}, {"Key": STACK_TAG, "Value": NAME}]
    tags = [{"ResourceType": "instance", "Tags": own}]
    reply = deployed.clients.ec2.run_instances(
        ImageId="ami-12c6146b",
        MinCount=1,
        MaxCount=1,
        UserData="#!/bin/sh\nexec sleep 300\n",
        TagSpecifications=tags,  # type: ignore[arg-type]
    )
    return reply["Instances"][0]["InstanceId"]


def upload_straight_to_the_bucket(deployed: Deployed, job_id: str, files: list[tuple[str, bytes, str]]) -> None:
    """Upload by forms that the web tier signs."""
    kinds = {accepted.extension: accepted.content_type for accepted in FORMATS.values()}
    wanted = {name: (data, kinds[name.rpartition(".")[2]]) for name, data, _ in files}
    labels = {name: label for name, _, label in files}
    accepted = upload_by_forms(deployed.api, job_id, wanted)
    assert len(accepted) == len(files)
    deployed.truth |= {image_id: labels[name] for image_id, name in accepted}


def hold_and_drain(deployed: Deployed) -> None:
    """Have a worker stand by, drain it, and go back to none."""
    deployed.api.set_limits(1, 3, "a test")
    held = wait_until(deployed.standing_by, "a protected worker is in the list of instances", details=deployed.logs)
    deployed.api.drain(held)
    wait_until(lambda: held not in deployed.workers(), "a draining worker ends")
    wait_until(lambda: any(each.protected for each in deployed.fleet.instances()), "another takes its place")
    deployed.api.reset_limits()
    wait_until(lambda: not any(each.protected for each in deployed.fleet.instances()), "no worker is protected")


def retry_what_failed(deployed: Deployed, job_id: str) -> None:
    """Retry the image that was tried too often; the other failed one is no longer stored."""
    answer = deployed.request("POST", f"/jobs/{job_id}/retry")
    answer.raise_for_status()
    assert (answer.json()["sent"], len(answer.json()["gone"])) == (1, 1), answer.text
    wait_until(lambda: len(deployed.wrong(job_id)) == 1, "the retried image has its label", details=deployed.logs)


def cancel_and_resume(deployed: Deployed, idle: str) -> None:
    """Cancel a job before any of its images is classified, and resume it when workers have seen its requests."""
    deployed.pause(idle)
    job_id = deployed.api.create_job("cancelled", keep=True)
    deployed.upload(job_id, signs(3, 6))
    assert deployed.api.cancel(job_id)["state"] == "cancelled"
    wait_until(lambda: deployed.api.status(job_id)["cancelled"] == 3, "each image fails", details=deployed.logs)
    deployed.api.resume()
    wait_until(lambda: deployed.requests.counts().total == 0, "workers drop the requests", details=deployed.logs)
    assert deployed.api.status(job_id)["cancelled"] == 3
    assert deployed.api.retry(job_id)["sent"] == 3
    wait_until(lambda: deployed.wrong(job_id) == [], "the resumed images have their labels", details=deployed.logs)


def lose_requests(deployed: Deployed, idle: str) -> str:
    """Remove requests from the queue: one returns as a dead letter, another one must be sent again.

    The third one was tried so often that its image fails, and a message that is no request was received as often. And
    of an image that is requested still, take the image away. Return the job's id.
    """
    deployed.pause(idle)
    job_id = deployed.api.create_job("lost", keep=True)
    deployed.upload(job_id, signs(3, 4))
    taken: list[Any] = []

    def took_all() -> bool:
        taken.extend(deployed.requests.receive(wait_seconds=1))
        return len(taken) == 3

    wait_until(took_all, "three requests are taken")
    release(deployed, [each.receipt for each in taken])
    taken.clear()
    wait_until(took_all, "they are visible again, and taken")
    dead, lost, worn_out = taken
    deployed.requests.delete([dead.receipt, lost.receipt])
    deployed.requests.change_visibility([worn_out.receipt], 0)
    assert deployed.requests.send([OutgoingMessage("none", "is no request")]) == []
    receives: dict[str, int] = {}

    def are_worn_out() -> bool:
        batch = deployed.requests.receive(wait_seconds=0)
        receives.update({each.id: each.receive_count for each in batch})
        deployed.requests.change_visibility([each.receipt for each in batch], 0)
        return len(receives) == 2 and min(receives.values()) >= MALFORMED_RECEIVES

    wait_until(are_worn_out, "two messages are received often")
    (ref,) = RequestMessage.from_json(worn_out.body).refs
    for number in range(MAX_TRIES):
        OutputBucket(deployed.outputs).add_try(ref, worn_out.id, number)
    old = RequestMessage.from_json(dead.body).model_copy(update={"submitted_at": datetime(2026, 1, 1, tzinfo=UTC)})
    assert deployed.dead_letters.send([OutgoingMessage("dead", old.to_json())]) == []
    deployed.upload(job_id, signs(1, 5))
    newest = max(keys_in(deployed.inputs, job_id))
    deployed.inputs.delete(newest)
    deployed.api.resume()
    wait_until(lambda: deployed.ended(job_id), "lost images have a result", details=deployed.logs)
    assert [each["status"] for each in deployed.wrong(job_id)] == ["failed", "failed"]
    return job_id


def release(deployed: Deployed, receipts: list[str]) -> None:
    """Report requests as held by a worker of an instance that has ended."""
    gone = deployed.fleet.instances(("terminated",))[-1].instance_id
    beat = Heartbeat(worker=gone, at=utc_now(), state="busy", images=0, in_hand=3, receipts=tuple(receipts))
    assert deployed.responses.send([OutgoingMessage("dead", beat.to_json())]) == []
    wait_until(lambda: deployed.requests.counts().visible == 3, "the controller releases them", details=deployed.logs)


def take_from_s3(deployed: Deployed, files: list[tuple[str, bytes, str]], *, keep: bool) -> None:
    """Make a job of images in a bucket of the user, which are copied if it keeps them."""
    s3 = deployed.stack.client("s3")
    if keep:
        s3.create_bucket(Bucket="photos")
    for name, content, _ in files:
        s3.put_object(Bucket="photos", Key=f"incoming/day1/{name}", Body=content)
    wanted = {"name": "from S3", "keep": keep, "source": "s3://photos/incoming/day1"}
    wanted["results"] = "s3://photos/labels/day1"
    headers = {"Authorization": f"Bearer {deployed.api.token}"}
    address = f"{deployed.api.base_url}/api/v1/jobs"
    made = requests.post(address, json=wanted, headers=headers, timeout=120)
    assert made.status_code == 201, made.text
    job_id = str(made.json()["job_id"])

    def is_finished() -> bool:
        return bool(deployed.request("GET", f"/jobs/{job_id}").json()["state"] == "finished")

    wait_until(is_finished, "the job from S3 is finished", details=deployed.logs)
    results = deployed.request("GET", f"/jobs/{job_id}/results").json()["results"]
    assert {each["filename"]: each["label"] for each in results} == {name: label for name, _, label in files}

    def copy() -> dict[str, Any]:
        return dict(deployed.request("GET", f"/jobs/{job_id}").json()["results"])

    wait_until(lambda: copy()["state"] != "waiting", "the results are copied", details=deployed.logs)
    assert copy() == {"uri": f"s3://photos/labels/day1/{job_id}.jsonl", "state": "written", "error": None}
    copied = s3.get_object(Bucket="photos", Key=f"labels/day1/{job_id}.jsonl")["Body"].read().decode()
    rows = [json.loads(line) for line in copied.splitlines()]
    assert {row["filename"]: row["label"] for row in rows} == {name: label for name, _, label in files}


def use_another_model(deployed: Deployed) -> None:
    """Add a bundle from the bucket of the stack's bundle, give it to new jobs, and roll back."""
    place = f"{GIVEN['BundleAddress']}/other"
    digest = put_other_bundle(deployed.stack, place)
    deployed.api.add_model(place, None)
    assert deployed.api.use_model("other")["default"] == "other"
    job_id = deployed.api.create_job("with another model")
    assert deployed.api.status(job_id)["model"] == {"name": "other", "digest": digest}
    deployed.upload(job_id, signs(3, 8))
    wait_until(lambda: deployed.ended(job_id), "the other model has classified", details=deployed.logs)
    assert [str(each["label"]).endswith(OTHER_LABELS) for each in deployed.api.results(job_id)] == [True] * 3
    assert deployed.api.roll_back_model()["default"] == "demo"


def merged(deployed: Deployed, job_id: str) -> bool:
    """Return whether the web tier hands out all results of a job as one file."""
    answer = deployed.request("GET", f"/jobs/{job_id}/results/file")
    return answer.ok and len(answer.text.splitlines()) == 23


def test_a_day_in_the_life_of_the_system_is_denied_nothing(lived: Deployed) -> None:
    for role in SERVER_ROLES:
        assert [check for check, verdict in lived.judged[role].values() if not verdict.allowed] == []
        assert len(lived.judged[role]) > 20


ELSEWHERE = {
    # Role and statement, and why no call of the local cloud makes use of it.
    ("WebRole", "WriteLogs"): "the CloudWatch agent is AWS's own program and runs on the image alone",
    ("WorkerRole", "WriteLogs"): "the same",
    ("WebRole", "OpenSessions"): "Session Manager's agent is AWS's own program and runs on the image alone",
    ("WorkerRole", "OpenSessions"): "the same",
    ("WebRole", "SignalTheStack"): "the image's `report_ready.py` signals, and no stack waits here",
    ("WebRole", "TakeThePagesAddress"): "the same program takes the address, and no address leads here",
    ("WebRole", "GiveItToAWebInstance"): "the same",
    ("WebRole", "AtItsNetworkInterface"): "the same",
    ("ControllerRole", "EncryptDisks"): "EC2 needs it in the controller's name, and no disk is encrypted here",
    ("ControllerRole", "LetDisksUseTheKey"): "the same",
    **{
        (
            role,
            sid,
        ): "S3, SQS and DynamoDB need it in the role's name, and nothing that is stored is encrypted here"
        for role in SERVER_ROLES
        for sid in ("EncryptData", "EncryptTheTable", "LetTheTableUseTheKey")
        if sid == "EncryptData" or role != "WorkerRole"
    },
    ("WebRole", "ReadTheCertificate"): "the image's `start` reads it, before there is a web tier",
    ("WebRole", "DecryptTheCertificate"): "Systems Manager needs it in the web role's name, at that moment",
    ("WebRole", "ReadTheKeysOfSignIn"): "the image's `start` reads them, before there is a web tier",
    ("WebRole", "DecryptTheKeysOfSignIn"): "Systems Manager needs it in the web role's name, at that moment",
}
"""Statements that the day does not use; `tests/unit/infra/test_roles.py` has their resources and conditions."""
STATEMENTS = [(role, sid) for role in SERVER_ROLES for sid in statements(role)]


ON_BAD_DAYS = {
    ("ControllerRole", "KeepJobs", "dynamodb:BatchGetItem"): "results are merged while images are tried again",
    ("ControllerRole", "KeepJobs", "dynamodb:DeleteItem"): "a lease is released, or a job is closed after a while",
    ("WebRole", "PublishModels", "s3:AbortMultipartUpload"): "a large model breaks off",
    ("ControllerRole", "PublishModels", "s3:AbortMultipartUpload"): "the same",
    ("WebRole", "KeepImages", "s3:DeleteObject"): "an image that was put and could not be recorded is taken back",
    ("ControllerRole", "CollectAnswers", "sqs:ChangeMessageVisibility"): "answers that could not be stored go back",
    (
        "ControllerRole",
        "RepairMergeAndDeleteResults",
        "s3:AbortMultipartUpload",
    ): "a large file of results breaks off",
    ("ControllerRole", "StartAndEndWorkers", "ec2:StartInstances"): "only where machines stop, not where they end",
    ("WorkerRole", "TakeRequests", "sqs:ChangeMessageVisibility"): "an image takes long, or a try counts",
    ("WorkerRole", "TakeRequests", "sqs:GetQueueAttributes"): "a FIFO queue delivers nothing, and a worker would end",
    ("WorkerRole", "TakeRequests", "sqs:SendMessage"): "a worker ends and gives back what it has not answered",
}
"""Single actions that this day may do without, and what they are for."""


def test_every_single_action_is_used_but_a_few_for_bad_days(lived: Deployed) -> None:
    used = {
        (role, sid, check.action)
        for role in SERVER_ROLES
        for check, verdict in lived.judged[role].values()
        for sid in verdict.statements
    }
    allowed = {
        (role, sid, action)
        for role, sid in STATEMENTS
        if (role, sid) not in ELSEWHERE
        for action in listed(statements(role)[sid]["Action"])
    }
    assert set(ON_BAD_DAYS) <= allowed
    assert set(ELSEWHERE) <= set(STATEMENTS)
    assert allowed - used <= set(ON_BAD_DAYS)


@pytest.mark.parametrize("words", DENIED_CALLS)
def test_each_role_is_denied_what_is_not_its_own(lived: Deployed, words: str) -> None:
    assert lived.denied[words]
