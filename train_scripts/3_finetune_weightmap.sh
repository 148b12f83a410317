#!/bin/sh
# sh train_scripts/3_finetune_weightmap.sh [--preset compact|paper] [--folds all|0,1,2,3,4] [--hours H]
#                                      [--epochs N] [--device cpu|cuda] [--root DIR]
# Fine-tunes the baseline, all its weights kept, with the weight map in the loss.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training weightmap "$@"
