"""A page of another origin, open in the user's Chromium, gets nothing from the system: finding S1, fault 57."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from scripts.run.system import System

pytestmark = pytest.mark.processes

ATTACK = """
async ({requests}) => {
    const read = [];
    for (const [url, options] of requests) {
        for (const mode of ["cors", "no-cors"]) {
            try {
                const answer = await fetch(url, {...options, mode});
                if (answer.type !== "opaque") read.push(`${answer.status} ${url} ${await answer.text()}`);
            } catch { /* the browser kept the answer from the page */ }
        }
    }
    return read;
}
"""
SIGNED = "AWS4-HMAC-SHA256 Credential=embedded/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>holiday pictures</title>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def foreign_origin() -> Iterator[str]:
    """The origin of another site: browsers treat `localhost` and `127.0.0.1` as two sites."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def form(**fields: str) -> str:
    return "&".join(f"{name}={value}" for name, value in fields.items())


def test_s1_a_foreign_page_reads_nothing_and_changes_nothing(
    browser: Browser, system: System, foreign_origin: str, tmp_path: Path
) -> None:
    cloud, bucket = system.endpoint_url, system.config.names.input_bucket
    mark = tmp_path / "a script of the page has run"
    script = base64.b64encode(f"#!/bin/sh\ntouch '{mark}'\n".encode()).decode()
    launch = form(
        Action="RunInstances", Version="2016-11-15", ImageId="ami-12c6146b", MinCount="1", MaxCount="1",
        InstanceType="c7a.large", UserData=script.replace("+", "%2B").replace("=", "%3D"),
    )  # fmt: skip
    instances = {each["InstanceId"] for each in everything(system)}
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    requests: list[tuple[str, dict[str, Any]]] = [
        (
            f"{cloud}/",
            {"method": "POST", "body": launch, "headers": {**urlencoded, "Authorization": SIGNED.format("ec2")}},
        ),
        (f"{cloud}/", {"method": "POST", "body": launch, "headers": urlencoded}),
        (f"{cloud}/?{launch}", {}),
        (f"{cloud}/", {"headers": {"Authorization": SIGNED.format("s3")}}),
        (f"{cloud}/{bucket}", {}),
        (f"{cloud}/{bucket}", {"method": "DELETE"}),
        (f"{cloud}/{bucket}/planted", {"method": "PUT", "body": "x"}),
        (f"{cloud}/moto-api/reset", {"method": "POST", "body": "x", "headers": {"Content-Type": "text/plain"}}),
        (f"{cloud}/moto-api/data.json", {}),
        (f"{cloud}/_embedded/mail", {}),
        (f"{cloud}/_embedded/instances", {}),
        (f"{cloud}/_embedded/switches", {"method": "PUT", "body": json.dumps({"describe_failures": 9})}),
        (f"{system.url}/api/v1/jobs", {}),
        (f"{system.url}/api/v1/jobs", {"method": "POST", "body": "{}"}),
    ]
    jobs = len(jobs_of(system))
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(foreign_origin)
        assert page.evaluate(ATTACK, {"requests": requests}) == []
    finally:
        context.close()
    assert not mark.exists()
    assert {each["InstanceId"] for each in everything(system)} == instances
    assert "Contents" not in system.clients.s3.list_objects_v2(Bucket=bucket, Prefix="planted")
    assert len(jobs_of(system)) == jobs


def everything(system: System) -> list[Any]:
    reservations = system.clients.ec2.describe_instances()["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def jobs_of(system: System) -> list[Any]:
    table = system.config.names.job_table
    scanned = system.clients.dynamodb.scan(TableName=table)["Items"]
    return [item for item in scanned if item["pk"].get("S", "").startswith("JOB#")]
