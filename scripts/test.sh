#!/usr/bin/env bash
# Everything that must hold: format, lint, types, import rules, all tests with branch coverage.
# Arguments go to pytest: ./scripts/test.sh tests/unit -k lease
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh run torch simulate test

step() { echo "== $*"; "$@"; }
step .venv/bin/ruff format --check .
step .venv/bin/ruff check .
step .venv/bin/mypy
step .venv/bin/lint-imports
if [ $# -gt 0 ]; then
  step .venv/bin/python -m pytest "$@"
else
  # Unit tests share nothing and take all cores; the others start processes of their own, and have the machine alone.
  step .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --cov --cov-report= --cov-fail-under=0 tests/unit
  step .venv/bin/python -m pytest --cov --cov-append --cov-report=term tests/integration tests/browser tests/chaos tests/image
fi
