"""`python -m tests.fuzz`: what it prints, and its exit status."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.parametrize(("breaks", "status"), [(False, 0), (True, 1)])
def test_a_run_says_what_it_tried_and_fails_for_a_broken_promise(
    breaks: bool,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if find_spec("atheris") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("atheris has no wheel for this machine")
    from tests.fuzz import __main__, runner

    def process(target: str, folder: Path) -> list[str]:
        found = f"open({str(folder / 'broken-crash-1')!r}, 'wb').write(b'!!int '); sys.exit(77)"
        said = "#7 REDUCE cov: 12 ft: 9\\nstat::number_of_executed_units: 1234\\nstat::peak_rss_mb: 61"
        return [sys.executable, "-c", f"import sys; print('{said}'); {found if breaks else ''}"]

    monkeypatch.setattr(runner, "_command", process)
    assert __main__.main(["config", "--seconds", "1", "--folder", str(tmp_path)]) == status
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:4] == ["config", "1,234", "12", "61"]
    assert ("broken-crash-1, 6 bytes, in base64: ISFpbnQg" in out) is breaks
