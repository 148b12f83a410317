#!/bin/sh
# sh train_scripts/5_export_weights.sh BUNDLE [--preset compact|paper] [--meta META.csv] [--root DIR]
# Trained folds -> a weight bundle for `reunet predict --weights BUNDLE`.
. "$(dirname "$0")/environment.sh"
exec "$python" -m reunet.training export "$@"
