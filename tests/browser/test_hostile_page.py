"""A page of another origin, open in the user's Chromium, gets nothing from the system: finding S1, fault 57."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser

from core.fleet.store import FleetStore
from core.jobs.items import PACK
from core.jobs.store import JobStore
from localcloud.clients import ControlClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from services.table import Table
from tests.browser.conftest import person, signed_in
from tests.support.servers import QuietHandler, serving
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

READ = """
async ([requests, patience]) => {
    const read = [];
    const ask = async ([url, options]) => {
        for (const mode of ["cors", "no-cors"]) {
            try {
                const signal = AbortSignal.timeout(patience);
                const answer = await fetch(url, {...options, mode, signal, credentials: "include"});
                if (answer.type !== "opaque") read.push(`${answer.status} ${url} ${await answer.text()}`);
            } catch { /* the browser kept the answer from the page */ }
        }
    };
    for (let at = 0; at < requests.length; at += 50) await Promise.all(requests.slice(at, at + 50).map(ask));
    return read;
}
"""
"""Sends requests, waits so many milliseconds for each, and returns the answers that the page may read."""

SUBMIT = """
async ([forms, patience]) => {
    for (const [action, kind, fields] of forms) {
        const name = `frame-${document.querySelectorAll("iframe").length}`;
        const frame = document.body.appendChild(Object.assign(document.createElement("iframe"), {name}));
        const form = document.body.appendChild(document.createElement("form"));
        Object.assign(form, {action, method: "post", enctype: kind, target: frame.name});
        for (const [name, value] of Object.entries(fields))
            form.appendChild(Object.assign(document.createElement("input"), {name, value}));
        await new Promise((done) => { frame.onload = done; setTimeout(done, patience); form.submit(); });
    }
}
"""
"""Submits forms blind: a form needs no preflight, and its answer goes into a frame that the page cannot read."""

SCANNED_PORTS = 30
"""On either side of a port that listens."""

SCAN_MS = 3_000
"""How long a scanned port has to answer; what listens there may be anything, and never answer."""

PATIENCE_MS = 20_000

SIGNED = "AWS4-HMAC-SHA256 Credential=AKIAGUESSED/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"
URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


class _Empty(QuietHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>holiday pictures</title>")


@pytest.fixture
def foreign_origin() -> Iterator[str]:
    """The origin of another site: browsers treat `localhost` and `127.0.0.1` as two sites."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Empty)) as url:
        yield url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("mode", ["system", "sign_in_system"], ids=["no sign-in", "signed in"])
def test_s1_a_foreign_page_reads_nothing_and_changes_nothing(
    request: pytest.FixtureRequest, browser: Browser, mode: str, foreign_origin: str, tmp_path: Path
) -> None:
    system: System = request.getfixturevalue(mode)
    job_id = classified_job(system)
    wait_until(lambda: is_quiet(system), "the images of earlier tests have results")
    before, mark = state_of(system, job_id), tmp_path / "a script of the page has run"
    context = browser.new_context(base_url=system.url)
    context.set_default_timeout(DEADLINE_SECONDS * 1_000)
    try:
        if mode == "sign_in_system":
            signed_in(context.new_page(), person(system, "victim"))
        page = context.new_page()
        page.goto(foreign_origin)
        assert page.evaluate(READ, [[(f"http://127.0.0.1:{port}/", {}) for port in scanned(system)], SCAN_MS]) == []
        assert page.evaluate(READ, [requests_to(system, job_id, launch_of(mark)), PATIENCE_MS]) == []
        page.evaluate(SUBMIT, [forms_to(system, job_id, launch_of(mark)), PATIENCE_MS])
    finally:
        context.close()
    assert not mark.exists()
    after = state_of(system, job_id)
    # The controller may still delete what earlier tests are done with: images that have results, and deleted jobs.
    for kind in ("objects", "jobs"):
        left, there = after.pop(kind), before.pop(kind)
        assert {each for each in there if job_id in str(each)} <= left <= there
    assert after == before


def classified_job(system: System) -> str:
    """Classify an image, so that there is a job and a worker with its metadata service; return the job."""
    api, [sign] = system.api(), list(samples(1, seed=int.from_bytes(os.urandom(3))))
    job_id = api.create_job("private", keep=True)
    api.add_images(job_id, [(sign.filename, sign.data)])
    wait_until(lambda: api.status(job_id)["state"] == "finished", "the image is classified")
    api.close()
    return job_id


def metadata_ports(system: System) -> list[int]:
    """Return the ports of the metadata services, those of instances that have ended included."""
    return [int(path.read_text()) for path in system.state_dir.glob("instances/*/port")]


def scanned(system: System) -> list[int]:
    """Return the ports around those that the system listens on."""
    listening = [int(url.rpartition(":")[2]) for url in (system.endpoint_url, system.url)]
    ports = {at + offset for at in listening for offset in range(-SCANNED_PORTS, SCANNED_PORTS)}
    return sorted(port for port in ports | set(metadata_ports(system)) if 1024 <= port < 65536)


