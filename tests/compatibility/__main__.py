"""`python -m tests.compatibility COMMIT`: makes `previous.zip` of the release with this commit or tag."""

import sys

from tests.compatibility.previous import ZIP, build

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.compatibility COMMIT")
    commit = build(sys.argv[1])
    sys.stdout.write(f"{ZIP.name}: {ZIP.stat().st_size / 1000:.0f} KB of {commit[:12]}\n")
