"""Bundles of programs of torch: what cannot be read, runs code or takes one size of batch is refused."""

from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from click.testing import CliRunner

from app_tier.bundle import BundleBuildError
from app_tier.engines import OpenVinoEngine
from scripts.demo_model.signs import samples
from scripts.model.group import model
from tests.support.own_networks import SPEC, build_with, write_network
from tests.support.pt2 import MeanColour, RunsACommand, write_pt2

pytestmark = pytest.mark.thorough


def test_s6_a_model_file_runs_no_code_when_it_is_loaded(tmp_path: Path) -> None:
    mark, pickled = tmp_path / "the file has run code", BytesIO()
    torch.save({"x": RunsACommand(mark)}, pickled)
    with ZipFile(write_network(tmp_path / "colours.pt2")) as good, ZipFile(tmp_path / "evil.pt2", "w") as evil:
        for name in good.namelist():
            evil.writestr(name, pickled.getvalue() if "sample_inputs" in name else good.read(name))
    with pytest.raises(BundleBuildError, match=r"not a torch\.export program"):
        build_with(tmp_path / "evil.pt2", SPEC)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("batch", "taken"), [(None, "only batches of 2"), (torch.export.Dim("batch", max=8), "batches of 0 to 8")]
)
def test_a_torch_network_for_some_sizes_of_batch_is_refused_with_the_way_out(
    batch: Any, taken: str, tmp_path: Path
) -> None:
    write_pt2(tmp_path / "fixed.pt2", MeanColour(), batch)
    with pytest.raises(BundleBuildError, match=rf"takes {taken}: export it with a free batch size: dynamic_shapes"):
        build_with(tmp_path / "fixed.pt2", SPEC)


def test_a_network_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    write_pt2(tmp_path / "net.pt2", torch.nn.Sequential(torch.nn.BatchNorm2d(3), MeanColour()).train())
    with pytest.raises(BundleBuildError, match="alone in its batch: export it in evaluation mode"):
        build_with(tmp_path / "net.pt2", SPEC)


def test_a_compressed_pt2_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    written = write_network(tmp_path / "colours.pt2")
    with ZipFile(written) as good, ZipFile(tmp_path / "bomb.pt2", "w", ZIP_DEFLATED) as bomb:
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
    with pytest.raises(BundleBuildError, match=r"bomb\.pt2 holds compressed files"):
        build_with(tmp_path / "bomb.pt2", SPEC)


@pytest.mark.skipif(not OpenVinoEngine.is_fast_in("int8"), reason="this CPU is not fast in int8")
def test_build_in_int8_is_refused_where_it_loses_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.model.precision.MAX_DISAGREEMENT", -1.0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    write_pt2(tmp_path / "net.pt2", network.eval(), shape=(3, 32, 32))
    (tmp_path / "spec.yaml").write_text(
        f"input_size: 32\nfit: crop\nmean: [0.5]\nstd: [0.5]\nlabels: {[*'abcdefgh']}\n"
    )
    (tmp_path / "pictures").mkdir()
    for number, sample in enumerate(samples(60, seed=3, sizes=(((64, 64), 1.0),))):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(sample.data)
    files = [str(tmp_path / "net.pt2"), "--spec", str(tmp_path / "spec.yaml"), "--images", str(tmp_path / "pictures")]
    command = ["build", *files, "--out", str(tmp_path / "bundle"), "--precision", "int8"]
    refused = CliRunner().invoke(model, command)
    assert refused.exit_code == 1
    assert "otherwise than fp32" in refused.output
    assert not (tmp_path / "bundle").exists()
    monkeypatch.setattr("scripts.model.precision.MAX_DISAGREEMENT", 1.0)
    built = CliRunner().invoke(model, command)
    assert built.exit_code == 0, built.output
    shown = CliRunner().invoke(model, ["show", str(tmp_path / "bundle")]).output
    assert "precision           int8" in shown
    assert "calibrated on       30 images" in shown
    assert "measured on         30 images: folder pictures" in shown
