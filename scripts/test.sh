#!/usr/bin/env bash
# The project's checks and tests.
#   ./scripts/test.sh            checks and tests that prove every promise once, as in CI
#   ./scripts/test.sh --all      these, and what is slow and rarely finds a fault: container and booted images, trained
#                                networks, the documents' commands and site, judges of npm, fuzzing, random examples,
#                                coverage
#   ./scripts/test.sh --fast     checks and unit tests, for daily work
#   ./scripts/test.sh PATH...    only these tests; passes all arguments to pytest: ./scripts/test.sh tests/unit -k lease
set -euo pipefail
cd "$(dirname "$0")/.."

readonly SOURCES="services core localcloud app_tier web_tier ami client scripts benchmarks" FUZZ_INPUTS=5000 MIN_COVERAGE=90
LOGS=$(mktemp -d)
# What the tests of a run are: those of every run, with the same examples each time, or all, with others each time.
SELECTION=(-m "not thorough") IS_ALL=
if [ "${1:-}" = --all ]; then SELECTION=(--hypothesis-profile=random) IS_ALL=yes; fi
mkdir "$LOGS/covered"
# With this variable, each of hundreds of processes would compile every module that it imports.
unset PYTHONDONTWRITEBYTECODE
# Each process would search the metadata of all installed packages for plugins of pydantic. There are none.
export PYDANTIC_DISABLE_PLUGINS=__all__
# Job control makes each background step a process group, so that Ctrl-C stops it with all of its child processes.
set -m
end_steps() {
  local group
  for group in $(jobs -p); do kill -INT -- "-$group" 2>/dev/null || true; done
  wait
  rm -rf "$LOGS"
}
trap end_steps EXIT

pytest() { .venv/bin/python -m pytest "$@"; }
# Of the run's tests, those in the given folders; the twenty that take longest are named at the end.
selected() { pytest --durations=20 --durations-min=1 "${SELECTION[@]}" "$@"; }

# With --all, also measures branch coverage of pytest's own processes, of commands and of the local cloud, which costs a
# fifth more CPU time. The tests of whole systems reach nothing more.
covered() {
  if [ -z "$IS_ALL" ]; then
    selected "$@"
    return
  fi
  PYTHONPATH="$PWD/tests/support/measured" COVERAGE_DIR="$LOGS/covered" selected -p tests.support.coverage "$@"
}

# Compiles the tests and what they import, for coverage with its probes. Otherwise each of a dozen processes of pytest
# that start together would do so, which doubles the CPU time of their start.
compile_tests() {
  PYTEST_XDIST_WORKER=none covered --collect-only -qq tests/{unit,integration,image,browser,chaos} \
    {localcloud,client}/tests >"$LOGS/collected" || { cat "$LOGS/collected" && return 1; }
}

format() { .venv/bin/ruff format --check .; }
lint() { .venv/bin/ruff check .; }
types() { .venv/bin/mypy; }
imports() { .venv/bin/lint-imports; }
security_lint() { .venv/bin/bandit --quiet --configfile pyproject.toml --recursive $SOURCES; }
# By rules of our own, without the registry: offline, and nothing is sent. First it checks each rule by its examples.
# On a busy machine a file that takes a hundredth of a second may take five, after which semgrep would leave it out.
own_rules() {
  .venv/bin/semgrep test --experimental tests/semgrep &&
    .venv/bin/semgrep scan --experimental --metrics off --disable-version-check --strict --error \
    --timeout 600 --config tests/semgrep/rules.yaml $SOURCES
}
audit() { .venv/bin/python -m scripts.audit; }
fuzzing() { .venv/bin/python -m tests.fuzz all --inputs "$FUZZ_INPUTS"; }
coverage() { .venv/bin/python -m tests.support.coverage "$LOGS/covered" "$MIN_COVERAGE"; }

readonly UNIT_TESTS="--numprocesses=auto --maxprocesses=8 tests/unit localcloud/tests/unit client/tests/unit"
unit_tests() { pytest $UNIT_TESTS; }
covered_unit_tests() { covered $UNIT_TESTS; }
# The tests of a file share the processes that they start, so loadfile keeps them on one xdist worker. Each xdist worker
# takes 15 s of CPU time to start, and three keep two cores busy beside the other steps. pytest-xdist's default order
# would run the files with the fewest tests last: these take longest, so one worker would still run while others idle.
integration_tests() { covered --numprocesses=3 --dist=loadfile --no-loadscope-reorder tests/integration \
  localcloud/tests/integration client/tests/integration; }
