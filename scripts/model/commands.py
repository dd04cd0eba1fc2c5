"""``fleetsight model``: build, show, try and verify model bundles."""

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Final, ParamSpec

import click
import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle import DEMO_BUNDLE, Bundle, file_digest, load_bundle
from app_tier.bundle_s3 import fetch_bundle, in_s3
from app_tier.classify import top_labels
from app_tier.engines import MIN_GAIN, open_engine
from app_tier.preprocess import load_square, normalise
from core.bundle_facts import MANIFEST_NAME, model_card
from core.bundle_manifest import TORCH_NAME, LowPrecision, Manifest, Measurement, Precision
from core.config import load_config
from core.images import ImageRejectedError
from core.sandbox.bundle_program import check_network
from scripts.home import MODELS_FOLDER
from scripts.model.built_once import PHOTOS
from services.clients import Clients
from services.errors import FleetsightError

TRIED_LABELS: Final = 5
"""Labels that `model try` prints for a photo."""

P = ParamSpec("P")

_bundle_argument = click.argument(
    "bundle", type=click.Path(path_type=Path), default=DEMO_BUNDLE, required=False, metavar="[BUNDLE]"
)


def _one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Show what is wrong with a bundle as one line instead of a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (FleetsightError, BotoCoreError, ClientError) as error:
            raise click.ClickException(str(error)) from error

    return run


@click.command()
@click.argument("source")
@click.option(
    "--spec",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML that describes the network of a file (examples/README.md).",
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with a state dict for a network of torchvision [default: its published weights]",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with one label a line, for --weights [default: ImageNet's labels]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the bundle [default: .fleetsight/models/NAME]",
)
@click.option(
    "--precision",
    type=click.Choice(["exact", "fp32", "bf16", "int8"]),
    default="exact",
    show_default=True,
    help="exact: fp32's labels, the fastest way here: bf16 or int8 first and fp32 where unsure, or fp32 alone.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images to measure on, in sub-folders by label if labels are known [default: drawn images]",
)
@_one_line_errors
def build(
    *,
    source: str,
    spec: Path | None,
    weights: Path | None,
    labels: Path | None,
    out: Path | None,
    precision: Precision,
    images: Path | None,
) -> None:
    """Build the bundle of SOURCE: photos, a network of torchvision such as resnet50, a .onnx or a .pt2 file.

    A model file is a program: use one from a source that you trust.
    """
    is_file = Path(source).suffix.lower() in {".onnx", ".pt2"}
    if is_file != (spec is not None):
        raise click.UsageError("a .onnx or .pt2 file needs --spec, which says what it expects; a name has none")
    if (is_file or source == PHOTOS) and weights is not None:
        raise click.UsageError("--weights is for a network of torchvision")
    if labels is not None and weights is None:
        raise click.UsageError("--labels is for --weights; a file has its labels in --spec")
    from scripts.model.precision import Target

    target = Target(precision, images)
    if spec is not None:
        from scripts.model.own_network import build_own

        bundle = build_own(Path(source), spec, out, target)
    elif source == PHOTOS:
        from scripts.model.photo_model import build_photos

        bundle = build_photos(out or MODELS_FOLDER / PHOTOS, target)
    else:
        from scripts.model.torchvision_network import build_torchvision

        lines = labels.read_text().splitlines() if labels is not None else []
        listed = tuple(line.strip() for line in lines if line.strip())
        bundle = build_torchvision(source, out, weights, listed or None, target)
    folder = bundle.folder.absolute()
    click.echo(f"built {bundle.name} in {folder}: set worker.bundle in config.yaml to this folder to use it")
    if bundle.manifest.has_independent_labels:
        click.echo(f"its labels are independent, so it answers in {bundle.manifest.precision}")
    elif bundle.manifest.precision != precision and bundle.manifest.measured is None:
        either = "bf16 or int8, or lacks ./scripts/setup.sh torch for int8"
        low = either if precision == "exact" else precision
        click.echo(f"this CPU is not fast in {low}, so it could not be measured and the bundle is fp32")
    _print(bundle, bundle.folder)


@click.command("try")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.argument("photos", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for what the network saw (PNG)."
)
@_one_line_errors
def try_command(bundle: Path, photos: tuple[Path, ...], out: Path | None) -> None:
    """Print the best labels of BUNDLE (folder, zip or s3://) for each of PHOTOS."""
    from PIL import Image

    opened = _open(bundle)
    engine, spec = open_engine("openvino", opened), opened.manifest.preprocess
    for number, photo in enumerate(photos, 1):
        try:
            picture = load_square(photo.read_bytes(), spec)
        except ImageRejectedError as error:
            raise click.ClickException(f"{photo}: {error.message}") from error
        scores = engine.infer(normalise(picture, spec)[np.newaxis])[0]
        pairs = top_labels(scores, opened.labels, TRIED_LABELS)
        click.echo(f"{photo}: {', '.join(f'{each.label} {each.score:.1%}' for each in pairs)}")
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(out / f"{number}-{photo.stem}.png")


