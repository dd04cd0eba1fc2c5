"""The demo network and its training: settings, schedule, augmentation, epochs, measurement, bundle, the command.

The network is the CIFAR ResNet of He et al. 2015 (https://arxiv.org/abs/1512.03385), section 4.2, for 32 x 32 images.
"""

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app_tier.bundle import Bundle, load_bundle
from app_tier.engines import Engine, open_engine
from app_tier.preprocess import normalise
from scripts.demo_model.data import (
    CIFAR_LABELS,
    DEMO_LABELS,
    DEMO_PREPROCESS,
    FRESH_SEED,
    FRESH_SIGNS,
    TRAINING_SIZES,
    Images,
    cifar_from_torchvision,
    cifar_from_zip,
    drawn_signs,
)
from scripts.model.build import Description, build_bundle, write_manifest

DEMO_BLOCKS: Final = 3
"""Blocks in each of the three stages; depth is 6 x blocks + 2, so this is ResNet-20."""

DEMO_WIDTH: Final = 16
"""Channels of the first stage; the second and third have two and four times as many."""


class Block(nn.Module):  # type: ignore[misc]
    """Two 3 x 3 convolutions beside a shortcut without parameters (the paper's option A)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.added = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        if self.stride > 1 or self.added:
            kept = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(kept, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return functional.relu(self.bn2(self.conv2(out)) + x)


class CifarResNet(nn.Module):  # type: ignore[misc]
    """A 3 x 3 stem, three stages of `blocks` blocks at 32, 16 and 8 pixels, global average, one linear layer."""

    def __init__(self, classes: int, blocks: int = DEMO_BLOCKS, width: int = DEMO_WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            _stage(width, width, blocks, 1),
            _stage(width, 2 * width, blocks, 2),
            _stage(2 * width, 4 * width, blocks, 2),
        )
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, 3, 32, 32] to logits [N, classes]."""
        out = self.stages(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.mean(out, dim=(2, 3)))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(blocks - 1)))


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the trained network is, apart from the CIFAR images themselves."""

    epochs: int = 32
    seed: int = 1
    batch: int = 128
    signs: int = 24_000
    signs_per_epoch: int = 10_000
    peak_rate: float = 0.25
    warm_up: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    shift: int = 3
    blocks: int = DEMO_BLOCKS
    width: int = DEMO_WIDTH


def learning_rate(progress: float, settings: Settings) -> float:
    """One cycle: up in a straight line until `warm_up` of the way, then down a half cosine to zero."""
    if progress < settings.warm_up:
        return settings.peak_rate * progress / settings.warm_up
    fall = (progress - settings.warm_up) / (1 - settings.warm_up)
    return settings.peak_rate * (1 + math.cos(math.pi * fall)) / 2


def augment(pixels: Tensor, labels: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `shift` pixels and mirror half of the CIFAR ones; a mirrored arrow is another sign.

    Args:
        pixels: float [N, 3, H, W].
        labels: int64 [N].
        shift: pixels; what moves in is the image's own reflection.
        generator: where chance comes from.
    """
    count, _, height, width = pixels.shape
    mirrored = (torch.rand(count, generator=generator) < 0.5) & (labels < len(CIFAR_LABELS))
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    padded = functional.pad(pixels, (shift, shift, shift, shift), mode="reflect")
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + down)[:, :, None]
    columns = (torch.arange(width) + right)[:, None, :]
    images = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[images, rows, columns].permute(0, 3, 1, 2)


class Training:
    """A network on its way: one call of `run_epoch` after the other, checkpointed in `folder`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.epoch = 0
        self.network = CifarResNet(len(DEMO_LABELS), settings.blocks, settings.width)
        self.network.to(memory_format=torch.channels_last)
        # Weight decay is for the weights of convolutions and the linear layer only.
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.SGD(groups, momentum=settings.momentum, nesterov=True)
        self._checkpoint = folder / "checkpoint.pt"
        if self._checkpoint.exists():
            state: dict[str, Any] = torch.load(self._checkpoint, weights_only=True)
            if state["settings"] != asdict(settings):
                raise click.ClickException(f"{self._checkpoint} was made with other settings: use another --out")
            self.epoch = state["epoch"]
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])

    def run_epoch(self, cifar: Images, signs: Images) -> float:
        """Learn from every CIFAR image and some of the signs once; returns the mean loss."""
        self.network.train()
        generator = torch.Generator().manual_seed(1000 * self.settings.seed + self.epoch)
        losses = [self._step(*batch, generator) for batch in self._batches(cifar, signs, generator)]
        self.epoch += 1
        return sum(losses) / len(losses)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "settings": asdict(self.settings),
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        part = self._checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._checkpoint)

    def _batches(
        self, cifar: Images, signs: Images, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield (float [N, 3, 32, 32], labels, progress of the whole training from 0 to 1)."""
        chosen = torch.randperm(len(signs), generator=generator)[: self.settings.signs_per_epoch].numpy()
        pixels = np.concatenate([cifar.pixels, signs.pixels[chosen]])
        labels = np.concatenate([cifar.labels, signs.labels[chosen]])
        order = torch.randperm(len(labels), generator=generator).numpy()
        steps = len(order) // self.settings.batch
        for step, rows in enumerate(order[: steps * self.settings.batch].reshape(steps, -1)):
            progress = (self.epoch + (step + 1) / steps) / self.settings.epochs
            yield as_input(pixels[rows]), torch.from_numpy(labels[rows]), progress

    def _step(self, pixels: Tensor, labels: Tensor, progress: float, generator: torch.Generator) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(progress, self.settings)
        augmented = augment(pixels, labels, self.settings.shift, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(augmented.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.item())


def as_input(pixels: Any) -> Tensor:
    """Normalise uint8 [N, 32, 32, 3] to float32 [N, 3, 32, 32], as `app_tier.preprocess.normalise` does."""
    mean, std = (torch.tensor(values) for values in (DEMO_PREPROCESS.mean, DEMO_PREPROCESS.std))
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)


