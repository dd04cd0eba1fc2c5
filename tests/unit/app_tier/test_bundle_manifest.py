"""What a manifest says about precision is consistent, covered by the digest, and was valid before there was int8."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app_tier.bundle.load import load_bundle
from app_tier.bundle.manifest import INT8_IR_NAME, INT8_WEIGHTS_NAME, Manifest

INT8_FILES = {INT8_IR_NAME: "a" * 64, INT8_WEIGHTS_NAME: "b" * 64}


def manifest(int8: bool = False, **changes: Any) -> Manifest:
    """The demo bundle's, with an int8 network or none, after changes."""
    fields = json.loads(load_bundle().manifest.model_dump_json())
    return Manifest.model_validate(fields | {"files": fields["files"] | (INT8_FILES if int8 else {})} | changes)


@pytest.mark.parametrize(
    ("fields", "low"),
    [
        ({"precision": "fp32"}, None),
        ({"precision": "bf16"}, "bf16"),
        ({"precision": "int8"}, "int8"),
        ({"precision": "exact", "margin": 0.1}, "bf16"),
        ({"precision": "exact", "margin": 0.1, "first": "int8"}, "int8"),
    ],
)
def test_what_every_image_is_computed_in_follows_from_precision_and_first(
    fields: dict[str, Any], low: str | None
) -> None:
    assert manifest(int8=True, **fields).low_precision == low


def test_a_bundle_that_asks_bf16_first_has_the_same_digest_whether_it_says_so_or_is_older_than_int8() -> None:
    older = manifest(precision="exact", margin=0.1)
    assert older.digest == manifest(precision="exact", margin=0.1, first="bf16").digest


def test_the_digest_tells_apart_what_exact_asks_first_and_every_precision() -> None:
    kinds: tuple[dict[str, Any], ...] = (
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"precision": "int8"},
        {"precision": "exact", "margin": 0.1},
        {"precision": "exact", "margin": 0.2},
        {"precision": "exact", "margin": 0.1, "first": "int8"},
    )
    assert len({manifest(int8=True, **kind).digest for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"precision": "int8"}, "files lacks model-int8.bin, model-int8.xml"),
        ({"precision": "exact", "margin": 0.1, "first": "int8"}, "files lacks model-int8.bin"),
        ({"precision": "bf16", "first": "bf16"}, "only exact asks twice"),
        ({"precision": "exact"}, "exact has one, the others none"),
        ({"precision": "exact", "margin": 0.1, "first": "fp32"}, "Input should be 'bf16' or 'int8'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        manifest(**fields)


def test_a_measurement_from_before_there_was_int8_is_read() -> None:
    figures = {"images": 200, "source": "signs", "bf16_same_top1": 0.995, "same_top1": 1, "repeated": 0.02}
    measured = manifest(
        precision="exact", margin=0.1, measured=figures | {"largest_difference": 0.01, "speed": 1.9}
    ).measured
    assert measured is not None
    assert (measured.alone_same_top1, measured.speeds, measured.calibrated) == (0.995, {}, 0)
