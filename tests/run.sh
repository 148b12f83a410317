#!/bin/sh
# sh tests/run.sh [OPTIONS OF pytest]: set up .venv-tests and run the test suite in it.
set -eu
cd "$(dirname "$0")/.."
if ! cat requirements*.txt | cmp -s - .venv-tests/complete; then
    echo "setting up .venv-tests (once)" >&2
    python3 -m venv .venv-tests
    .venv-tests/bin/pip install --quiet -r requirements.txt -r requirements-train.txt -r requirements-dev.txt
    .venv-tests/bin/pip install --quiet --no-deps -e .
    cat requirements*.txt >.venv-tests/complete
fi
exec .venv-tests/bin/python -m pytest "$@"
