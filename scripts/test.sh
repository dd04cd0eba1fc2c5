#!/usr/bin/env bash
# The project's checks and tests.
#   ./scripts/test.sh            everything, as in CI
#   ./scripts/test.sh --fast     checks and unit tests, for the daily loop
#   ./scripts/test.sh PATH...    these tests alone; the arguments are pytest's: ./scripts/test.sh tests/unit -k lease
set -euo pipefail
cd "$(dirname "$0")/.."

readonly SOURCES="services core localcloud app_tier web_tier ami scripts simulator benchmarks" FUZZ_SECONDS=60 MIN_COVERAGE=89
LOGS=$(mktemp -d)
mkdir "$LOGS/covered"
# Where no compiled modules may be written, each of hundreds of processes compiles all that it imports.
unset PYTHONDONTWRITEBYTECODE
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

# Also measures branch coverage of pytest's own processes.
covered() { COVERAGE_DIR="$LOGS/covered" pytest -p tests.support.coverage "$@"; }

format() { .venv/bin/ruff format --check .; }
lint() { .venv/bin/ruff check .; }
types() { .venv/bin/mypy; }
imports() { .venv/bin/lint-imports; }
security_lint() { .venv/bin/bandit --quiet --configfile pyproject.toml --recursive $SOURCES; }
audit() { .venv/bin/python -m scripts.audit; }
# At low priority, it uses the CPU time that the tests beside it leave.
fuzzing() { nice .venv/bin/python -m tests.fuzz all --seconds "$FUZZ_SECONDS"; }
coverage() {
  .venv/bin/python -m slipcover --branch --merge "$LOGS"/covered/*.json --out "$LOGS/merged.json" --skip-covered --fail-under "$MIN_COVERAGE"
}

readonly UNIT_TESTS="--numprocesses=auto --maxprocesses=8 tests/unit"
unit_tests() { pytest $UNIT_TESTS; }
covered_unit_tests() { covered $UNIT_TESTS; }
# The tests of a file share what they start, so they stay together. Most of them wait for processes. In pytest-xdist's own
# order, the files of fewest tests would come last; they take longest, and one process would work on the last of them.
integration_tests() { covered --numprocesses=5 --dist=loadfile --no-loadscope-reorder tests/integration; }
simulations() { pytest tests/simulation; }
browser_tests() { pytest tests/browser; }
chaos_tests() { pytest --numprocesses=2 --dist=loadfile tests/chaos; }
image_tests() { pytest tests/image; }
# Built long before the tests that need them; those tests report an image that cannot be built.
images() { .venv/bin/python -m tests.image; }
setup_torch() { ./scripts/setup.sh torch; }
setup_simulate() { ./scripts/setup.sh simulate; }

# STEP: runs it and prints what it has written once it has ended, so that steps that run at the same time do not mix.
report() {
  local started=$SECONDS result=passed TIMEFORMAT="%0U + %0S"
  { time "$1" >"$LOGS/$1" 2>&1; } 2>"$LOGS/$1.cpu" || result=FAILED
  echo "== $1 $result after $((SECONDS - started)) s; CPU time of programs and kernel: $(<"$LOGS/$1.cpu") s" >>"$LOGS/$1"
  flock "$LOGS" cat "$LOGS/$1"
  [ "$result" = passed ]
}

in_turn() { # STEP...: all of them, also when one has failed
  local step failed=0
  for step in "$@"; do report "$step" || failed=1; done
  return "$failed"
}

at_once() { # "STEP..."...: runs the lists at the same time, and the steps of a list in turn
  local steps group failed=0 groups=()
  echo "== running: $(printf '%s | ' "$@")"
  for steps in "$@"; do
    in_turn $steps &
    groups+=($!)
  done
  for group in "${groups[@]}"; do wait "$group" || failed=1; done
  return "$failed"
}

./scripts/setup.sh run test

case "${1:-}" in
  "")
    images >/dev/null 2>&1 &
    at_once \
      "setup_torch integration_tests" \
      "setup_simulate format lint imports covered_unit_tests simulations chaos_tests" \
      "browser_tests image_tests" \
      "types security_lint audit fuzzing"
    report coverage
    ;;
  --fast) at_once "format lint imports security_lint types" unit_tests ;;
  *)
    setup_torch
    setup_simulate
    pytest "$@"
    ;;
esac