def accuracy(network: nn.Module, images: Images, batch: int = 500) -> float:
    """Share of images with their label as the highest logit."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            logits = network(as_input(images.pixels[start : start + batch]))
            right += int((logits.argmax(1).numpy() == images.labels[start : start + batch]).sum())
    return right / len(images)


def _log(folder: Path, **figures: object) -> None:
    line = json.dumps(figures)
    click.echo(line)
    with (folder / "train.log").open("a") as log:
        log.write(f"{line}\n")


_PACKAGES: Final = ("torch", "openvino", "numpy", "pillow")


def finish(
    network: CifarResNet,
    settings: Settings,
    cifar_test: Images,
    out: Path,
    report: Callable[..., None],
    fresh_signs: int = FRESH_SIGNS,
) -> Bundle:
    """Write the demo bundle with its measured figures in its provenance.

    Args:
        network: trained.
        settings: of its training.
        cifar_test: CIFAR-10's 10,000 test images.
        out: the bundle's folder.
        report: called with each total as a keyword.
        fresh_signs: how many signs to draw for the measurement.
    """
    description = Description(
        name="demo",
        architecture=f"cifar-resnet{6 * settings.blocks + 2}",
        preprocess=DEMO_PREPROCESS,
        labels=DEMO_LABELS,
        provenance={
            "source": "scripts/demo_model/training.py",
            "paper": "He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2",
            "data": f"CIFAR-10 ({', '.join(CIFAR_LABELS)}) and road signs drawn by scripts/demo_model/signs.py",
            "settings": asdict(settings),
            "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        },
    )
    bundle = build_bundle(network, description, out)
    engine = open_engine("openvino", bundle, threads=2)
    confusion = np.zeros((len(DEMO_LABELS), len(DEMO_LABELS)), np.int64)
    figures: dict[str, Any] = {}
    for name, images in (("cifar_test", cifar_test), ("signs", drawn_signs(fresh_signs, FRESH_SEED))):
        part = count_answers(engine, images)
        figures[name] = {"images": len(images), "accuracy": round(float(part.trace() / part.sum()), 4)}
        confusion += part
        report(bundle_on=name, **figures[name])
    shares = confusion.diagonal() / confusion.sum(axis=1).clip(min=1)
    figures |= {
        "accuracy_per_class": {label: round(float(s), 4) for label, s in zip(DEMO_LABELS, shares, strict=True)},
        "confusion": {"rows": "truth", "columns": "answer", "labels": "as in labels", "counts": confusion.tolist()},
    }
    provenance = {**bundle.manifest.provenance, "measured_with": "openvino, float32", "measured": figures}
    write_manifest(bundle.manifest.model_copy(update={"provenance": provenance}), out)
    return load_bundle(out)


def count_answers(engine: Engine, images: Images, batch: int = 200) -> NDArray[np.int64]:
    """Count answers: row is the truth, column the answer, both as indices of `DEMO_LABELS`."""
    counts = np.zeros((len(DEMO_LABELS), len(DEMO_LABELS)), np.int64)
    for start in range(0, len(images), batch):
        pixels = [normalise(square, DEMO_PREPROCESS) for square in images.pixels[start : start + batch]]
        answers = engine.infer(np.stack(pixels)).argmax(1)
        np.add.at(counts, (images.labels[start : start + batch], answers), 1)
    return counts


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
    images, test = (
        cifar_from_zip(cifar, part) if cifar else cifar_from_torchvision(out, part) for part in ("train", "test")
    )
    cached = out / f"signs-{seed}-{signs}.npz"
    if not cached.exists():
        drawn = drawn_signs(signs, seed, TRAINING_SIZES)
        np.savez(cached, pixels=drawn.pixels, labels=drawn.labels)
    with np.load(cached) as stored:
        drawn = Images(stored["pixels"], stored["labels"])
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
