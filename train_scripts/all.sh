#!/bin/sh
# sh train_scripts/all.sh IMAGES LABELS BUNDLE [--unlabelled DIR] [--hours H] [--meta META.csv]
#                         [--split image|source] [--preset compact|paper] [--folds 0,1,2,3,4]
#                         [--jobs N] [--device cpu|cuda] [--root DIR] [--dry-run] ...
# Steps 1 to 6 in turn, from images and labels to a weight bundle; started again, it goes on.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training all "$@"
