"""A roll-out in a whole system: each job is classified by the model that it was created with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from core.config import PATH_VARIABLE
from scripts.cli import fleetsight
from scripts.client import FleetClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from tests.conftest import shipped_values
from tests.support.bundles import relabelled_bundle
from tests.support.systems import running_system
from tests.support.waiting import wait_until

IMAGES = 12
SUFFIX = " (2)"
"""After each label of the other model."""


@contextmanager
def running(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[System, Path]]:
    """Run a system of two workers; yield it with its configuration file."""
    values, path = shipped_values(), home / "config.yaml"
    values["fleet"] |= {"max_workers": 2}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.setenv(PATH_VARIABLE, str(path))
    with running_system(home / "system") as system:
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


def test_jobs_keep_their_model_after_a_roll_out_roll_back_or_new_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo, other = load_bundle(DEMO_BUNDLE).digest, relabelled_bundle(tmp_path / "other", "other", SUFFIX)
    third = relabelled_bundle(tmp_path / "third", "third", " (3)")
    with running(tmp_path, monkeypatch) as (system, config):
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
