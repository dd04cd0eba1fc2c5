#!/usr/bin/env bash
# The project's checks and tests.
#   ./scripts/test.sh            everything, as in CI
#   ./scripts/test.sh --fast     checks and unit tests, for the daily loop
#   ./scripts/test.sh PATH...    these tests alone; the arguments are pytest's: ./scripts/test.sh tests/unit -k lease
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh run torch simulate test

readonly SOURCES="services app_tier web_tier ami scripts benchmarks" FUZZ_SECONDS=60
LOGS=$(mktemp -d)
# Each background step is a process group, so that Ctrl-C ends it with all that it has started.
set -m
end_steps() {
  local group
  for group in $(jobs -p); do kill -INT -- "-$group" 2>/dev/null || true; done
  wait
  rm -rf "$LOGS"
}
trap end_steps EXIT

pytest() { .venv/bin/python -m pytest "$@"; }

# NAME PYTEST-ARGUMENT...: also measures branch coverage, into a file of its own; not of other processes.
covered() { COVERAGE_FILE="$LOGS/coverage.$1" pytest --cov --cov-report= --cov-fail-under=0 "${@:2}"; }

format() { .venv/bin/ruff format --check .; }
lint() { .venv/bin/ruff check .; }
types() { .venv/bin/mypy; }
imports() { .venv/bin/lint-imports; }
security_lint() { .venv/bin/bandit --quiet --configfile pyproject.toml --recursive $SOURCES; }
audit() { .venv/bin/python -m scripts.audit; }
fuzzing() { .venv/bin/python -m tests.fuzz all --seconds "$FUZZ_SECONDS"; }
coverage() { .venv/bin/coverage combine --quiet "$LOGS"/coverage.* && .venv/bin/coverage report; }

unit_tests() { covered unit --numprocesses=auto --maxprocesses=8 tests/unit; }
simulations() { pytest tests/simulation; }
# The tests of a file share what they start, so they stay together. Most of them wait for processes.
integration_tests() { covered integration --numprocesses=3 --dist=loadfile tests/integration; }
browser_tests() { covered browser tests/browser; }
chaos_tests() { covered chaos --numprocesses=2 --dist=loadfile tests/chaos; }
image_tests() { covered image tests/image; }
# Built long before the tests that need them; those tests report an image that cannot be built.
images() { .venv/bin/python -m tests.image; }

# STEP...: runs the steps at the same time and prints what each has written; fails if one of them fails.
at_once() {
  local step failed=0 index=0 groups=()
  echo "== running: $*"
  for step in "$@"; do
    {
      SECONDS=0
      if "$step"; then echo "== $step passed after $SECONDS s"; else echo "== $step FAILED after $SECONDS s"; exit 1; fi
    } >"$LOGS/$step" 2>&1 &
    groups+=($!)
  done
  for step in "$@"; do
    wait "${groups[index]}" || failed=1
    cat "$LOGS/$step"
    index=$((index + 1))
  done
  return "$failed"
}

case "${1:-}" in
  "")
    images >/dev/null 2>&1 &
    at_once format lint security_lint imports audit types unit_tests
    at_once simulations browser_tests integration_tests
    at_once fuzzing image_tests chaos_tests
    at_once coverage
    ;;
  --fast) at_once format lint security_lint imports types unit_tests ;;
  *) pytest "$@" ;;
esac
