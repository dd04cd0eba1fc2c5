"""Which model bundle goes into the images: ImageNet's ResNet-18, unless another one is named."""

from pathlib import Path

from app_tier.bundle.errors import BundleError
from app_tier.bundle.load import DEMO_BUNDLE, Bundle, load_bundle
from app_tier.bundle.manifest import TORCH_NAME
from app_tier.bundle.s3 import fetch_bundle, in_s3
from core.config import EngineName
from scripts.aws.account import Account
from scripts.aws.bake.errors import BakeError
from scripts.model.commands import MODELS_FOLDER

DEFAULT = "resnet18"
DEMO = "demo"
"""What names the bundle that comes with the project."""


def chosen_bundle(account: Account, named: str | None, engine: EngineName, models: Path = MODELS_FOLDER) -> Path:
    """Return the folder of the bundle to bake, every digest checked.

    Args:
        account: of the S3 from which a bundle named by an address is fetched.
        named: a folder, a zip, an address in S3, or `DEMO`; None for the default one.
        engine: that is to run it.
        models: where built bundles are.

    Raises:
        BakeError: the bundle is not there, not whole, or not for this engine; the message says how to make one.
    """
    try:
        bundle = _opened(account, named, models)
    except BundleError as error:
        raise BakeError(str(error)) from error
    if engine == "torch" and TORCH_NAME not in bundle.manifest.files:
        raise BakeError(
            f"the bundle {bundle.name} holds no network for torch: build it anew, or choose the engine openvino"
        )
    return bundle.folder


def _opened(account: Account, named: str | None, models: Path) -> Bundle:
    if named == DEMO:
        return load_bundle(DEMO_BUNDLE)
    if named is not None:
        place = in_s3(named)
        return load_bundle(Path(named)) if place is None else fetch_bundle(account.s3, place)
    if not (models / DEFAULT).is_dir():
        raise BakeError(
            f"there is no bundle in {models / DEFAULT}: make ImageNet's ResNet-18 with "
            f"`./scripts/fleetsight model build {DEFAULT}`, name another by --bundle, or take the one of signs "
            f"and everyday things by --{DEMO}"
        )
    return load_bundle(models / DEFAULT)
