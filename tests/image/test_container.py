"""The commands about containers in docs/first-batch.md run: the image is built, runs and keeps its state."""

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import free_port
from tests.conftest import ROOT
from tests.image.conftest import IMAGES, skip_without
from tests.support.booted.images import ImageToolMissingError, LocalImage
from tests.support.container import copy_context, docker_by_podman, has_docker, stages
from tests.support.documents import command_blocks
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until

pytestmark = pytest.mark.thorough

COMPOSE, ALONE, COPY = [
    block.commands
    for block in command_blocks(ROOT / "docs" / "first-batch.md")
    if any(command.startswith("docker ") for command in block.commands)
]

VOLUME = f"fleetsight-test-{os.getpid()}"
"""Name of the volume, and of the project: a Docker engine may have the user's own."""


class Shell:
    """A reader's shell in a checkout, at a free port, without a terminal."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.port = folder, free_port()
        self._environment = {**environment, "FLEETSIGHT_PORT": str(self.port), "COMPOSE_PROJECT_NAME": VOLUME}
        self.api = ApiClient(f"http://127.0.0.1:{self.port}")

    @contextmanager
    def started(self, command: str) -> "Iterator[subprocess.Popen[str]]":
        """Run a command of the document until the end of the context; `output` gets what it prints."""
        replaced = (
            ("sudo ", ""),
            ("127.0.0.1:8000:", f"127.0.0.1:{self.port}:"),
            ("--volume fleetsight:", f"--volume {VOLUME}:"),
            ("compose exec ", "compose exec -T "),
            ("compose run ", "compose run -T "),
        )
        for old, new in replaced:
            command = command.replace(old, new)
        with self.output.open("w") as file:
            # test.sh runs its steps in the background, where a shell makes its children ignore Ctrl-C.
            process = subprocess.Popen(
                ["env", "--default-signal=INT", "bash", "-euo", "pipefail", "-c", f"exec {command}"],
                cwd=self.folder, env=self._environment, text=True, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def output(self) -> Path:
        """The file with what the last command printed."""
        return self.folder.parent / "output"

    def run(self, command: str, seconds: float = DEADLINE_SECONDS) -> str:
        """Run a command; return what it prints."""
        with self.started(command) as process:
            process.wait(seconds)
        assert process.returncode == 0, f"{command}\n{self.output.read_text()}"
        return self.output.read_text()

    def classify(self, seed: int) -> str:
        """Classify an image in a job of its own; return the job."""
        [sample] = samples(1, seed=seed)
        job_id = self.api.create_job("container")
        self.api.add_images(job_id, [(sample.filename, sample.data)])
        wait_until(lambda: self.outcomes(job_id) == ["done"], "the image is classified")
        return job_id

    def outcomes(self, job_id: str) -> list[str]:
        """Return the status of each result of a job."""
        return [str(result["status"]) for result in self.api.results(job_id)]

    def wait_until_ready(self) -> None:
        """Wait until the page answers."""
        logs = "docker ps --all --quiet --latest | xargs docker logs"
        wait_until(self.api.ready, "the page answers", details=lambda: self.run(f"bash -c '{logs}'"))


@pytest.fixture(scope="module")
def shell(worker_image: LocalImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with Docker, or with podman and the Debian of the workers, that has built the container image."""
    folder = tmp_path_factory.mktemp("containers")
    is_docker = has_docker()
    copy_context(folder / "checkout", has_bases=is_docker)
    with ExitStack() as stack:
        environment: Mapping[str, str] = os.environ
        if not is_docker:
            try:
                environment = stack.enter_context(docker_by_podman(IMAGES.parent))
            except ImageToolMissingError as error:
                skip_without(error)
        shell = Shell(folder / "checkout", environment)
        stack.enter_context(closing(shell.api))
        shell.run(ALONE[0], NEVER_SECONDS)
        yield shell


def test_compose_runs_the_system_and_keeps_its_state(shell: Shell) -> None:
    up, logs, status, down = COMPOSE
    owner, stop, copy, start = COPY
    try:
        shell.run(up)
        shell.wait_until_ready()
        job_id = shell.classify(seed=73)
        assert "workers" in shell.run(status)
        with shell.started(logs) as following:
            wait_until(lambda: "Fleetsight is at" in shell.output.read_text(), logs)
            following.send_signal(signal.SIGINT)
            following.wait(DEADLINE_SECONDS)
        shell.run(f"docker compose exec fleetsight {shlex.join(stages()[-1].command('HEALTHCHECK'))}")

        for command in (owner, stop, copy, start):
            shell.run(command)
        assert (shell.folder / "backup" / "fleetsight.tar").stat().st_size
        shell.wait_until_ready()
        assert shell.outcomes(job_id) == ["done"]

        shell.run(down)
        shell.run(up)
        shell.wait_until_ready()
        assert shell.outcomes(job_id) == ["done"]
    finally:
        shell.run("docker compose down --volumes")


def test_the_image_runs_without_rights_and_its_state_outlives_it(shell: Shell) -> None:
    _, run = ALONE
    named = run.replace("docker run ", f"docker run --name {VOLUME} ")
    jobs: list[str] = []
    try:
        for seed in (74, 75):
            with shell.started(named) as process:
                shell.wait_until_ready()
                assert [shell.outcomes(job_id) for job_id in jobs] == [["done"]] * len(jobs)
                jobs.append(shell.classify(seed))
                status = shell.run(f"docker exec {VOLUME} cat /proc/1/status")
                assert process.poll() is None
                shell.run(f"docker stop --time {DEADLINE_SECONDS:.0f} {VOLUME}")
                assert process.wait(DEADLINE_SECONDS) == 0
            shell.run(f"docker rm {VOLUME}")
            facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert facts["Uid"].split() == ["10001"] * 4
            assert int(facts["CapBnd"], 16) == 0
            assert facts["NoNewPrivs"] == "1"
    finally:
        shell.run(f"docker rm --force --volumes {VOLUME}")
        shell.run(f"docker volume rm {VOLUME}")
