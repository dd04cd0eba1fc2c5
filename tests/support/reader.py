"""A reader of the documents: a shell in a checkout, in which commands start systems that end with Ctrl-C."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import requests

from app_tier.bundle import DEMO_BUNDLE
from fleetsight_client.api import ApiClient
from scripts.home import HOME, HOME_VARIABLE
from scripts.run.images import sample_images
from tests.conftest import ROOT
from tests.support.bundles import relabelled_bundle
from tests.support.checkouts import link_checkout
from tests.support.documents import CommandBlock, code_blocks, command_blocks
from tests.support.forked_system import FORK_SERVER_VARIABLE, fork_server
from tests.support.processes import processes_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until

STATE = "~/fleetsight-state"
"""The folder that the documents keep a state in."""


def blocks_of(document: str) -> list[CommandBlock]:
    """Return the blocks of commands of a document, in order."""
    return list(command_blocks(ROOT / document))


def without_comment(command: str) -> str:
    """Return a command without the comment behind it."""
    return command.partition(" #")[0].rstrip()


def command_in(document: str, part: str) -> str:
    """Return the only command of a document that contains `part`."""
    (found,) = {without_comment(each) for block in blocks_of(document) for each in block.commands if part in each}
    return found


RUN = "./scripts/run.sh"


def together(*commands: str) -> str:
    """Return one command that starts a system with the variables and options of all these commands."""
    parts = [command.partition(RUN) for command in commands]
    return "".join([*(variables for variables, _, _ in parts), RUN, *(options for _, _, options in parts)])


def yaml_in(document: str, first_line: str) -> str:
    """Return the YAML of a document that begins with a line."""
    blocks = code_blocks((ROOT / document).read_text(encoding="utf-8"), "yaml")
    (found,) = (block for block in blocks if block.startswith(first_line))
    return found


@dataclass(frozen=True)
class Run:
    """A system that a command has started.

    Attributes:
        url: of the page.
        output: file with what the command printed so far.
        folder: with the files of the system.
    """

    url: str
    output: Path
    folder: Path

    @property
    def printed(self) -> str:
        """What the command printed so far."""
        return self.output.read_text(encoding="utf-8")

    def expect(self, pattern: str) -> str:
        """Check that the command has printed a pattern; return its group, or what it matches."""
        found = re.search(pattern, self.printed)
        assert found is not None, f"{pattern}\n{self.printed}"
        return found[1] if found.groups() else found[0]

    def expect_batch(self, token: str | None = None) -> None:
        """Check that a hundred images have their labels, by the command and by the address that it prints."""
        self.expect(r"Fleet: up to \d+ workers?\b")
        self.expect(r"right +│ +(?:99|100)\b")
        self.expect(r"failed +│ +0\b")
        self.expect(r"lost +│ +0\b")
        self.expect(rf"The page is at {self.url}\n")
        job = self.expect(rf"This job is at {self.url}/jobs/(\S+)")
        status = ApiClient(self.url, token=token).status(job)
        assert (status["state"], status["done"]) == ("finished", 100), status


@dataclass(frozen=True)
class Reader:
    """A reader with a shell in a checkout, with a home, a port and variables of their own.

    Attributes:
        forks: whether a system forks its processes, which this checkout's code must be.
    """

    folder: Path
    home: Path
    port: int
    variables: Mapping[str, str] = field(default_factory=dict)
    forks: bool = True

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return the environment of the shell."""
        own = {
            "HOME": str(self.home),
            HOME_VARIABLE: str(self.folder / ".fleetsight"),
            "FLEETSIGHT_URL": self.url,
            "FLEETSIGHT__WEB__PORT": str(self.port),
            # As on a machine with two cores, where more workers would only share them.
            "FLEETSIGHT__FLEET__MAX_WORKERS": "2",
        }
        others = ("FLEETSIGHT", "CURL_HOME", "XDG_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        return {**inherited, **own, **self.variables}

    def write(self, name: str, text: str) -> None:
        """Write a file into the checkout, where the reader is."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, *commands: str) -> str:
        """Run commands in a shell until they end; return what they print. An error names the command that failed."""
        script = "\n".join(["trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR", *commands])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, script: str) -> Iterator[Run]:
        """Run commands until the last one serves; at the end press Ctrl-C, and check that nothing is left."""
        path = os.pathsep.join([str(ROOT / "tests" / "support" / "forking"), str(self.folder)])
        variables = {"PYTHONPATH": path, FORK_SERVER_VARIABLE: fork_server()} if self.forks else {}
        reader = replace(self, variables={**self.variables, **variables})
        with reader.until_ctrl_c(script, lambda printed: "Press Ctrl-C to stop" in printed) as output:
            assert requests.get(f"{self.url}/healthz", timeout=DEADLINE_SECONDS).status_code == 200
            yield Run(self.url, output, self.folder / ".fleetsight" / f"run-{self.port}")
        wait_until(lambda: not processes_of(self.port), "every process has ended")

    @contextmanager
    def until_ctrl_c(self, script: str, is_ready: Callable[[str], bool]) -> Iterator[Path]:
        """Run commands until what they print is ready; yield its file, and at the end press Ctrl-C."""
        output = self.home / "output"
        with (
            output.open("w") as shown,
            subprocess.Popen(
                # test.sh runs its steps in the background, where a shell makes its children ignore Ctrl-C.
                ["env", "--default-signal=INT", "bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=shown,
                stderr=subprocess.STDOUT, start_new_session=True,
            ) as process,
        ):  # fmt: skip

            def is_ready_now() -> bool:
                printed = output.read_text(encoding="utf-8")
                assert process.poll() is None, f"{script} has ended\n{printed}"
                return is_ready(printed)

            try:
                wait_until(is_ready_now, f"{script} is ready", details=output.read_text)
                yield output
                os.killpg(process.pid, signal.SIGINT)
                assert process.wait(timeout=DEADLINE_SECONDS) == 0, output.read_text(encoding="utf-8")
            finally:
                process.kill()


def make_checkout(folder: Path) -> Path:
    """Make a checkout in which ResNet-18 and the model for photos were built, with a network that is smaller."""
    link_checkout(folder)
    copy_samples(folder)
    models = folder / ".fleetsight" / "models"
    shutil.copytree(DEMO_BUNDLE, models / "resnet18")
    relabelled_bundle(models / "photos", "photos", "!")
    return folder


def copy_samples(folder: Path) -> None:
    """Copy the drawn signs of a batch into a checkout; this checkout's are drawn once, which takes two seconds."""
    samples = sample_images(HOME / "samples")
    copies = folder / ".fleetsight" / "samples"
    copies.mkdir(parents=True)
    for file in (*samples.files, HOME / "samples" / "labels.csv"):
        shutil.copy(file, copies)


FIRST_BATCH = "docs/first-batch.md"
MODELS = "docs/models.md"
OPERATE = "docs/operate.md"
POLICY = "CONTRIBUTING.md"

SIGN_IN, METRICS = f"{RUN} --sign-in", f"{RUN} --metrics"
TRACING = command_in(OPERATE, "TRACING")
POISON = command_in(OPERATE, "poison.yaml")
PROXIED = command_in(OPERATE, "WEB__BEHIND_PROXY")
KEEPS = command_in(FIRST_BATCH, "--state")
CONTINUES = command_in("localcloud/README.md", f"run.sh --state {STATE}")
COLOURS = (f"{RUN} --model colours", command_in(MODELS, "--images"))

STORIES = {RUN, SIGN_IN, METRICS, TRACING, POISON, PROXIED, KEEPS, CONTINUES, *COLOURS}
"""Commands that start a system in the stories of `test_documented_stories.py` and `test_fresh_clone.py`."""