def launch_of(mark: Path) -> dict[str, str]:
    """Return the fields of a call that launches an instance; the script of the instance makes the file `mark`."""
    script = base64.b64encode(f"#!/bin/sh\ntouch '{mark}'\n".encode()).decode()
    fields = {"Action": "RunInstances", "Version": "2016-11-15", "ImageId": "ami-12c6146b", "UserData": script}
    return fields | {"MinCount": "1", "MaxCount": "1", "InstanceType": "c7a.large"}


def requests_to(system: System, job_id: str, launch: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Return what a page may try to read: S3, SQS, EC2, DynamoDB, metadata, control, API and pages."""
    cloud, names = system.endpoint_url, system.config.names
    encoded = urlencode(launch)
    plain = {"Content-Type": "text/plain"}
    found: list[tuple[str, dict[str, Any]]] = [
        (f"{cloud}/?{encoded}", {}),
        (f"{cloud}/{names.input_bucket}", {}),
        (f"{cloud}/{names.input_bucket}", {"method": "DELETE"}),
        (f"{cloud}/{names.input_bucket}/planted", {"method": "PUT", "body": "x"}),
        (f"{cloud}/123456789012/{names.request_queue}?Action=PurgeQueue", {}),
        (f"{cloud}/moto-api/reset", {"method": "POST", "body": "x", "headers": plain}),
        (f"{cloud}/moto-api/data.json", {}),
        *((f"{cloud}/_embedded/{name}", {}) for name in ("health", "instances", "calls", "switches")),
        (f"{cloud}/_embedded/switches", {"method": "PUT", "body": json.dumps({"describe_failures": 9})}),
        *((f"{system.url}{path}", {}) for path in ("/", "/jobs", f"/jobs/{job_id}", "/fleet", "/api/v1/fleet")),
        *((f"{system.url}/api/v1/jobs{path}", {}) for path in ("", f"/{job_id}", f"/{job_id}/results")),
        (f"{system.url}/api/v1/jobs", {"method": "POST", "body": "{}", "headers": plain}),
        (f"{system.url}/api/v1/jobs/{job_id}", {"method": "DELETE"}),
    ]
    for service in ("s3", "sqs", "ec2", "dynamodb"):
        signed = {"Authorization": SIGNED.format(service), "Content-Type": URLENCODED}
        found.append((f"{cloud}/", {"method": "POST", "body": encoded, "headers": signed}))
    for port in metadata_ports(system):
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        found.append((f"http://127.0.0.1:{port}/latest/api/token", {"method": "PUT", "headers": wanted}))
        found.append((f"http://127.0.0.1:{port}/latest/meta-data/iam/security-credentials/", {}))
    return found


def forms_to(system: System, job_id: str, launch: dict[str, str]) -> list[tuple[str, str, dict[str, str]]]:
    """Return the forms that a page may submit blind."""
    cloud, names = system.endpoint_url, system.config.names
    return [
        (f"{cloud}/", URLENCODED, launch),
        (f"{cloud}/", MULTIPART, launch),
        (f"{cloud}/moto-api/reset", "text/plain", {}),
        (f"{cloud}/{names.input_bucket}", MULTIPART, {"key": "planted", "file": "x"}),
        (f"{cloud}/123456789012/{names.request_queue}", URLENCODED, {"Action": "PurgeQueue"}),
        (f"{system.url}/", MULTIPART, {"name": "planted"}),
        (f"{system.url}/jobs/{job_id}/delete", URLENCODED, {"sure": "yes"}),
        (f"{system.url}/fleet/pause", URLENCODED, {"reason": "planted"}),
    ]


def is_quiet(system: System) -> bool:
    """Return True if no image of any job waits for its result."""
    store = JobStore(Table(system.clients.dynamodb, system.config.names.job_table))
    return all(store.status(job.job_id).state != "running" for job in store.jobs_until(datetime.now(UTC)))


def state_of(system: System, job_id: str) -> dict[str, Any]:
    """Return what a page could have changed, without results of other jobs, which the controller may still write."""
    clients, names = system.clients, system.config.names
    reservations = clients.ec2.describe_instances()["Reservations"]
    items = clients.dynamodb.scan(TableName=names.job_table)["Items"]
    objects = clients.s3.list_objects_v2(Bucket=names.input_bucket)
    with closing(ControlClient(system.endpoint_url)) as cloud:
        switches = cloud.get("switches")
    return {
        "instances": {each["InstanceId"] for reservation in reservations for each in reservation["Instances"]},
        "jobs": {
            (pk, sk)
            for pk, sk in ((item["pk"]["S"], item["sk"]["S"]) for item in items)
            if pk == f"JOB#{job_id}" or pk.startswith("JOBS") or (pk.startswith("JOB#") and sk.startswith(PACK))
        },
        "objects": {each["Key"] for each in objects.get("Contents", [])},
        "paused": FleetStore(Table(clients.dynamodb, names.job_table)).commands().pause,
        "switches": switches,
    }
