"""The model that `run.sh` serves with: a bundle, or a pretrained model, of which a bundle is built once."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from app_tier.bundle import Bundle, load_bundle
from app_tier.bundle_s3 import in_s3
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import BundleError
from core.config import DEMO_BUNDLE, Config
from scripts.demo_model import DEMO_NAME
from scripts.model.pretrained import PHOTOS_PACKAGE, PRETRAINED_MODELS
from scripts.run.system import HOME, ROOT, StartError, System

MODELS_FOLDER: Final = HOME / "models"
"""Where `fleetsight model build NAME` puts bundles, too; one that is there is served as it is."""

POLL_SECONDS: Final = 0.1

PHOTOS: Final = "photos"
"""The model of new jobs if nothing else is asked for: it knows ImageNet's 1,000 classes."""


def with_photos(
    system: System, say: Callable[[str], None], stop: threading.Event
) -> tuple[System, Bundle, Bundle | None]:
    """Return a system with the model for photos, its bundle, and that of the demo, which it is to offer beside it.

    A system with another bundle than that of config.yaml stays as it is, also with ``--model demo``, which is an
    absolute path; and so does one if neither the model is built nor the optional package with its weights installed.

    Raises:
        StartError: the configured bundle is not valid, or that for photos could not be built.
    """
    bundle = checked_bundle(system.config)
    has_photos = (MODELS_FOLDER / PHOTOS / MANIFEST_NAME).exists() or find_spec(PHOTOS_PACKAGE) is not None
    if system.config.worker.bundle != DEMO_BUNDLE or not has_photos:
        return system, bundle, None
    served = replace(system, overrides={**system.overrides, **model_setting(PHOTOS, say, stop)})
    return served, checked_bundle(served.config), bundle


def model_setting(model: str, say: Callable[[str], None], stop: threading.Event) -> dict[str, str]:
    """Return the setting that serves `model`, the path of a bundle or the name of a pretrained model.

    Args:
        model: a folder or zip, ``demo``, or a name in `PRETRAINED_MODELS`, also beside a folder of images
            with this name; its bundle is built if it does not exist yet.
        say: shows a sentence.
        stop: ends the build.

    Raises:
        StartError: there is no such model, or its bundle could not be built.
    """
    bundle, names = ROOT / DEMO_BUNDLE if model == DEMO_NAME else Path(model), (DEMO_NAME, *PRETRAINED_MODELS)
    if not bundle.exists() or (model in PRETRAINED_MODELS and not (bundle / MANIFEST_NAME).exists()):
        if model not in PRETRAINED_MODELS:
            near = get_close_matches(model, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
            raise StartError(f"--model {model}: no bundle has this path, and no model this name; {hint}")
        bundle = MODELS_FOLDER / model
        if not (bundle / MANIFEST_NAME).exists():
            _build(model, bundle, say, stop)
    # The environment's values are read as YAML, of which JSON is a part.
    return {"FLEETSIGHT__WORKER__BUNDLE": json.dumps(str(bundle.absolute()))}


def _build(name: str, folder: Path, say: Callable[[str], None], stop: threading.Event) -> None:
    """Build a bundle in a process of its own, since OpenVINO would stay in this one's memory."""
    megabytes = PRETRAINED_MODELS[name].megabytes
    first = f"{megabytes} MB of weights to download, then some seconds" if megabytes else "this takes a second"
    say(f"Building {name} once: {first}.")
    # fp32: the other precisions would be measured for minutes first.
    options = ("--precision", "fp32", "--out", str(folder))
    command = (sys.executable, "-m", "scripts.cli", "model", "build", name, *options)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if stop.wait(POLL_SECONDS):
                process.terminate()
    if stop.is_set():
        raise StartError(f"the build of {name} was interrupted: start again to repeat it")
    if process.returncode:
        raise StartError(
            f"{name} could not be built: see above. With a file of its weights: ./scripts/fleetsight model build "
            f"{name} --weights FILE, then start again"
        )


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
