"""Networks in real child processes: what they answer and hold, and how they end."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from app_tier import network_process
from app_tier.bundle import EngineError, load_bundle
from app_tier.engines import open_engine
from app_tier.network_process import IsolatedNetworks, NetworkEndedError
from tests.support.bundles import relabelled_bundle

pytestmark = pytest.mark.processes


def test_a_child_answers_as_this_process_does_has_no_credentials_and_may_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    bundle, networks = load_bundle(), IsolatedNetworks("openvino", 1)
    model = networks.ready(bundle)
    assert networks._child is not None
    pid = networks._child._child.pid
    picture = np.random.default_rng(1).random((1, 3, *bundle.manifest.preprocess.input_shape), np.float32)
    assert np.abs(model.engine.infer(picture) - open_engine("openvino", bundle).infer(picture)).max() < 1e-3
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(NetworkEndedError):
        model.engine.infer(picture)
    networks.end_child()
    assert networks.ready(bundle) is not model
    networks.close()


def test_a_bundle_is_refused_after_it_has_ended_three_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_process, "FUNCTION", "tests.support.crashing_network:end")
    with pytest.raises(EngineError, match="ends the process that loads it"):
        IsolatedNetworks("openvino", 1).try_load(load_bundle())


def test_a_bundle_that_was_replaced_meanwhile_is_not_asked(tmp_path: Path) -> None:
    relabelled_bundle(tmp_path / "bundle", "first", " (1)")
    first = load_bundle(tmp_path / "bundle")
    (tmp_path / "bundle").rename(tmp_path / "away")
    relabelled_bundle(tmp_path / "bundle", "second", " (2)")
    with pytest.raises(EngineError, match=f"not {first.digest}"):
        IsolatedNetworks("openvino", 1).try_load(first)
