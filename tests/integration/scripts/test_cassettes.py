"""Recording commands and playing them again, on a local cloud."""

import json
from pathlib import Path

from localcloud.launch import LocalCloud
from tests.support.aws_stage import Stage, account_at
from tests.support.cassettes import UnrecordedCallError, play, record, words


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
