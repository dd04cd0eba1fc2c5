#!/usr/bin/env bash
# Runs the whole system on this machine and classifies 100 images: ./scripts/run.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh photos run
exec .venv/bin/python -m scripts.run "$@"
