from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulator.bound import MissingError, need
from simulator.comparison import Scene
from simulator.engine import Conditions
from simulator.plots import POINTS, PlotError, draw, rate_over_time, thinned
from simulator.rivals.plain import fixed, one_per_message
from simulator.traces import batch

SCENE = Scene.of("batch-100", lambda _: batch(100, 45.0), Conditions(), (0,))
PLAYED = [SCENE.play(rule) for rule in (one_per_message(19), fixed(19))]


def test_a_trace_is_drawn_as_png_and_svg_with_every_policy_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    png, svg = draw(PLAYED, tmp_path / "made" / "for it")
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert min(image.size) > 500
    text = svg.read_text()
    assert "one per message" in text
    assert "fixed 19" in text


def test_the_same_simulation_is_drawn_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    one, again = (draw(PLAYED, tmp_path / name)[1].read_bytes() for name in ("one", "again"))
    assert one == again


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PlotError, match=r"cannot write the plots to .*file"):
        draw(PLAYED, tmp_path / "file")


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingError, match=r"needs scipy: \./scripts/setup\.sh simulate"):
        need("scipy.optimize")


def test_a_long_history_is_thinned_and_keeps_its_peaks() -> None:
    times = np.arange(86_400.0)
    values = np.zeros(86_400)
    values[12_345] = 19.0
    thin_times, thin_values = thinned(times, values)
    assert len(thin_times) <= POINTS
    assert thin_values.max() == 19.0
    assert abs(thin_times[thin_values.argmax()] - 12_345) < 86_400 / POINTS


def test_a_rate_is_arrivals_a_second() -> None:
    _, rates = rate_over_time(np.arange(0.0, 1_500.0, 0.5), 1_500.0)
    assert rates.tolist() == pytest.approx([2.0] * len(rates))
