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
  step .venv/bin/python -m pytest --cov --cov-report=term
fi
