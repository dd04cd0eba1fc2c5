"""The model that `run.sh` serves with: a bundle, or a pretrained model, of which a bundle is built once."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from app_tier.bundle import Bundle, load_bundle
from app_tier.bundle_s3 import in_s3
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import BundleError
from core.config import DEMO_BUNDLE, Config
from scripts.demo_model import DEMO_NAME
from scripts.model.built_once import built_once, photos_once
from scripts.model.pretrained import PRETRAINED_MODELS
from scripts.run.system import ROOT, StartError, System


def with_photos(
    system: System, say: Callable[[str], None], stop: threading.Event
) -> tuple[System, Bundle, Bundle | None]:
    """Return a system with the model for photos, its bundle, and that of the demo, which it is to offer beside it.

    A system with another bundle than that of config.yaml stays as it is, also with ``--model demo``, which is an
    absolute path; and so does one if neither the model is built nor the optional package with its weights installed.

    Raises:
        StartError: the configured bundle is not valid.
        ModelNotBuiltError: that for photos could not be built.
    """
    bundle = checked_bundle(system.config)
    photos = photos_once(say, stop) if system.config.worker.bundle == DEMO_BUNDLE else None
    if photos is None:
        return system, bundle, None
    served = replace(system, overrides={**system.overrides, **_setting(photos)})
    return served, checked_bundle(served.config), bundle


def model_setting(model: str, say: Callable[[str], None], stop: threading.Event) -> dict[str, str]:
    """Return the setting that serves `model`, the path of a bundle or the name of a pretrained model.

    Args:
        model: a folder or zip, ``demo``, or a name in `PRETRAINED_MODELS`, also beside a folder of images
            with this name; its bundle is built if it does not exist yet.
        say: shows a sentence.
        stop: ends the build.

    Raises:
        StartError: there is no such model.
        ModelNotBuiltError: its bundle could not be built.
    """
    bundle, names = ROOT / DEMO_BUNDLE if model == DEMO_NAME else Path(model), (DEMO_NAME, *PRETRAINED_MODELS)
    if not bundle.exists() or (model in PRETRAINED_MODELS and not (bundle / MANIFEST_NAME).exists()):
        if model not in PRETRAINED_MODELS:
            near = get_close_matches(model, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
            raise StartError(f"--model {model}: no bundle has this path, and no model this name; {hint}")
        bundle = built_once(model, say, stop)
    return _setting(bundle)


def _setting(bundle: Path) -> dict[str, str]:
    # The environment's values are read as YAML, of which JSON is a part.
    return {"FLEETSIGHT__WORKER__BUNDLE": json.dumps(str(bundle.absolute()))}


def checked_bundle(config: Config) -> Bundle:
    """Return the configured bundle; with an invalid one, workers would start and fail again and again.

    Raises:
        StartError: it is missing, not valid, or in S3.
    """
    bundle = config.worker.bundle
    try:
        if place := in_s3(bundle):
            raise StartError(
                f"worker.bundle: {place} cannot be here, where buckets begin empty: name a folder or zip"
            )
        return load_bundle(ROOT / bundle)
    except BundleError as error:
        raise StartError(f"worker.bundle: {error}") from error
