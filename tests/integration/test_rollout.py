"""A roll-out in a whole system: each job is classified by the model that it was created with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from core.bundle_manifest import IR_NAME
from core.config import PATH_VARIABLE
from scripts.cli import fleetsight
from scripts.client import FleetClient
from scripts.demo_model.signs import samples
from scripts.run.state import OpenState, open_state
from scripts.run.system import System
from services.s3 import Bucket
from tests.conftest import keys_in, shipped_values
from tests.support.bundles import broken_bundle, relabelled_bundle
from tests.support.systems import running_system
from tests.support.waiting import wait_until

IMAGES = 12
SUFFIX = " (2)"
"""After each label of the other model."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Path]]:
    """A system of two workers, with its configuration file. New jobs get the demo model before and after a test."""
    home = tmp_path_factory.mktemp("home")
    values, path = shipped_values(), home / "config.yaml"
    values["fleet"] |= {"max_workers": 2}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PATH_VARIABLE, str(path))
        with running_system(home / "system") as system:
            patch.undo()
            yield system, path


@contextmanager
def open_folder(folder: Path) -> Iterator[OpenState]:
    """Use a state, as `run.sh --state` does."""
    state = open_state(folder / "state")
    try:
        yield state
    finally:
        os.close(state.lock)


def create_job(client: FleetClient, name: str, seed: int, model: str | None = None) -> tuple[str, dict[str, str]]:
    """Create a job with drawn signs; return its id, and the true labels by filename."""
    drawn = list(samples(IMAGES, seed))
    job_id = client.create_job(name, model=model)
    client.add_images(job_id, [(sample.filename, sample.data) for sample in drawn])
    return job_id, {sample.filename: sample.label for sample in drawn}


def check_results(client: FleetClient, job: tuple[str, dict[str, str]], digest: str, suffix: str) -> None:
    """Wait for the results of a job: each is right, and of the model with this digest and these labels."""
    job_id, truth = job
    wait_until(lambda: client.status(job_id)["state"] == "finished", f"the job {job_id} is finished")
    results = {each["filename"]: each for each in client.results(job_id)}
    assert {name: each["label"] for name, each in results.items()} == {
        name: f"{label}{suffix}" for name, label in truth.items()
    }
    assert {each["model"]["digest"] for each in results.values()} == {digest}
    assert client.status(job_id)["model"]["digest"] == digest


def test_a_broken_model_is_refused_or_rolled_back_and_its_jobs_move_to_the_one_before(
    tmp_path: Path, running: tuple[System, Path]
) -> None:
    demo, lost = load_bundle(DEMO_BUNDLE).digest, relabelled_bundle(tmp_path / "lost", "lost", " (lost)")
    broken_bundle(tmp_path / "broken", "broken", IR_NAME, b"<net>")
    system, _ = running
    client = FleetClient(system.url)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(fleetsight, ["model", *arguments, "--url", system.url])
        return done.exit_code, done.output

    for command in ("add", "roll-out"):
        code, said = run(command, str(tmp_path / "broken"))
        assert (code, "OpenVINO cannot run bundle broken" in said) == (1, True), said
    client.pause("a test")
    assert run("roll-out", str(tmp_path / "lost"))[0] == 0
    job_id, truth = create_job(client, "moved", 1)
    models = Bucket.named(system.clients, shipped_values()["names"]["model_bucket"])
    models.delete_all(keys_in(models, f"models/{lost}"))
    client.resume()
    wait_until(lambda: client.models()["default"] == "demo", "the model is rolled back")
    code, said = run("move-jobs")
    moved = "Its unfinished jobs move to demo within seconds, except those with only some labels."
    assert (code, " ".join(said.split())) == (0, moved)
    wait_until(lambda: client.status(job_id)["model"]["digest"] == demo, "the job is moved")

    def is_classified() -> bool:
        client.retry(job_id)  # images that had failed before their job moved
        return bool(client.status(job_id)["done"] == IMAGES)

    wait_until(is_classified, "each image is classified")
    results = list(client.results(job_id))
    assert {each["filename"]: each["label"] for each in results} == truth
    assert {each["model"]["digest"] for each in results} == {demo}
    events = [each["words"] for each in client.decisions()["decisions"]]
    assert any("Model lost was rolled back" in each and "workers cannot load it" in each for each in events)


def test_jobs_keep_their_model_after_a_roll_out_roll_back_or_new_configuration(
    tmp_path: Path, running: tuple[System, Path]
) -> None:
    demo, other = load_bundle(DEMO_BUNDLE).digest, relabelled_bundle(tmp_path / "other", "other", SUFFIX)
    third = relabelled_bundle(tmp_path / "third", "third", " (3)")
    system, config = running
    client = FleetClient(system.url)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(fleetsight, ["model", *arguments, "--url", system.url])
        assert done.exit_code == 0, done.output
        return done.output

    client.pause("a test")
    before = create_job(client, "before", 1)
    assert run("roll-out", str(tmp_path / "other")) == "New jobs get other (100%).\n"
    after = create_job(client, "after", 2)
    named = create_job(client, "named", 3, "demo")
    client.resume()
    check_results(client, before, demo, "")
    check_results(client, after, other, SUFFIX)
    check_results(client, named, demo, "")

    assert run("roll-back") == "New jobs get demo (100%).\n"
    check_results(client, create_job(client, "after the roll-back", 4), demo, "")
    # Images that are added later are classified as the others of their job.
    more = [(f"more-{sample.filename}", sample.data) for sample in samples(2, 5)]
    client.add_images(after[0], more)
    wait_until(lambda: client.status(after[0])["done"] == IMAGES + 2, "the added images are classified")
    assert {each["model"]["digest"] for each in client.results(after[0])} == {other}

    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["worker"]["bundle"] = str(tmp_path / "third")
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    wait_until(lambda: client.models()["default"] == "third", "the configured bundle is rolled out")
    check_results(client, create_job(client, "configured", 6), third, " (3)")
    assert run("roll-back") == "New jobs get demo (100%).\n"
    events = [each["words"] for each in client.decisions()["decisions"]]
    assert "worker.bundle has changed: new jobs get the model third" in events
