"""Nothing of a bundle is used unless it is exactly what was built."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app_tier.bundle.errors import BundleDigestError, BundleFormatError, BundleMissingError
from app_tier.bundle.load import DEMO_BUNDLE, load_bundle
from app_tier.bundle.manifest import IR_NAME, IR_WEIGHTS_NAME, MANIFEST_NAME, TORCH_NAME, file_digest
from scripts.demo_model.data import DEMO_LABELS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest, which states its digest no longer, as one from before it did."""
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": None, **changes}))


def test_the_demo_bundle_is_whole_and_small() -> None:
    bundle = load_bundle()
    assert bundle.name == "demo"
    assert bundle.labels == DEMO_LABELS
    assert bundle.manifest.agreement is not None
    assert bundle.manifest.agreement.same_top1 == 1
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 5_000_000


def test_the_demo_bundle_knows_nothing_of_the_machine_it_was_built_on() -> None:
    home, checkout = str(Path.home()).encode(), str(Path(__file__).parents[4]).encode()
    for path in DEMO_BUNDLE.iterdir():
        assert home not in path.read_bytes()
        assert checkout not in path.read_bytes()


@pytest.mark.parametrize("name", [IR_NAME, IR_WEIGHTS_NAME, TORCH_NAME])
def test_one_changed_bit_is_refused_naming_the_file(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleDigestError, match=rf"{name} has SHA-256 \w{{64}}, but the bundle was built with"):
        load_bundle(copy)


def test_a_missing_file_is_refused_naming_it(copy: Path) -> None:
    (copy / IR_WEIGHTS_NAME).unlink()
    with pytest.raises(BundleDigestError, match=rf"{IR_WEIGHTS_NAME} cannot be read \(No such file"):
        load_bundle(copy)


def test_no_bundle_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match=r"build one with `\./scripts/fleetsight model build`"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleMissingError):
        load_bundle(DEMO_BUNDLE / MANIFEST_NAME)


def test_a_manifest_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / MANIFEST_NAME).write_text("{")
    with pytest.raises(BundleFormatError, match="is not JSON"):
        load_bundle(copy)
    (copy / MANIFEST_NAME).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BundleFormatError, match="is not JSON"):
        load_bundle(copy)


@pytest.mark.parametrize("contents", ["[]", '{"format_version": 2}', "{}"])
def test_another_format_version_is_refused(copy: Path, contents: str) -> None:
    (copy / MANIFEST_NAME).write_text(contents)
    with pytest.raises(BundleFormatError, match="this program reads 1"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": ["one"]}, "labels"),
        ({"files": {}}, r"files lacks model\.bin, model\.xml"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "files"),
        ({"messages": {"unicorn": "rare"}}, "'unicorn', which is not a label"),
        ({"colour": "blue"}, "colour"),
        ({"name": "../demo"}, "name"),
        ({"precision": "int4"}, "precision"),
        ({"precision": "exact"}, "exact has one, the others none"),
        ({"precision": "bf16", "margin": 0.1}, "exact has one, the others none"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_naming_the_field(
    copy: Path, changes: dict[str, Any], complaint: str
) -> None:
    rewrite(copy, **changes)
    with pytest.raises(BundleFormatError, match=complaint):
        load_bundle(copy)


def test_the_digest_is_of_what_decides_an_answer_and_of_nothing_else(copy: Path) -> None:
    digest = load_bundle().digest
    rewrite(copy, provenance={"note": "measured again"})
    assert load_bundle(copy).digest == digest
    rewrite(copy, labels=list(reversed(DEMO_LABELS)))
    assert load_bundle(copy).digest != digest


def test_a_manifest_from_before_there_was_a_choice_of_precision_means_fp32_and_keeps_its_digest(copy: Path) -> None:
    manifest = load_bundle().manifest
    assert "precision" not in json.loads((copy / MANIFEST_NAME).read_text())
    assert manifest.precision == "fp32"
    rewrite(copy, precision="fp32", margin=None)
    assert load_bundle(copy).digest == manifest.digest
    rewrite(copy, precision="exact", margin=0.1)
    assert load_bundle(copy).digest != manifest.digest


def test_a_manifest_that_was_changed_without_its_digest_is_refused(copy: Path) -> None:
    stated = json.loads((copy / MANIFEST_NAME).read_text())["digest"]
    assert stated == load_bundle(copy).digest
    rewrite(copy, digest=stated, labels=list(reversed(DEMO_LABELS)))
    with pytest.raises(BundleDigestError, match=f"states the digest {stated}, but is"):
        load_bundle(copy)


def test_a_file_that_the_bundle_does_not_have_is_named() -> None:
    with pytest.raises(BundleMissingError, match=r"bundle demo in .* has no model\.onnx"):
        load_bundle().path("model.onnx")


def test_s6_a_pinned_bundle_opens_and_nothing_of_another_one_is_parsed(copy: Path) -> None:
    pin = file_digest(copy / MANIFEST_NAME)
    assert load_bundle(copy, pin).digest == load_bundle(copy, pin.upper()).digest == load_bundle().digest
    (copy / MANIFEST_NAME).write_bytes(b"not even JSON")
    with pytest.raises(BundleDigestError, match=rf"SHA-256 \w{{64}}, but worker\.bundle_sha256 is {pin}"):
        load_bundle(copy, pin)
