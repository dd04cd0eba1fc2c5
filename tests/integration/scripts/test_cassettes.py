"""What is recorded of a real run: nothing of the account stays in it, and our commands still read it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localcloud.launch import LocalCloud
from tests.support.aws_stage import Stage, account_at
from tests.support.cassettes import Scrubber, UnrecordedCallError, play, record, words

RECORDED = sorted((Path(__file__).parents[2] / "aws" / "recorded").glob("*.json"))


def test_recorded_answers_are_replayed_without_a_cloud(cloud: LocalCloud, tmp_path: Path) -> None:
    stage = Stage(account_at(cloud.endpoint_url))
    stage.store_images()
    stage.up()
    cassette = tmp_path / "status.json"
    where = ["--prefix", stage.prefix, "--region", "us-east-1"]
    result = record(["status", *where, "--endpoint-url", cloud.endpoint_url], cassette, stage.account.id)
    assert result.exit_code == 0, result.output
    whole = json.loads(cassette.read_text())
    whole["arguments"] = ["status", *where, "--endpoint-url", "http://127.0.0.1:9"]
    cassette.write_text(json.dumps(whole))
    played, printed = play(cassette)
    assert played.exit_code == 0, played.output
    assert words(played.output) == words(printed)
    assert stage.prefix in played.output

    whole["answers"] = whole["answers"][:1]
    cassette.write_text(json.dumps(whole))
    played, _ = play(cassette)
    assert isinstance(played.exception, UnrecordedCallError)


def test_a_command_that_fails_is_not_recorded(cloud: LocalCloud, tmp_path: Path) -> None:
    arguments = ["status", "--prefix", "no-such-stack", "--region", "us-east-1", "--endpoint-url", cloud.endpoint_url]
    result = record(arguments, tmp_path / "one.json", "123456789012")
    assert result.exit_code == 1
    assert not (tmp_path / "one.json").exists()


def test_recorded_answers_contain_no_data_of_the_account() -> None:
    scrubber = Scrubber("210987654321")
    answer = {
        "Arn": "arn:aws:sts::210987654321:assumed-role/Admins/jo@example.com",
        "UserId": "AROAABCDEFGHIJKLMNOPQ:jo",
        "Address": "54.1.2.3",
        "Host": "ec2-54-1-2-3.compute-1.amazonaws.com",
        "Instance": "i-0123456789abcdef0",
        "Pool": "us-east-1_AbCdEfGhI",
        "AccessToken": "secret",
        "Parameter": {"Type": "SecureString", "Value": "secret"},
        "Asked": datetime(2026, 11, 22, tzinfo=UTC),
        "ResponseMetadata": {"RequestId": "1"},
    }
    scrubbed = scrubber.value(answer)
    assert scrubbed == {
        "Arn": "arn:aws:sts::123456789012:assumed-role/deployer",
        "UserId": "AROA00000000000000000:jo",
        "Address": "198.51.100.1",
        "Host": "ec2-198-51-100-1.compute-1.amazonaws.com",
        "Instance": "i-00000000000000002",
        "Pool": "us-east-1_000000003",
        "AccessToken": "",
        "Parameter": {"Type": "SecureString", "Value": ""},
        "Asked": {"datetime": "2026-11-22T00:00:00+00:00"},
    }
    assert scrubber.value({"Again": "i-0123456789abcdef0 at 54.1.2.3"}) == {
        "Again": "i-00000000000000002 at 198.51.100.1"
    }
    assert scrubber.value(scrubbed["Instance"]) == scrubbed["Instance"], "what is scrubbed stays as it is"


@pytest.mark.skipif(not RECORDED, reason="no real run has been recorded yet: see tests/aws/test_life.py")
@pytest.mark.parametrize("cassette", RECORDED, ids=lambda path: path.stem)
def test_a_command_prints_the_recorded_output_for_recorded_answers(cassette: Path) -> None:
    played, printed = play(cassette)
    assert played.exit_code == 0, played.output
    assert words(played.output) == words(printed)
