"""Train the demo network and write its bundle: one reproducible command.

    python -m scripts.demo_model.train --cifar cifar10-jpeg.zip --out DIR

Every epoch ends with a checkpoint and a line in ``DIR/train.log``; started again, it goes on after the last
checkpoint, and once all epochs are done it measures the network and writes ``DIR/bundle``.
"""

import json
import time
from pathlib import Path

import click
import numpy as np

from scripts.demo_model import data
from scripts.demo_model.finish import FRESH_SIGNS, finish
from scripts.demo_model.training import Settings, Training, accuracy


def _cifar(path: Path | None, folder: Path, part: str) -> data.Images:
    return data.cifar_from_zip(path, part) if path else data.cifar_from_torchvision(folder, part)


def _cached_signs(folder: Path, settings: Settings) -> data.Images:
    """Draw the training signs, or take them from an earlier start."""
    path = folder / f"signs-{settings.seed}-{settings.signs}.npz"
    if not path.exists():
        drawn = data.drawn_signs(settings.signs, settings.seed, data.TRAINING_SIZES)
        np.savez(path, pixels=drawn.pixels, labels=drawn.labels)
    with np.load(path) as stored:
        return data.Images(stored["pixels"], stored["labels"])


def _log(folder: Path, **figures: object) -> None:
    line = json.dumps(figures)
    click.echo(line)
    with (folder / "train.log").open("a") as log:
        log.write(f"{line}\n")


@click.command()
@click.option(
    "--cifar", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Zip of part/label/*.jpg."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Checkpoint, log, bundle."
)
@click.option("--epochs", type=click.IntRange(1), default=Settings.epochs, show_default=True)
@click.option("--seed", type=int, default=Settings.seed, show_default=True)
@click.option("--signs", type=click.IntRange(20), default=Settings.signs, show_default=True, help="To learn from.")
@click.option(
    "--fresh-signs", type=click.IntRange(20), default=FRESH_SIGNS, show_default=True, help="To measure with."
)
def main(cifar: Path | None, out: Path, epochs: int, seed: int, signs: int, fresh_signs: int) -> None:
    """Train the demo network, measure it and write OUT/bundle."""
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(epochs=epochs, seed=seed, signs=signs)
    images = _cifar(cifar, out, "train")
    test = _cifar(cifar, out, "test")
    drawn = _cached_signs(out, settings)
    training = Training(settings, out)
    while training.epoch < settings.epochs:
        began = time.monotonic()
        loss = training.run_epoch(images, drawn)
        training.save()
        seconds = round(time.monotonic() - began, 1)
        score = accuracy(training.network, test)
        _log(out, epoch=training.epoch, loss=round(loss, 4), cifar_test=score, seconds=seconds)
    finish(training.network, settings, test, out / "bundle", lambda **figures: _log(out, **figures), fresh_signs)


if __name__ == "__main__":
    main()
