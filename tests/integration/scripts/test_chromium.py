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


def test_a_named_browser_has_precedence_over_path(without_browser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_chromium() is None
    installed = without_browser / "google-chrome"
    installed.touch(mode=0o755)
    assert find_chromium() == str(installed)
    monkeypatch.setenv("CHROMIUM", "/opt/chromium")
    assert find_chromium() == "/opt/chromium"


@pytest.mark.usefixtures("without_browser")
def test_a_benchmark_without_a_browser_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ten_thousand", "--quick"]) == 2
    output = capsys.readouterr().err
    assert output.startswith("ten_thousand: ")
    assert "apt install chromium" in output
    assert "CHROMIUM" in output
