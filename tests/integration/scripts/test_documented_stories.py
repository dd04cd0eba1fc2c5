"""Pages of the documents are followed: a command starts a system, and the others use it, or what it leaves."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import requests
import yaml
from click.testing import CliRunner
from PIL import Image

from fleetsight_client.api import ApiClient
from scripts.cli import fleetsight
from scripts.client import FleetClient
from tests.support.jobs import picture
from tests.support.otlp import otlp_collector
from tests.support.reader import (
    COLOURS,
    CONTINUES,
    FIRST_BATCH,
    KEEPS,
    METRICS,
    MODELS,
    OPERATE,
    POISON,
    POLICY,
    PROXIED,
    SIGN_IN,
    STATE,
    TRACING,
    Reader,
    Run,
    blocks_of,
    command_in,
    copy_samples,
    together,
    yaml_in,
)
from tests.support.recipes import apply, copy_code
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


def expect_proxied(run: Run) -> None:
    """The page answers to its name, as a proxy passes it on, and says that browsers shall use TLS."""
    run.expect(r"People sign in at the development provider http://127\.0\.0\.1:\d+")
    run.expect(r"everything stays in \S+/fleetsight-state")
    proxied = {"Host": "photos.example.org", "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    answer = requests.get(f"{run.url}/readyz", headers=proxied, timeout=DEADLINE_SECONDS)
    assert answer.json() == {"ready": True, "missing": {}}
    assert "Strict-Transport-Security" in answer.headers
    other = {**proxied, "Host": "other.example.org"}
    assert requests.get(f"{run.url}/readyz", headers=other, timeout=DEADLINE_SECONDS).status_code == 421
    assert requests.get(f"{run.url}/api/v1/jobs", timeout=DEADLINE_SECONDS).status_code == 401


def expect_metrics(run: Run, token: str) -> None:
    """Each address of the configuration of Prometheus answers with metrics."""
    path = run.expect(r"prometheus --config\.file=(\S+)")
    scraped = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["scrape_configs"]
    assert [each["job_name"] for each in scraped] == ["fleetsight-web", "fleetsight-controller"]
    for each in scraped:
        (target,) = each["static_configs"][0]["targets"]
        headers = {"Authorization": f"Bearer {token}"} if "authorization" in each else {}
        answer = requests.get(f"http://{target}/metrics", headers=headers, timeout=DEADLINE_SECONDS)
        assert "fleetsight_" in answer.text


def test_a_state_of_a_proxied_page_is_copied_and_continued_with_metrics_and_spans(reader: Reader) -> None:
    proxied = re.sub(
        r"--issuer \S+ --client-id \S+", "--no-batch --sign-in", PROXIED
    )  # no other provider is reachable
    with reader.running(together(proxied, KEEPS)) as run:
        expect_proxied(run)
        token = run.expect(r"export FLEETSIGHT_TOKEN=(\S+)")
        kept = ApiClient(reader.url, token=token).create_job("kept")

    (block,) = (each for each in blocks_of(FIRST_BATCH) if "flock" in each.commands[0])
    places = (("DIR", STATE), ("OTHER", "~/other"), ("backup.tar", "~/backup.tar"))
    state, other, backup = (reader.home / name for name in ("fleetsight-state", "other", "backup.tar"))
    for command in block.commands:
        for place, value in places:
            command = re.sub(rf"\b{place}\b", value, command)  # noqa: PLW2901 (the command that the reader types)
        reader.run(command)
    assert backup.stat().st_mode & 0o077 == 0
    assert not state.exists()

    other.rename(state)
    with otlp_collector() as collector:
        traced = TRACING.replace("http://127.0.0.1:4318", collector.url)
        with reader.running(together(traced, CONTINUES, SIGN_IN, METRICS)) as run:
            assert "Continuing with " in run.printed
            token = run.expect(r"export FLEETSIGHT_TOKEN=(\S+)")
            run.expect_batch(token)
            assert ApiClient(reader.url, token=token).status(kept)["name"] == "kept"
            expect_metrics(run, token)
            processes = {"fleetsight-web", "fleetsight-worker", "fleetsight-controller"}
            wait_until(lambda: {span.service for span in collector.spans()} == processes, "each process sends spans")


def test_a_dead_letter_is_made_found_and_redriven(reader: Reader) -> None:
    """Five workers are killed meanwhile before their first answer, so this also shows that the fleet goes on."""
    reader.write("poison.yaml", yaml_in(OPERATE, "# poison.yaml"))
    (reader.folder / "photo.jpg").write_bytes(picture())
    with reader.running(POISON) as run:
        client = FleetClient(reader.url)
        reader.run(command_in(OPERATE, "--no-wait"))
        (letter,) = wait_until(
            lambda: list(client.dead_letters()), "the image is a dead letter", details=lambda: run.printed
        )
        job, image = letter["job_id"], letter["image_id"]
        # On a slow machine a second worker may receive the message before a heartbeat has named it.
        assert letter["tries"] >= 6
        assert letter["error"]["code"] == "crashed_worker"
        assert (client.fleet() or {})["circuit"]["own_failures"] == 0

        def of(part: str) -> str:
            return re.sub(r"\bIMAGE\b", image, re.sub(r"\bJOB\b", job, command_in(OPERATE, part)))

        assert "photo.jpg" in reader.run(command_in(OPERATE, "dead-letters list"))
        assert letter["error"]["message"] in " ".join(reader.run(of("dead-letters show")).split())
        assert image in reader.run(of("logs --image"))
        reader.run(of("dead-letters redrive JOB"))
        reader.run(command_in(OPERATE, "redrive --all"))
        wait_until(lambda: client.status(job)["failed"] == 0, "the image is being tried again")
        assert "There are no dead letters." in reader.run(command_in(OPERATE, "dead-letters list"))


def test_a_network_of_ones_own_is_exported_built_checked_and_served(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process runs the commands that import torch, which takes four seconds of CPU in each process.

    They draw a tenth of the images that a build measures without a folder: to draw all takes three seconds.
    """
    pytest.importorskip("torch", reason="torch is not installed: ./scripts/setup.sh torch")
    with monkeypatch.context() as here:
        here.chdir(reader.folder)
        here.setattr("scripts.model.sample_images.DRAWN_IMAGES", 20)
        here.setattr("scripts.model.sample_images.CALIBRATION_IMAGES", 10)
        commands = [each for block in blocks_of(MODELS) for each in block.commands if "colours" in each]
        for program, *arguments in (shlex.split(each) for each in commands if each not in COLOURS):
            if program == "./scripts/fleetsight":
                ran = CliRunner().invoke(fleetsight, arguments)
                assert ran.exit_code == 0, ran.output
            else:
                assert program == ".venv/bin/python"
                here.setattr("sys.argv", arguments)
                runpy.run_path(arguments[0], run_name="__main__")

    for label, colour in (("red", (200, 40, 30)), ("green", (30, 180, 60)), ("blue", (20, 60, 210))):
        (reader.folder / "colour-photos" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (64, 48), colour)
            image.save(reader.folder / "colour-photos" / label / f"{number}.jpg")
    with reader.running(together(*COLOURS)) as run:
        run.expect(r"right +│ +12\b")
        run.expect(r"lost +│ +0\b")
        run.expect(r"12 images, colours@\w+, true labels from folder names")


def test_a_policy_of_ones_own_decides_in_a_fleet(reader: Reader, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    copy_code(folder)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "scripts" / "setup.sh").write_text("#!/bin/sh\n")  # everything is installed
    copy_samples(folder)
    apply("A scaling policy", folder)
    author = Reader(folder, reader.home, reader.port, forks=False)
    (block,) = (each for each in blocks_of(POLICY) if "POLICY=batches" in each.commands[0])
    with author.running("\n".join(block.commands)) as run:
        run.expect_batch()
        decided = FleetClient(reader.url).decisions()
        assert "10 per batch" in str(decided), decided
