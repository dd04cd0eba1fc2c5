# Sourced by setup.sh and fleetsight.
# Prints the first Python of version 3.11 or newer: of the arguments, PYTHON, and those on PATH. Fails if there is none.
find_python() { # CANDIDATE...
  local candidate
  for candidate in "$@" "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}
