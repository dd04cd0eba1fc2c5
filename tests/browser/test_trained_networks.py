"""Networks answer in the system as in their framework's own script, by page, command and API."""

import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageOps
from playwright.sync_api import Browser, Page, expect
from torchvision import models, transforms
from torchvision.transforms import functional

from app_tier.preprocess import load_pixels
from fleetsight_client.api import ApiClient
from scripts.client import FleetClient
from scripts.demo_model.signs import samples
from scripts.model.built_once import PHOTOS_PACKAGE
from scripts.model.own_network import build_own
from scripts.model.photo_model import PREPROCESS, build_photos, imagenet_labels, photo_weights
from scripts.model.torchvision_network import build_torchvision
from scripts.run.system import System
from tests.browser.conftest import FEW_WORKERS, FaultsOf, arrived
from tests.conftest import ROOT
from tests.support.lite0 import lite0_logits
from tests.support.systems import running_system
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

IMAGES = {sample.filename: sample.data for sample in samples(12, seed=51)}
LABELS = tuple(f"class {number}" for number in range(6))
NAMED = "resnet18"
BY_EVERY_WAY = frozenset({NAMED, "padded"})
"""Networks that also answer by page and command: a way treats all images of these sizes and all networks alike."""

MAX_DIFFERENCE = 0.02
MIN_SAME = 0.99

Answers = dict[str, tuple[str, float]]
"""Label and score by filename."""


@dataclass(frozen=True)
class Trained:
    """A network as its framework has it.

    Attributes:
        feed: what the framework's own transforms make of an image.
        network: what a batch becomes: logits.
        labels: one for each output.
    """

    feed: Callable[[Image.Image], torch.Tensor]
    network: Callable[[torch.Tensor], torch.Tensor]
    labels: tuple[str, ...] = LABELS

    def logits(self) -> torch.Tensor:
        """Return the logits of each image."""
        opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in IMAGES.values()]
        with torch.inference_mode():
            return self.network(torch.stack([self.feed(image) for image in opened]))

    def answers(self) -> Answers:
        """Return the answer to each image."""
        outputs: NDArray[np.float32] = torch.softmax(self.logits(), dim=1).numpy()
        return {
            name: (self.labels[row.argmax()], float(row.max())) for name, row in zip(IMAGES, outputs, strict=True)
        }


class SmallNetwork(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Two convolutions with seeded weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 5, 2), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2), torch.nn.ReLU()
        )
        self.last = torch.nn.Linear(32, len(LABELS))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.last(self.layers(pixels).mean((2, 3)))


