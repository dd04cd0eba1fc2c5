"""The documents' commands that start a system run in a shell, until Ctrl-C.

Commands with options that do not touch each other start one system with all of these options: a start costs six
seconds of CPU. The reader has a free port in place of 8000, and a home of their own. `test_documented_stories.py` has
the pages on which more commands follow while the system runs, or after it, and `test_fresh_clone.py` the first start.
"""

import re
import shlex
from itertools import pairwise

import pytest

from fleetsight_client.api import ApiClient
from tests.support.documents import DOCUMENTS, command_blocks, name_of
from tests.support.reader import (
    OPERATE,
    POLICY,
    RUN,
    STORIES,
    Reader,
    command_in,
    together,
    without_comment,
    yaml_in,
)

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

STARTS = re.compile(r"(?:FLEETSIGHT__\w+=\S+ )*\./scripts/run\.sh")

RESNET = f"{RUN} --model resnet18"
BAD_DAY = command_in(OPERATE, "bad-day.yaml")
SLOW_BOOTS, SCARCE = (command_in("localcloud/README.md", part) for part in ("boot_delay", "c7a.large"))


def test_a_batch_of_one_model_is_right_under_faults_of_a_file_and_of_switches(reader: Reader) -> None:
    reader.write("bad-day.yaml", yaml_in(OPERATE, "# bad-day.yaml"))
    with reader.running(together(SLOW_BOOTS, SCARCE, BAD_DAY, RESNET)) as run:
        run.expect_batch()
        assert [each["name"] for each in ApiClient(run.url).models()["models"]] == ["demo"]
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
    assert started == {RESNET, BAD_DAY, SLOW_BOOTS, SCARCE, *STORIES}
