"""The documents' commands that start a system run in a shell, until Ctrl-C.

Commands whose options do not touch each other start one system with the options of all of them: a start costs six
seconds of CPU. The reader has a free port in place of 8000, and a home of their own. `test_documented_stories.py` has
the pages on which more commands follow while the system runs, or after it, and `test_fresh_clone.py` the first start.
"""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import requests
import yaml

from fleetsight_client.api import ApiClient
from scripts.run.sign_in import OPERATOR
from tests.support.documents import DOCUMENTS, command_blocks, name_of
from tests.support.otlp import otlp_collector
from tests.support.reader import (
    OPERATE,
    POLICY,
    RUN,
    SIGN_IN,
    STORIES,
    Reader,
    command_in,
    together,
    without_comment,
    yaml_in,
)
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

STARTS = re.compile(r"(?:FLEETSIGHT__\w+=\S+ )*\./scripts/run\.sh")

METRICS, RESNET = (f"{RUN} {options}" for options in ("--metrics", "--model resnet18"))
TRACING = command_in(OPERATE, "TRACING")
BAD_DAY = command_in(OPERATE, "bad-day.yaml")
SLOW_BOOTS, SCARCE = (command_in("localcloud/README.md", part) for part in ("boot_delay", "c7a.large"))


def test_an_operator_with_a_token_gets_labels_of_one_model_metrics_and_spans(reader: Reader) -> None:
    with (
        otlp_collector() as collector,
        reader.running(
            together(TRACING.replace("http://127.0.0.1:4318", collector.url), SIGN_IN, METRICS, RESNET)
        ) as run,
    ):
        run.expect(rf"You are {OPERATOR}, and your password is \S+")
        assert requests.get(f"{run.url}/api/v1/jobs", timeout=DEADLINE_SECONDS).status_code == 401
        token = run.expect(r"export FLEETSIGHT_TOKEN=(\S+)")
        run.expect_batch(token)
        assert [each["name"] for each in ApiClient(run.url, token=token).models()["models"]] == ["demo"]

        configured = Path(run.expect(r"prometheus --config\.file=(\S+)")).read_text(encoding="utf-8")
        scraped = yaml.safe_load(configured)["scrape_configs"]
        assert [each["job_name"] for each in scraped] == ["fleetsight-web", "fleetsight-controller"]
        for each in scraped:
            (target,) = each["static_configs"][0]["targets"]
            headers = {"Authorization": f"Bearer {token}"} if "authorization" in each else {}
            answer = requests.get(f"http://{target}/metrics", headers=headers, timeout=DEADLINE_SECONDS)
            assert "fleetsight_" in answer.text

        all_three = {"fleetsight-web", "fleetsight-worker", "fleetsight-controller"}
        wait_until(lambda: {span.service for span in collector.spans()} == all_three, "each process has sent spans")


def test_a_batch_is_right_under_the_faults_of_a_file_and_of_switches(reader: Reader) -> None:
    reader.write("bad-day.yaml", yaml_in(OPERATE, "# bad-day.yaml"))
    with reader.running(together(SLOW_BOOTS, SCARCE, BAD_DAY)) as run:
        run.expect_batch()
        shown = run.expect(r"The local cloud is at \S+: (.*)")
        words = shlex.split(together(SLOW_BOOTS, SCARCE))
        switches = [value for option, value in pairwise(words) if option == "--switch"]
        expected = (*switches, "duplicate_deliveries=0.05", "SendMessageBatch")
        assert [each for each in expected if each not in shown] == []


def test_each_command_that_starts_a_system_is_in_one_of_these_tests() -> None:
    started = {
        without_comment(command)
        for document in DOCUMENTS
        for block in command_blocks(document)
        for command in block.commands
        if STARTS.match(command) and name_of(document) != POLICY
    }
    assert started == {METRICS, RESNET, TRACING, BAD_DAY, SLOW_BOOTS, SCARCE, *STORIES}
