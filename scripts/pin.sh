#!/usr/bin/env bash
# Pins the packages of pyproject.toml, with their dependencies, in requirements/SECTION.txt, and writes requirements.txt,
# the direct packages of a start and of the tests, for pip alone: run it after a change of pyproject.toml. Versions that
# are pinned already stay, unless an option of `uv pip compile` says otherwise:
#   ./scripts/pin.sh                            adds what is new, removes what nothing needs any more
#   ./scripts/pin.sh --upgrade-package flask    also takes flask's newest version; --upgrade takes those of all packages
# Each section is complete, with the SHA-256 of each file on the index. constraints.txt has every package once, so that a
# package has one version in all sections.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/uv ] || ./scripts/setup.sh run test

readonly GROUPS_OF_ALL="worker web torch gpu photos telemetry test checks docs"
# The packages by which torch requires CUDA's libraries. A build without CUDA runs without them.
readonly CUDA="cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton"

compile() { # SECTION OPTION...: compiles requirements/SECTION.txt
  local file=requirements/$1.txt
  shift
  # .venv has a pip already, newer than those of sections would have to be.
  .venv/bin/uv pip compile --quiet --universal --no-annotate --no-emit-package pip \
    --custom-compile-command ./scripts/pin.sh "$@" --output-file "$file"
}

section() { compile "$@" --generate-hashes --constraints requirements/constraints.txt; } # SECTION OPTION...

compile constraints pyproject.toml $(printf -- '--group %s ' $GROUPS_OF_ALL) "$@"
section run pyproject.toml
for name in worker web photos telemetry docs; do section "$name" --group "$name"; done
section test --group test --group checks
section cuda --group gpu
for name in torch gpu; do section "$name" --group "$name" --excludes <(printf '%s\n' $CUDA); done
.venv/bin/python -m scripts.direct_packages >requirements.txt
