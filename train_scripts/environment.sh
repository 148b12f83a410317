# Sourced by the train scripts: sets $python to one that has what training needs, making .venv-train
# where there is none yet.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
if python3 -c 'import nnunetv2, reunet' >/dev/null 2>&1; then
    python=python3
else
    python=$top/.venv-train/bin/python
    if ! cat "$top/requirements.txt" "$top/requirements-train.txt" | cmp -s - "$top/.venv-train/complete"; then
        echo "setting up $top/.venv-train (once): nnU-Net and PyTorch, 2.1 GB, some minutes;" \
            "interrupted, it begins anew" >&2
        python3 -m venv "$top/.venv-train"
        "$python" -m pip install --quiet -r "$top/requirements.txt" -r "$top/requirements-train.txt"
        "$python" -m pip install --quiet --no-deps -e "$top"
        cat "$top/requirements.txt" "$top/requirements-train.txt" >"$top/.venv-train/complete"
    fi
fi
