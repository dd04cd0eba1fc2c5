"""Building a bundle compares OpenVINO with torch on 32 images, which takes longest; the builds here do it on two."""

from functools import partial

import pytest

from scripts.model.build import measure_agreement


@pytest.fixture(autouse=True)
def _compare_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.model.build.measure_agreement", partial(measure_agreement, images=2))
