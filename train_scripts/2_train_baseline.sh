#!/bin/sh
# sh train_scripts/2_train_baseline.sh [--preset compact|paper] [--folds all|0,1,2,3,4] [--hours H]
#                                      [--epochs N] [--device cpu|cuda] [--root DIR]
# Trains with nnU-Net; started again, it goes on where it was interrupted.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training baseline "$@"
