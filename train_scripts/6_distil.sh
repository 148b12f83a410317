#!/bin/sh
# sh train_scripts/6_distil.sh [--unlabelled DIR] [--stage round3] [--preset compact|paper]
#                              [--folds 0,1,2,3,4] [--hours H] [--epochs N] [--start CHECKPOINT]
#                              [--device cpu|cuda] [--root DIR] [--dry-run] ...
# The trained folds teach one student; export it with 5_export_weights.sh, the folds go with it.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training distil "$@"
