"""Which browser the commands open, and what they say where there is none."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from scripts.chromium import find_chromium


@pytest.fixture
def without_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Chromium; the folder is all its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    return tmp_path


def test_the_one_that_is_named_goes_before_those_on_path(
    without_browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_chromium() is None
    installed = without_browser / "google-chrome"
    installed.touch(mode=0o755)
    assert find_chromium() == str(installed)
    monkeypatch.setenv("CHROMIUM", "/opt/chromium")
    assert find_chromium() == "/opt/chromium"


@pytest.mark.usefixtures("without_browser")
def test_a_benchmark_that_needs_one_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ten_thousand", "--quick"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ten_thousand: ")
    assert "apt install chromium" in said
    assert "CHROMIUM" in said
