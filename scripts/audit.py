"""`python -m scripts.audit`: checks all pinned packages for known vulnerabilities, by pip-audit.

pip-audit needs an online database. Without it, pip-audit reports no vulnerability: the command detects this, and
reports that the audit is skipped.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.pin import Pin, all_pins

SECONDS = 300

AuditAnswer = Mapping[str, Any]
"""pip-audit's result for a package: `vulns`, or a `skip_reason`."""


class NoDataError(Exception):
    """Raised when the database of vulnerabilities is not available; the message is pip-audit's last line."""


def main() -> None:
    """Print the result; exit with status 1 if a package has a known vulnerability."""
    pins = list(all_pins().values())
    try:
        lines = audit(pins, pip_audit)
    except NoDataError as error:
        print(f"the audit is skipped, since nothing of known vulnerabilities can be had here: {error}")
        return
    print("\n".join(lines) or f"no known vulnerability in {len(pins)} packages")
    sys.exit(bool(lines))


def audit(pins: list[Pin], run: Callable[[Iterable[Pin]], list[AuditAnswer]]) -> list[str]:
    """Return a line for each known vulnerability, and for each package that is not in the database.

    Raises:
        NoDataError: no package is in the database.
    """
    # One package first: without data, the others would only take time.
    _require_data(run(pins[:1]))
    lines = []
    for answer in _require_data(run(pins)):
        name = f"{answer['name']} {answer.get('version', '')}".strip()
        if reason := answer.get("skip_reason"):
            lines.append(f"{name}: not audited: {reason}")
        for each in answer.get("vulns", ()):
            fixes = ", ".join(each["fix_versions"]) or "nothing yet"
            lines.append(f"{name}: {each['id']}, fixed in {fixes}")
    return lines


def pip_audit(pins: Iterable[Pin]) -> list[AuditAnswer]:
    """Return pip-audit's results for `pins`, which it does not install.

    Raises:
        NoDataError: the database did not answer.
    """
    with tempfile.TemporaryDirectory(prefix="fleetsight-audit-") as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{Pin(pin.name, pin.version, '', pin.hashes)}\n" for pin in pins), encoding="utf-8")
        options = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
        command = (sys.executable, "-m", "pip_audit", *options, "--requirement", str(file))
        try:
            process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NoDataError(f"no answer in {SECONDS} s") from error
    try:
        answers: list[AuditAnswer] = json.loads(process.stdout)["dependencies"]
    except ValueError as error:
        raise NoDataError((process.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]) from error
    return answers


def _require_data(answers: list[AuditAnswer]) -> list[AuditAnswer]:
    if all("skip_reason" in answer for answer in answers):
        raise NoDataError(answers[0]["skip_reason"] if answers else "no package was asked for")
    return answers


if __name__ == "__main__":
    main()
