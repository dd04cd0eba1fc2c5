"""Bundles for tests, copies of the demo bundle with other results and so other digests, and versions of them."""

import json
import shutil
from pathlib import Path

from app_tier.bundle import DEMO_BUNDLE, file_digest, read_manifest
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import Manifest
from core.model_catalog import ModelCatalog, ModelVersion
from tests.support.jobs import NOW


def relabelled_bundle(folder: Path, name: str, suffix: str) -> str:
    """Make a copy of the demo bundle called `name`, with `suffix` after each label; return its digest."""
    shutil.copytree(DEMO_BUNDLE, folder)
    demo = read_manifest(folder)
    labels = tuple(f"{label}{suffix}" for label in demo.labels)
    messages = {f"{label}{suffix}": message for label, message in demo.messages.items()}
    return _write(folder, demo.model_copy(update={"name": name, "labels": labels, "messages": messages}))


def broken_bundle(folder: Path, name: str, file: str, content: bytes) -> str:
    """Make a copy of the demo bundle called `name` in which `file` has other content; return its digest."""
    shutil.copytree(DEMO_BUNDLE, folder)
    demo = read_manifest(folder)
    (folder / file).write_bytes(content)
    return _write(
        folder, demo.model_copy(update={"name": name, "files": {**demo.files, file: file_digest(folder / file)}})
    )


def _write(folder: Path, manifest: Manifest) -> str:
    stated = {"digest": manifest.digest, **manifest.model_dump(mode="json")}
    (folder / MANIFEST_NAME).write_text(json.dumps(stated), encoding="utf-8")
    return manifest.digest


def version_of(name: str, digest: str | None = None) -> ModelVersion:
    """Return a version with a digest that follows from its name."""
    digest = digest or name.encode().hex().ljust(64, "0")[:64]
    return ModelVersion(name=name, digest=digest, place=f"s3://out/models/{digest}", added_at=NOW, added_by="ann")


def first_catalog() -> ModelCatalog:
    """Return the catalogue of the configured bundle."""
    return ModelCatalog.only(version_of("signs"))
