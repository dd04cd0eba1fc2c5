"""The pixels that a network gets are those that torchvision would give it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app_tier.preprocess import Preprocess, load_square
from scripts.model.torchvision_import import import_torchvision


@pytest.mark.parametrize("size", [(64, 64), (1600, 1200), (333, 517), (31, 33), (1, 70), (50, 7)])
@pytest.mark.parametrize(("resize", "crop"), [(32, 32), (256, 224), (232, 224)])
def test_geometry_is_that_of_torchvisions_presets(size: tuple[int, int], resize: int, crop: int) -> None:
    import_torchvision()
    from torchvision.transforms import InterpolationMode, functional

    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    theirs = functional.center_crop(functional.resize(image, resize, InterpolationMode.BILINEAR), [crop, crop])
    encoded = BytesIO()
    image.save(encoded, "BMP")
    ours = load_square(encoded.getvalue(), Preprocess(resize=resize, crop=crop, mean=(0, 0, 0), std=(1, 1, 1)))
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 2
