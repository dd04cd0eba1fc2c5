"""The documents' commands that start a system run as they are written, in a shell, until Ctrl-C.

The reader has a free port in place of 8000, and a home of their own. `test_documented_stories.py` has the pages on
which more commands follow while the system runs, or after it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import yaml

from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.sign_in import OPERATOR
from tests.support.documents import DOCUMENTS, command_blocks, name_of
from tests.support.otlp import OtlpCollector, otlp_collector
from tests.support.reader import (
    OPERATE,
    POLICY,
    STATE,
    STORIES,
    Reader,
    Run,
    command_in,
    without_comment,
    yaml_in,
)
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

STARTS = re.compile(r"(?:FLEETSIGHT__\w+=\S+ )*\./scripts/run\.sh")


def expect_proxied(run: Run) -> None:
    """The page answers to its name, as a proxy passes it on, and says that browsers shall use TLS."""
    run.expect(rf"You are {OPERATOR}, and your password is \S+")
    run.expect(r"everything stays in \S+/fleetsight-state")
    proxied = {"Host": "photos.example.org", "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    answer = requests.get(f"{run.url}/readyz", headers=proxied, timeout=DEADLINE_SECONDS)
    assert answer.json() == {"ready": True, "missing": {}}
    assert "Strict-Transport-Security" in answer.headers
    other = {**proxied, "Host": "other.example.org"}
    assert requests.get(f"{run.url}/readyz", headers=other, timeout=DEADLINE_SECONDS).status_code == 421


def expect_both_models(run: Run) -> None:
    """The drawn signs get the demo model; all other images get the one for photos."""
    run.expect_batch()
    run.expect(r"\n100 images, demo@")
    run.expect(r"\nModels: photos for new jobs, demo for this job\.\n")
    models = ApiClient(run.url).models()
    assert (models["default"], [each["name"] for each in models["models"]]) == ("photos", ["photos", "demo"])
    sign = next(samples(1, seed=1))
    answer = requests.post(run.url, files={"f": (sign.filename, sign.data)}, timeout=DEADLINE_SECONDS)
    assert answer.text.endswith("!"), answer.text


def expect_sign_in(run: Run) -> None:
    """The API refuses clients without the operator's token, which the command prints."""
    run.expect(rf"You are {OPERATOR}, and your password is \S+")
    assert requests.get(f"{run.url}/api/v1/jobs", timeout=DEADLINE_SECONDS).status_code == 401
    run.expect_batch(run.expect(r"export FLEETSIGHT_TOKEN=(\S+)"))


def expect_metrics(run: Run) -> None:
    """Each address of the configuration of Prometheus answers with metrics."""
    run.expect_batch()
    path = run.expect(r"prometheus --config\.file=(\S+)")
    scraped = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["scrape_configs"]
    assert [each["job_name"] for each in scraped] == ["fleetsight-web", "fleetsight-controller"]
    for each in scraped:
        (target,) = each["static_configs"][0]["targets"]
        assert "fleetsight_" in requests.get(f"http://{target}/metrics", timeout=DEADLINE_SECONDS).text


def expect_switches(*switches: str) -> Callable[[Run], None]:
    """Return a check that the batch is right, and that the local cloud has the switches."""

    def expect(run: Run) -> None:
        run.expect_batch()
        shown = run.expect(r"The local cloud is at \S+: (.*)")
        assert [each for each in switches if each not in shown] == []

    return expect


SLOW_BOOTS = ("boot_delay_seconds=5", "boot_delay_tail_seconds=20", "stuck_boot_fraction=0.05")

EXPECTED: Mapping[str, Callable[[Run], None]] = {
    "./scripts/run.sh": expect_both_models,
    "./scripts/run.sh --sign-in": expect_sign_in,
    "./scripts/run.sh --metrics": expect_metrics,
    "./scripts/run.sh --model resnet18": Run.expect_batch,
    "./scripts/run.sh --scenario bad-day.yaml": expect_switches("duplicate_deliveries=0.05", "SendMessageBatch"),
    "FLEETSIGHT__FLEET__IMAGES_PER_WORKER=10 FLEETSIGHT__FLEET__MAX_WORKERS=6 ./scripts/run.sh "
    f"{' '.join(f'--switch {each}' for each in SLOW_BOOTS)}": expect_switches(*SLOW_BOOTS),
    "./scripts/run.sh --switch 'capacity={c7a.large: 2}' --switch spot_notice_after_seconds=10": expect_switches(
        "capacity={c7a.large: 2}", "spot_notice_after_seconds=10"
    ),
    "FLEETSIGHT__WEB__HOSTS='[photos.example.org]' FLEETSIGHT__WEB__BEHIND_PROXY=true ./scripts/run.sh "
    f"--no-batch --sign-in --state {STATE}": expect_proxied,
}
"""What a reader sees while a command runs, in each document that has it."""


@pytest.mark.parametrize("command", EXPECTED)
def test_a_system_starts_as_documented_and_ends_with_ctrl_c(reader: Reader, command: str) -> None:
    reader.write("bad-day.yaml", yaml_in(OPERATE, "# bad-day.yaml"))
    with replace(reader, forks=command != "./scripts/run.sh").running(command) as run:
        EXPECTED[command](run)


TRACING = command_in(OPERATE, "TRACING")


def test_a_collector_gets_the_spans_that_the_document_lists(reader: Reader) -> None:
    def services(collector: OtlpCollector) -> set[str]:
        return {span.service for span in collector.spans()}

    with (
        otlp_collector() as collector,
        reader.running(TRACING.replace("http://127.0.0.1:4318", collector.url)) as run,
    ):
        run.expect_batch()
        all_three = {"fleetsight-web", "fleetsight-worker", "fleetsight-controller"}
        wait_until(lambda: services(collector) == all_three, "each process has sent spans")


def test_each_command_that_starts_a_system_is_in_one_of_these_tests() -> None:
    started = {
        without_comment(command)
        for document in DOCUMENTS
        for block in command_blocks(document)
        for command in block.commands
        if STARTS.match(command) and name_of(document) != POLICY
    }
    assert started == {*EXPECTED, TRACING, *STORIES}
