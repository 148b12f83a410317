#!/bin/sh
# sh examples/train.sh IMAGES LABELS WEIGHTS NEW FOUND [OPTIONS OF reunet train]
# Fine-tunes the weights that ship on IMAGES and their LABELS, into the folder WEIGHTS; then segments
# the images in NEW with them, into FOUND. Interrupted, the same command goes on where it was.
# --dry-run says what would be done, and --hours how long it may take.
set -eu
images=$1 labels=$2 weights=$3 new=$4 found=$5
shift 5
reunet train "$images" "$labels" "$weights" "$@"
[ -d "$weights" ] || exit 0 # it was a dry run
reunet predict "$new" "$found" --weights "$weights" --overlays
