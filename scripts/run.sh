#!/usr/bin/env bash
# Runs the whole system on this machine and classifies 100 images: ./scripts/run.sh --help
# It stays in the user's folder, where the paths of its options are.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
case "$*" in # they are answered before anything is installed
  --help | -h) exec cat "$root/scripts/help/run.txt" ;;
  --version) exec sed -n '/^version = /{s/.*"\(.*\)"/Fleetsight \1/p;q;}' "$root/pyproject.toml" ;;
esac
"$root/scripts/setup.sh" photos run
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$root/.venv/bin/python" -P -m scripts.run "$@"
