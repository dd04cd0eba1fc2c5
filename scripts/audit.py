"""`python -m scripts.audit`: whether any pinned package has a known vulnerability, by pip-audit.

What is known comes from outside. Where that cannot be had, pip-audit finds nothing in nothing and is content, so this
looks whether it knows anything of what it was asked, and says that the audit was skipped when it does not.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.requirements_file import Pin, all_pins

SECONDS = 300

Answer = Mapping[str, Any]
"""What pip-audit says of a package: `vulns`, or a `skip_reason`."""


class NoDataError(Exception):
    """Raised when nothing can be had of known vulnerabilities; the message is pip-audit's last word."""


def main() -> None:
    """Print the verdict; exit with 1 when a package has a known vulnerability."""
    pins = list(all_pins().values())
    try:
        verdict = audit(pins, pip_audit)
    except NoDataError as error:
        print(f"the audit is skipped, since nothing of known vulnerabilities can be had here: {error}")
        return
    print("\n".join(verdict) or f"no known vulnerability in {len(pins)} packages")
    sys.exit(bool(verdict))


def audit(pins: list[Pin], ask: Callable[[Iterable[Pin]], list[Answer]]) -> list[str]:
    """Return a line for each known vulnerability, and for each package that nothing is known of.

    Raises:
        NoDataError: nothing is known of any.
    """
    # One first: without data there is no need to wait for the others.
    _known(ask(pins[:1]))
    lines = []
    for answer in _known(ask(pins)):
        name = f"{answer['name']} {answer.get('version', '')}".strip()
        if reason := answer.get("skip_reason"):
            lines.append(f"{name}: not audited: {reason}")
        for each in answer.get("vulns", ()):
            mends = ", ".join(each["fix_versions"]) or "nothing yet"
            lines.append(f"{name}: {each['id']}, mended in {mends}")
    return lines


def pip_audit(pins: Iterable[Pin]) -> list[Answer]:
    """Return what pip-audit knows of `pins`, none of which it installs.

    Raises:
        NoDataError: it got no answer.
    """
    with tempfile.TemporaryDirectory(prefix="fleetsight-audit-") as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{Pin(pin.name, pin.version, '', pin.hashes)}\n" for pin in pins), encoding="utf-8")
        options = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
        command = (sys.executable, "-m", "pip_audit", *options, "--requirement", str(file))
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NoDataError(f"no answer in {SECONDS} s") from error
    try:
        answers: list[Answer] = json.loads(said.stdout)["dependencies"]
    except ValueError as error:
        raise NoDataError((said.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]) from error
    return answers


def _known(answers: list[Answer]) -> list[Answer]:
    if all("skip_reason" in answer for answer in answers):
        raise NoDataError(answers[0]["skip_reason"] if answers else "no package was asked for")
    return answers


if __name__ == "__main__":
    main()
