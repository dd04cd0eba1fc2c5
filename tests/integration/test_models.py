"""Models in a whole system: each job is classified by its model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from core.bundle_manifest import IR_NAME
from core.config import PATH_VARIABLE
from core.messages import MODEL_GONE
from scripts.cli import fleetsight
from scripts.client import FleetClient
from scripts.demo_model.signs import samples
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


def run(system: System, *arguments: str) -> tuple[int, str]:
    """Run a command about models; return its status and what it prints."""
    done = CliRunner().invoke(fleetsight, [*arguments, "--url", system.url])
    return done.exit_code, done.output


@pytest.mark.thorough
def test_images_of_a_model_that_cannot_be_loaded_fail_and_are_retried_with_another_one(
    tmp_path: Path, running: tuple[System, Path]
) -> None:
    demo, lost = load_bundle(DEMO_BUNDLE).digest, relabelled_bundle(tmp_path / "lost", "lost", " (lost)")
    broken_bundle(tmp_path / "broken", "broken", IR_NAME, b"<net>")
    system, _ = running
    client = FleetClient(system.url)
    code, said = run(system, "model", "add", str(tmp_path / "broken"))
    assert (code, "OpenVINO cannot run bundle broken" in said) == (1, True), said
    assert run(system, "model", "add", str(tmp_path / "lost"))[0] == 0
    models = Bucket.named(system.clients, shipped_values()["names"]["model_bucket"])
    models.delete_all(keys_in(models, f"models/{lost}"))
    job = create_job(client, "lost", 1, "lost")
    wait_until(lambda: client.status(job[0])["failed"] == IMAGES, "each image has failed")
    assert {each["error"]["code"] for each in client.results(job[0])} == {MODEL_GONE.code}
    assert run(system, "retry", job[0], "--model", "demo") == (0, f"{IMAGES} images were requested again.\n")
    wait_until(lambda: client.status(job[0])["done"] == IMAGES, "each image is classified")
    check_results(client, job, demo, "")


def test_jobs_keep_their_model_after_another_default_a_roll_back_or_new_configuration(
    tmp_path: Path, running: tuple[System, Path]
) -> None:
    demo, other = load_bundle(DEMO_BUNDLE).digest, relabelled_bundle(tmp_path / "other", "other", SUFFIX)
    third = relabelled_bundle(tmp_path / "third", "third", " (3)")
    system, config = running
    client = FleetClient(system.url)

    client.pause("a test")
    before = create_job(client, "before", 1)
    client.add_model(str(tmp_path / "other"), None)
    assert run(system, "model", "use", "other") == (0, "New jobs get other.\n")
    after = create_job(client, "after", 2)
    named = create_job(client, "named", 3, "demo")
    client.resume()
    check_results(client, before, demo, "")
    check_results(client, after, other, SUFFIX)
    check_results(client, named, demo, "")

    assert run(system, "model", "roll-back") == (0, "New jobs get demo.\n")
    check_results(client, create_job(client, "after the roll-back", 4), demo, "")
    # Images that are added later are classified as the others of their job.
    more = [(f"more-{sample.filename}", sample.data) for sample in samples(2, 5)]
    client.add_images(after[0], more)
    wait_until(lambda: client.status(after[0])["done"] == IMAGES + 2, "the added images are classified")
    assert {each["model"]["digest"] for each in client.results(after[0])} == {other}

    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["worker"]["bundle"] = str(tmp_path / "third")
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    wait_until(lambda: client.models()["default"] == "third", "new jobs get the configured bundle")
    check_results(client, create_job(client, "configured", 6), third, " (3)")
    assert run(system, "model", "roll-back") == (0, "New jobs get demo.\n")
    events = [each["words"] for each in client.decisions()["decisions"]]
    assert "worker.bundle has changed: new jobs get the model third" in events
