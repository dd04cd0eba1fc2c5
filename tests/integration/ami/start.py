"""The image's `start` in places of a test's own, with commands that only tell how they were called."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import DEADLINE_SECONDS

FILES = Path(__file__).parents[3] / "ami" / "files"


@dataclass(frozen=True)
class Prefix:
    """Where `start` finds and leaves its files, instead of /opt and /etc."""

    root: Path
    role: str

    @property
    def etc(self) -> Path:
        """Instead of /etc/fleetsight."""
        return self.root / "etc"

    @property
    def home(self) -> Path:
        """Instead of /opt/fleetsight."""
        return self.root / "home"

    def prepare(self) -> "Prefix":
        """Make an image of `role`, as far as `start` sees it."""
        (self.home / "venv" / "bin").mkdir(parents=True)
        (self.root / "bin").mkdir()
        about = {"role": self.role, "version": "1", "commit": "c", "bundle": "d", "engine": "openvino"}
        (self.home / "version.json").write_text(json.dumps(about))
        self.command(self.root / "bin" / "systemctl")
        self.command(self.home / "venv" / "bin" / "python")
        return self

    def command(self, path: Path, then: str = "") -> None:
        """Put a command there that notes its arguments."""
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >>{self.root}/called\n{then}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        """Return the commands that were called."""
        path = self.root / "called"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `start` with these settings in its environment."""
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "FLEETSIGHT_START_ETC": str(self.etc),
            "FLEETSIGHT_START_HOME": str(self.home),
            "FLEETSIGHT_START_AGENT": str(self.etc / "cloudwatch-agent.json"),
            **settings,
        }
        script = FILES / "common" / "opt" / "fleetsight" / "start"
        command = ("bash", str(script), *arguments)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
        )
