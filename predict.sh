#!/bin/sh
# sh predict.sh [INPUT OUTPUT [OPTIONS OF reunet predict]]
# Segments an image or a folder of images. Without arguments: /workspace/inputs into
# /workspace/outputs where they exist (the challenge's container), else the bundled samples
# into ./outputs. Where reunet is not installed, it is first set up in .venv.
# With REUNET_REPORT=1 in the environment a report.json is written beside the labels.
set -eu
case $0 in
*/*) here=$(cd "${0%/*}" && pwd) ;;
*) here=$PWD ;;
esac
export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}" # may be missing in a bare environment
export REUNET_WEIGHTS="${REUNET_WEIGHTS:-$here/weights}"

if [ $# -eq 0 ]; then
    if [ -d /workspace/inputs ]; then
        set -- /workspace/inputs /workspace/outputs --budget challenge --labels challenge
    else
        set -- "$here/tests/data/samples/images" outputs
    fi
fi

# The challenge's clock is running: where reunet is installed, nothing but it is started.
if [ -e "$here/.venv/complete" ] && cmp -s "$here/requirements.txt" "$here/.venv/complete"; then
    reunet=$here/.venv/bin/reunet
elif command -v reunet >/dev/null; then
    reunet=reunet
else
    echo "setting up reunet in $here/.venv (once)" >&2
    python3 -m venv "$here/.venv"
    "$here/.venv/bin/pip" install --quiet -r "$here/requirements.txt"
    "$here/.venv/bin/pip" install --quiet --no-deps -e "$here"
    cp "$here/requirements.txt" "$here/.venv/complete" # stands for a whole set-up, of these pins
    reunet=$here/.venv/bin/reunet
fi

exec "$reunet" predict "$@"
