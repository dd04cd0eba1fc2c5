"""What `fleetsight model show` tells about a bundle, row by row."""

from app_tier.bundle.manifest import Manifest, Measurement

Row = tuple[str, str]


def rows_of(manifest: Manifest) -> list[Row]:
    """Return each row's name and value, in the order in which people read them."""
    size = manifest.preprocess.input_size
    rows = [
        ("name", manifest.name),
        ("architecture", manifest.architecture),
        ("input", f"{size} x {size} pixels"),
        ("labels", f"{len(manifest.labels)}: {', '.join(manifest.labels[:30])}{' …' * (len(manifest.labels) > 30)}"),
    ]
    if manifest.agreement:
        same = f"{manifest.agreement.same_top1:.1%} the same label, scores within"
        rows.append(("OpenVINO and torch", f"{same} {manifest.agreement.largest_difference:.1g}"))
    rows.append(("precision", _precision(manifest)))
    if manifest.measured:
        rows += _against_fp32(manifest.measured, manifest.low_precision or "fp32")
    measured = manifest.provenance.get("measured", {})
    rows += [
        (name, f"{measured[name]['accuracy']:.2%} right of {measured[name]['images']}")
        for name in ("signs", "cifar_test")
        if name in measured
    ]
    return rows


def _precision(manifest: Manifest) -> str:
    if manifest.margin is None:
        return manifest.precision
    return (
        f"exact: {manifest.low_precision} first, and fp32 where the two best logits differ by less than "
        f"{manifest.margin:.3g}"
    )


def _against_fp32(measured: Measurement, low: str) -> list[Row]:
    rows = [
        ("measured on", f"{measured.images} images: {measured.source}"),
        ("same label as fp32", f"{measured.same_top1:.2%} ({low} alone {measured.alone_same_top1:.2%})"),
        ("scores", f"within {measured.largest_difference:.2g} of fp32"),
        ("speed", f"{measured.speed:.2f} times fp32, {measured.repeated:.1%} asked again"),
    ]
    if measured.calibrated:
        rows.insert(1, ("calibrated on", f"{measured.calibrated} images"))
    if len(measured.speeds) > 1:
        tried = ", ".join(f"{name} {speed:.2f} times fp32" for name, speed in measured.speeds.items())
        rows.append(("tried first", tried))
    if measured.accuracy is not None and measured.accuracy_fp32 is not None:
        right = f"{measured.accuracy:.2%} of {measured.labelled} right (fp32 {measured.accuracy_fp32:.2%})"
        rows.append(("accuracy", right))
    return rows
