import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.cli import fleetsight
from scripts.run.system import ROOT
from scripts.simulation import SimulationRequest, requested_trace
from simulator.engine import Conditions
from simulator.traces import TraceError

CONFIG = str(ROOT / "config.yaml")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "mine.csv"
    file.write_text("seconds\n" + "\n".join(["0"] * 100))
    return file


def simulated(*arguments: str) -> str:
    done = CliRunner().invoke(fleetsight, ["simulate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_configured_policy_is_simulated_over_a_users_trace(trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    shown = simulated("--trace", str(trace), "--config", CONFIG, "--image-seconds", "1.5", "--json", str(file))
    figures = json.loads(file.read_text())["figures"]
    assert "mine" in shown
    assert figures["mine, backlog: peak"] == 2  # 50 images a worker
    assert figures["mine, backlog: p95_s"] > 42


def test_image_seconds_default_to_the_configuration(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETSIGHT__FLEET__IMAGE_SECONDS", "3")
    file = tmp_path / "out.json"
    simulated("--trace", str(trace), "--config", CONFIG, "--json", str(file))
    assert json.loads(file.read_text())["figures"]["mine, backlog: p99_s"] == 42 + 50 * 3


@pytest.mark.parametrize(
    ("name", "most", "seconds", "message"),
    [
        ("nothing", 19, 1.5, "no trace 'nothing': name a CSV file, or one of batch-100"),
        ("none.csv", 19, 1.5, "cannot read the trace none.csv"),
        ("batch-100", 0, 1.5, "max_workers is 0"),
        ("nys-day", 1, 1e9, "no image comes in nys-day"),
    ],
)
def test_an_invalid_trace_is_rejected(name: str, most: int, seconds: float, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        requested_trace(SimulationRequest(name, 0, 60.0), Conditions(image_seconds=seconds, max_workers=most))


def test_an_unwritable_file_is_named(trace: Path, tmp_path: Path) -> None:
    arguments = ["simulate", "--trace", str(trace), "--config", CONFIG, "--json", str(tmp_path / "no" / "out.json")]
    done = CliRunner().invoke(fleetsight, arguments)
    assert done.exit_code == 1
    assert "cannot write" in done.output