simulations() { selected --numprocesses=2 tests/simulation; }
# Runs the rest of its arguments in a network of its own, where the user may make one. Chromium cancels its requests when
# an interface of its network comes or goes (ERR_NETWORK_CHANGED), as the containers' interfaces do beside it.
in_own_network() {
  if unshare --net ip link set lo up 2>/dev/null; then
    unshare --net sh -c 'ip link set lo up && exec "$@"' sh "$@"
  else
    "$@"
  fi
}
# Each of the two xdist workers has a system of its own.
browser_tests() {
  in_own_network .venv/bin/python -m pytest --durations=20 --durations-min=1 "${SELECTION[@]}" \
    --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/browser
}
chaos_tests() { selected --numprocesses=2 --dist=loadfile tests/chaos; }
# The files with the longest waits come first; pytest itself would sort those of a folder.
image_tests() { pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/image/test_container.py \
  tests/image/test_[!c]*.py; }
# Builds the images early. If a build fails, the tests that need the image report it.
images() { .venv/bin/python -m tests.image; }
# The browser tests' own network does not reach npm's registry.
setup_rest() { ./scripts/setup.sh docs torch && .venv/bin/python -m tests.support.node; }

# STEP: runs a step and prints its output when it ends, so that the output of parallel steps does not mix.
report() {
  local started=$SECONDS result=passed status=0
  { declare -f && declare -p SOURCES FUZZ_INPUTS MIN_COVERAGE LOGS SELECTION IS_ALL UNIT_TESTS; } >"$LOGS/$1.sh"
  echo "set -euo pipefail; $1" >>"$LOGS/$1.sh"
  .venv/bin/python -m tests.support.reaper "$LOGS/$1.cpu" bash "$LOGS/$1.sh" >"$LOGS/$1" 2>&1 || status=$? result=FAILED
  # An audit without its database is neither: the tests can run there, and a release needs another place.
  if [ "$1 $status" = "audit 2" ]; then result="NOT DONE"; fi
  echo "== $1 $result after $((SECONDS - started)) s; CPU time of all its processes: $(<"$LOGS/$1.cpu") s" >>"$LOGS/$1"
  flock "$LOGS" cat "$LOGS/$1"
  [ "$result" != FAILED ]
}

in_turn() { # STEP...: runs all steps in sequence, also after a failure
  local step failed=0
  for step in "$@"; do report "$step" || failed=1; done
  return "$failed"
}

at_once() { # "STEP..."...: runs the lists in parallel, and the steps of each list in sequence
  local steps group failed=0 groups=()
  echo "== running: $(printf '%s | ' "$@")"
  for steps in "$@"; do
    in_turn $steps &
    groups+=($!)
  done
  for group in "${groups[@]}"; do wait "$group" || failed=1; done
  return "$failed"
}

case "${1:-}" in
  "" | --all)
    ./scripts/setup.sh photos run test
    failed=0 slow=()
    if [ -n "$IS_ALL" ]; then
      images >/dev/null 2>&1 &
      slow=(image_tests fuzzing)
      in_turn setup_rest || failed=1
    fi
    at_once compile_tests "format lint imports own_rules security_lint audit" || failed=1
    # What mostly waits comes first. What computes comes last, to use both cores to the end: the simulations are few and
    # long, so that one xdist worker would end well before the other, and the unit tests after them are short.
    at_once \
      integration_tests \
      "browser_tests chaos_tests" \
      "types simulations covered_unit_tests" \
      "${slow[@]}" || failed=1
    [ -z "$IS_ALL" ] || report coverage || failed=1
    echo "== CPU time of all steps: $(cat "$LOGS"/*.cpu | awk '{ sum += $1 } END { print sum }') s in $SECONDS s"
    .venv/bin/python -m scripts.sizes
    grep "^== audit NOT DONE" "$LOGS/audit" || true
    exit "$failed"
    ;;
  --fast)
    ./scripts/setup.sh run test
    at_once "format lint imports security_lint own_rules types" unit_tests ;;
  *)
    ./scripts/setup.sh run test
    # Only these need more, and tests that lack a package say which section has it.
    case "$*" in *model* | *trained* | *tests/image* | *documented* | *documentation* | *fresh_clone*) ./scripts/setup.sh photos docs torch ;; esac
    pytest "$@"
    ;;
esac
