#!/bin/sh
# sh train_scripts/1_prepare_data.sh IMAGES LABELS [--preset compact|paper] [--root DIR] ...
# Images and instance labels -> a preprocessed nnU-Net data set with five folds.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training prepare "$@"
