"""The command `fleetsight` of the client against an API in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from client.tests.support.results_api import Command, Photos, ResultsApi, served
from fleetsight_client.cli import fleetsight


@pytest.fixture
def api() -> ResultsApi:
    return ResultsApi()


@pytest.fixture
def url(api: ResultsApi) -> Iterator[str]:
    with served(api.app()) as address:
        yield address


@pytest.fixture
def command(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command against the API, with journals in the test's folder and short pauses."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FLEETSIGHT_URL", url)
    monkeypatch.delenv("FLEETSIGHT_TOKEN", raising=False)
    monkeypatch.setattr("fleetsight_client.retries.FIRST_PAUSE_SECONDS", 0.01)
    return lambda *arguments: CliRunner().invoke(fleetsight, [str(each) for each in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Make a folder of files, each `path=content`."""

    def make(files: dict[str, bytes], name: str = "photos") -> Path:
        for path, content in files.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return tmp_path / name

    return make
