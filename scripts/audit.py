"""``python -m scripts.audit``: look up known vulnerabilities of the pinned packages in PyPI's database, by pip-audit.

Exit status: 0 if none is known, 1 if some are, 2 if a package could not be looked up. By itself, pip-audit succeeds
without the database: it skips every package.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from fleetsight_client.terminal import clean_terminal_output

ROOT: Final = Path(__file__).resolve().parents[1]
PIP_AUDIT: Final = (str(ROOT / ".venv" / "bin" / "pip-audit"), "--disable-pip", "--no-deps", "--progress-spinner=off")


def main() -> int:
    """Print what is known of the packages; return the exit status."""
    clean_terminal_output()
    # On all platforms: pip-audit leaves out packages that this platform does not need.
    pins = re.sub(r" ;.*", "", (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8"))
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(pins)
        file.flush()
        command = [*PIP_AUDIT, "--format=json", "-r", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        packages = []
    found = [(each, vulnerability) for each in packages for vulnerability in each.get("vulns", ())]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    skipped = [each["skip_reason"] for each in packages if "vulns" not in each]
    is_complete = bool(packages) and not skipped
    if not is_complete:
        what = f"{len(skipped)} of {len(packages)} packages" if packages else "any package"
        print(
            f"NOT AUDITED: PyPI's database of vulnerabilities did not answer for {what}. Run this command where it "
            f"does. pip-audit says: {skipped[0] if skipped else done.stderr.strip()[-500:]}"
        )
    elif not found:
        print(f"No vulnerability is known of {len(packages)} packages.")
    if found:
        return 1
    return 0 if is_complete else 2


if __name__ == "__main__":
    sys.exit(main())