def tensor_of(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Return planes as torchvision makes them."""
    return functional.normalize(functional.to_tensor(image), mean, std)


def cropped(
    resize: int, crop: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Image.Image], torch.Tensor]:
    """Return torchvision's usual transforms."""
    both = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    return lambda image: tensor_of(both(image), mean, std)


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def own_networks() -> Mapping[str, tuple[dict[str, object], SmallNetwork, tuple[int, ...], Trained]]:
    """Return the YAML, the network, its input's shape, and its framework's script, by name.

    `tests/integration/model/test_build.py` has other layouts, channels and outputs.
    """
    stretched, padded = SmallNetwork(), SmallNetwork()
    bicubic = Image.Resampling.BICUBIC
    return {
        "stretched": (
            {"input_size": [48, 80], "fit": "stretch"},
            stretched,
            (3, 48, 80),
            Trained(lambda image: tensor_of(functional.resize(image, [48, 80]), MEAN, STD), stretched),
        ),
        "padded": (
            {"input_size": 64, "fit": "pad", "fill": [124, 116, 104], "interpolation": "bicubic"},
            padded,
            (3, 64, 64),
            Trained(
                lambda image: tensor_of(ImageOps.pad(image, (64, 64), bicubic, (124, 116, 104)), MEAN, STD),
                padded,
            ),
        ),
    }


@pytest.fixture(scope="module")
def own_system(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that gets models."""
    with running_system(tmp_path_factory.mktemp("models"), FEW_WORKERS) as started:
        yield started


@pytest.fixture
def page_address(own_system: System) -> str:
    """The address of `page`."""
    return own_system.url


@pytest.fixture
def networks(own_system: System, tmp_path: Path) -> Mapping[str, Trained]:
    """The networks, which the system has as models."""
    found = dict(named_networks(tmp_path))
    for name, (spec, network, shape, script) in own_networks().items():
        stated = {"mean": [*MEAN], "std": [*STD], **spec, "name": name, "labels": [*LABELS]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(stated))
        spread(script, network.last.weight.data, network.last.bias.data)
        example, batch = torch.zeros(2, *shape), torch.export.Dim("batch")
        program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / f"{name}.pt2")
        build_own(tmp_path / f"{name}.pt2", tmp_path / f"{name}.yaml", tmp_path / "bundles" / name)
        found[name] = script
    client = FleetClient(own_system.url)
    for name in found:
        client.add_model(str(tmp_path / "bundles" / name), name)
    client.close()
    return found


def named_networks(folder: Path) -> Mapping[str, Trained]:
    """Build the networks that have a name; return their frameworks' scripts by name."""
    scripts = {}
    if find_spec(PHOTOS_PACKAGE) is not None:  # it is optional
        build_photos(folder / "bundles" / "photos")
        state = torch.load(photo_weights())
        feed = cropped(256, 224, PREPROCESS.mean, PREPROCESS.std)
        scripts["photos"] = Trained(feed, lambda pixels: lite0_logits(state, pixels), imagenet_labels())
    torch.manual_seed(1)
    network = models.get_model(NAMED, weights=None, num_classes=len(LABELS)).eval()
    scripts[NAMED] = Trained(models.get_model_weights(NAMED).DEFAULT.transforms(), network)
    spread(scripts[NAMED], network.fc.weight.data, network.fc.bias.data)
    torch.save(network.state_dict(), folder / f"{NAMED}.pth")
    build_torchvision(NAMED, folder / "bundles" / NAMED, folder / f"{NAMED}.pth", LABELS)
    return scripts


def spread(network: Trained, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Change the last layer so that the images get different labels, as those of trained networks do."""
    bias.zero_()
    logits = network.logits()
    scale = 1 / (logits - logits.mean(0)).std()
    weight.mul_(scale)
    bias.copy_(-scale * logits.mean(0))


def test_the_system_answers_as_the_frameworks_own_script_by_page_command_and_api(
    page: Page,
    browser: Browser,
    own_system: System,
    networks: Mapping[str, Trained],
    tmp_path: Path,
    faults_of: FaultsOf,
) -> None:
    api = ApiClient(own_system.url)
    same = compared = 0
    for name, network in networks.items():
        expected = network.answers()
        ways = {"API": by_api(api, name)}
        if name in BY_EVERY_WAY:
            ways["command"] = by_command(own_system, name, tmp_path / name)
            ways["page"] = by_page(page, api, name, tmp_path / name)
        if name == NAMED:
            page.locator("[popovertarget=details]").click()
            page.get_by_role("link", name=NAMED).click()
            expect(page.get_by_role("heading", level=1)).to_have_text(f"Model · {NAMED}")
            expect(page.locator("#classes")).to_contain_text(LABELS[0])
            with browser.new_context(base_url=own_system.url, java_script_enabled=False) as context:
                ways["page without JavaScript"] = by_page(context.new_page(), api, name, tmp_path / name)
        for way, answers in ways.items():
            assert answers.keys() == expected.keys(), (name, way)
            for file, (label, score) in expected.items():
                assert abs(answers[file][1] - score) <= MAX_DIFFERENCE, (name, way, file)
                same, compared = same + (answers[file][0] == label), compared + 1
        assert len({label for label, _ in expected.values()}) > 1, f"{name} answers all images alike"
    api.close()
    page.goto("/")
    page.get_by_label("Model", exact=True).select_option(NAMED)
    expect(page.locator("#modelLabels")).to_have_attribute("href", re.compile(f"/model.name={NAMED}$"))
    assert faults_of(page) == []
    assert same >= MIN_SAME * compared, f"{same} of {compared} have the same label"


def test_scores_of_a_few_of_a_thousand_labels_are_a_softmax_over_these_by_command_page_api_and_export(
    page: Page, own_system: System, tmp_path: Path
) -> None:
    labels = imagenet_labels()
    torch.manual_seed(1)
    network = models.get_model(NAMED, weights=None).eval()
    spread(
        Trained(models.get_model_weights(NAMED).DEFAULT.transforms(), network, labels),
        network.fc.weight.data,
        network.fc.bias.data,
    )
    torch.save(network.state_dict(), tmp_path / "seeded.pth")
    spec = build_torchvision(NAMED, tmp_path / "bundle", tmp_path / "seeded.pth").manifest.preprocess
    client, api = FleetClient(own_system.url), ApiClient(own_system.url)
    client.add_model(str(tmp_path / "bundle"), "thousand")
    client.close()

    # Of the pixels that a worker sees: the other test compares the preprocessing.
    pixels = torch.from_numpy(np.stack([load_pixels(data, spec) for data in IMAGES.values()]))
    with torch.inference_mode():
        logits = network(pixels).numpy().astype(np.float64)
    best_five = {int(number) for row in logits for number in np.argsort(-row)[:5]}
    unique = [number for number, label in enumerate(labels) if labels.count(label) == 1]
    chosen = [number for number in unique if number not in best_five][:40]
    assert len(chosen) == 40
    powers = np.exp(logits[:, chosen] - logits[:, chosen].max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    names = [labels[number] for number in chosen]
    expected = {name: (names[row.argmax()], float(row.max())) for name, row in zip(IMAGES, shares, strict=True)}
    (tmp_path / "only.txt").write_text("\n".join(names))
    answers = by_command(own_system, "thousand", tmp_path / "photos", "--only", str(tmp_path / "only.txt"))
    assert {file: label for file, (label, _) in answers.items()} == {
        file: label for file, (label, _) in expected.items()
    }
    assert max(abs(answers[file][1] - score) for file, (_, score) in expected.items()) < 1e-3
    assert len({label for label, _ in answers.values()}) > 1

    job_id = str(next(api.jobs())["job_id"])
    assert api.status(job_id)["labels"] == names
    found = list(api.results(job_id))
    assert {each["filename"]: (each["label"], each["score"]) for each in found} == answers
    assert {(len(each["top"]), each["possible_labels"]) for each in found} == {(5, 40)}
    page.goto(f"/jobs/{job_id}")
    page.locator("[popovertarget=details]").click()
    page.get_by_text("40 labels can occur").click()
    expect(page.locator("#details bdi", has_text=re.compile(f"^{re.escape(names[0])}$"))).to_be_visible()
    page.goto(f"/jobs/{job_id}/images/{found[0]['image_id']}")
    expect(page.get_by_text("All 40 classes that can occur in this job")).to_be_visible()
    whole = by_api(api, "thousand")
    assert {label for label, _ in whole.values()}.isdisjoint(names), "without the list each label can occur"
    api.close()


def by_api(api: ApiClient, model: str) -> Answers:
    """Upload the images by the API."""
    job_id = api.create_job(model, model=model)
    api.send_images(job_id, list(IMAGES.items()), model)
    return results_of(api, job_id)


def by_command(system: System, model: str, folder: Path, *further: str) -> Answers:
    """Classify a folder by the command, with further options."""
    folder.mkdir()
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
    out = folder.with_suffix(".csv")
    options = ("--model", model, "--out", str(out), "--url", system.url, *further)
    ended = subprocess.run(
        [sys.executable, "-m", "fleetsight_client", "classify", str(folder), *options],
        cwd=ROOT, env={**os.environ, "XDG_STATE_HOME": str(folder.with_suffix(".state"))}, capture_output=True,
        text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    with out.open(newline="", encoding="utf-8") as lines:
        return {row["filename"]: (row["label"], float(row["score"])) for row in csv.DictReader(lines)}


def by_page(page: Page, api: ApiClient, model: str, folder: Path) -> Answers:
    """Choose the model and the images on the page."""
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
    page.goto("/")
    page.get_by_label("Model", exact=True).select_option(model)
    page.locator("#images").set_input_files([folder / name for name in IMAGES])
    page.get_by_role("button", name="Classify").click()
    return results_of(api, arrived(page))


def results_of(api: ApiClient, job_id: str) -> Answers:
    """Wait for the answers of a job."""
    wait_until(lambda: api.status(job_id)["done"] == len(IMAGES), f"job {job_id} is done")
    return {str(each["filename"]): (each["label"], each["score"]) for each in api.results(job_id)}
