#!/usr/bin/env bash
# Everything that must hold: format, lint, types, import rules, security lint, known vulnerabilities, a minute of
# fuzzing, all tests with branch coverage.
# Arguments go to pytest, and only lint comes before: ./scripts/test.sh tests/unit -k lease
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh run torch simulate test

readonly SOURCES="services app_tier web_tier ami scripts benchmarks" FUZZ_SECONDS=60
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT

step() { echo "== $*"; "$@"; }

# Each argument is a command. What each says is shown when it has ended, in order, also when an earlier one has failed.
steps_side_by_side() {
  local command index=0 failed=0 processes=()
  for command in "$@"; do
    $command >"$LOGS/${#processes[@]}" 2>&1 &
    processes+=($!)
  done
  for command in "$@"; do
    echo "== $command"
    wait "${processes[index]}" || { failed=1 && echo "== failed: $command"; }
    cat "$LOGS/$index"
    index=$((index + 1))
  done
  return "$failed"
}

checks=(
  ".venv/bin/ruff format --check ."
  ".venv/bin/ruff check ."
  ".venv/bin/mypy"
  ".venv/bin/lint-imports"
  ".venv/bin/bandit --quiet --configfile pyproject.toml --recursive $SOURCES"
)
if [ $# -gt 0 ]; then
  steps_side_by_side "${checks[@]}"
  step .venv/bin/python -m pytest "$@"
else
  # The tests that come last need them; what cannot be made they will say.
  nice .venv/bin/python -m tests.image >"$LOGS/images" 2>&1 &
  # Fuzzing takes what the others leave of its minute.
  steps_side_by_side "${checks[@]}" ".venv/bin/python -m scripts.audit" \
    "nice .venv/bin/python -m tests.fuzz all --seconds $FUZZ_SECONDS"
  # Unit tests share nothing and take all cores. Integration tests start processes of their own and mostly wait for
  # them, so they go two files at a time; the others have the machine alone.
  coverage=(--cov --cov-report= --cov-fail-under=0)
  step .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=8 "${coverage[@]}" tests/unit
  step .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile "${coverage[@]}" --cov-append tests/integration
  step .venv/bin/python -m pytest --cov --cov-append --cov-report=term tests/browser tests/chaos tests/image
fi