@click.command()
@_bundle_argument
@_one_line_errors
def show(bundle: Path) -> None:
    """Show what BUNDLE (folder, zip or s3://) is and how well it was measured to do (default: the demo bundle)."""
    _print(_open(bundle), bundle)


@click.command()
@_bundle_argument
@_one_line_errors
def verify(bundle: Path) -> None:
    """Check every digest of BUNDLE and that its network answers, on both engines alike where torch is installed."""
    opened = _open(bundle)
    click.echo(f"{opened.name}: {len(opened.manifest.files)} files as built, digest {opened.digest}")
    check_network(opened.folder)
    click.echo("OpenVINO runs its network")
    if TORCH_NAME not in opened.manifest.files:
        click.echo("it holds no network for torch, so the engines were not compared")
        return
    if find_spec("torch") is None:
        click.echo("torch is not installed, so the engines were not compared: ./scripts/setup.sh torch")
        return
    from scripts.model.build import measure_agreement

    agreement = measure_agreement(opened)
    click.echo(
        f"OpenVINO and torch on {agreement.images} images: {agreement.same_top1:.1%} the same label, "
        f"scores within {agreement.largest_difference:.1g}"
    )
    if agreement.same_top1 < 1 or agreement.largest_difference > 1e-2:
        raise click.ClickException(f"{opened.name} answers differently on the two engines: build it again")


def _open(bundle: Path) -> Bundle:
    """Open a bundle as a worker does: a folder, a zip, or in the S3 of the configured cloud."""
    place = in_s3(bundle)
    if place is None:
        return load_bundle(bundle)
    return fetch_bundle(Clients(load_config().aws.endpoint()).s3, place)


def _print(bundle: Bundle, place: Path) -> None:
    rows = [*rows_of(bundle.manifest), ("folder", str(bundle.folder)), ("digest", bundle.digest)]
    is_zip = place.suffix.lower() == ".zip"
    if not is_zip or in_s3(place) is None:
        # Of a zip in S3 nothing is kept but what was in it.
        pinned = place if is_zip else bundle.folder / MANIFEST_NAME
        rows.append(("bundle_sha256", f"{file_digest(pinned)} (pins it: worker.bundle_sha256)"))
    for name, value in rows:
        click.echo(f"{name:<20}{value}")


Row = tuple[str, str]


def rows_of(manifest: Manifest) -> list[Row]:
    """Return each row's name and value, in the order in which people read them."""
    rows = [
        ("name", manifest.name),
        *((name.lower(), text) for name, text in model_card(manifest)),
        ("labels", f"{len(manifest.labels)}: {', '.join(manifest.labels[:30])}{' …' * (len(manifest.labels) > 30)}"),
    ]
    if "outputs" in manifest.provenance:
        rows.append(("outputs", str(manifest.provenance["outputs"])))
    if manifest.agreement:
        same = f"{manifest.agreement.same_top1:.1%} the same label, scores within"
        rows.append(("OpenVINO and torch", f"{same} {manifest.agreement.largest_difference:.1g}"))
    precision: str = manifest.precision
    if manifest.margin is not None:
        precision = (
            f"exact: {manifest.low_precision} first, and fp32 where the two best logits differ by less than "
            f"{manifest.margin:.3g}"
        )
    elif manifest.measured:
        precision = _fp32_alone(manifest.measured) if precision == "fp32" else precision
    rows.append(("precision", precision))
    if measured := manifest.measured:
        rows.append(("measured on", f"{measured.images} images: {measured.source}"))
        rows += _against_fp32(measured, manifest.low_precision) if manifest.low_precision else []
    return rows


def _fp32_alone(measured: Measurement) -> str:
    """Say why a bundle that was to be exact answers in fp32 alone."""
    tried = "; ".join(
        f"{low} first would take {1 / speed:.2f} times as long: {measured.shares[low]:.0%} of the images"
        " are asked again"
        for low, speed in measured.speeds.items()
    )
    return f"exact: fp32 alone, since {tried} (at most {1 / MIN_GAIN:.2f} is worth a second network)"


def _against_fp32(measured: Measurement, low: LowPrecision) -> list[Row]:
    rows = [
        ("same label as fp32", f"{measured.same_top1:.2%} ({low} alone {measured.alone_same_top1:.2%})"),
        ("scores", f"within {measured.largest_difference:.2g} of fp32"),
        ("speed", f"{measured.speed:.2f} times fp32, {measured.repeated:.1%} asked again"),
    ]
    if measured.calibrated:
        rows.insert(0, ("calibrated on", f"{measured.calibrated} images"))
    if len(measured.speeds) > 1:
        tried = (
            f"{each} {speed:.2f} times fp32 with {measured.shares[each]:.1%} asked again"
            for each, speed in measured.speeds.items()
        )
        rows.append(("tried first", ", ".join(tried)))
    if measured.accuracy is not None and measured.accuracy_fp32 is not None:
        right = f"{measured.accuracy:.2%} of {measured.labelled} right (fp32 {measured.accuracy_fp32:.2%})"
        rows.append(("accuracy", right))
    return rows
