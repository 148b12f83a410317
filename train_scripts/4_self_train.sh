#!/bin/sh
# sh train_scripts/4_self_train.sh --unlabelled DIR [--rounds 3] [--preset compact|paper]
#                                  [--folds all|0,1,2,3,4] [--jobs N] [--hours H] [--epochs N]
#                                  [--device cpu|cuda] [--root DIR] [--dry-run] ...
# Rounds of self-training: the trained folds label the images, students learn from them too.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training selftrain "$@"
