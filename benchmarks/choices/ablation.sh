#!/bin/sh
# sh benchmarks/choices/ablation.sh DATA CHECKPOINT HOURS
# Fine-tunes one baseline checkpoint four times, HOURS each: encoding paper or thin, Dice weighted
# with the weight map or not; then scores every network with both decoders on the validation part.
# DATA: folder with images/, labels/ and meta.csv. A network that is trained is not trained again.
set -eu
data=$1 start=$2 hours=$3
python=${PYTHON:-python3}
work=runs/ablation
for encoding in paper thin; do
    root=$work/$encoding
    "$python" -m reunet.training prepare "$data/images" "$data/labels" --root "$root" --encoding "$encoding"
    for weighting in weighted unweighted; do
        name=${encoding}_$weighting
        if [ ! -e "$work/$name" ]; then
            flag=
            [ "$weighting" = weighted ] || flag=--unweighted
            rm -rf "$root/results" "$work/results_$name"
            "$python" -m reunet.training weightmap --root "$root" --folds all --start "$start" --hours "$hours" $flag
            "$python" -m reunet.training export "$work/part" --root "$root" --stage weightmap --meta "$data/meta.csv"
            mv "$root/results" "$work/results_$name"
            mv "$work/part" "$work/$name" # last: stands for a trained network
        fi
        "$python" -m benchmarks.accuracy.results "$data" "$name=$work/$name" --no-tta --ways averaged,paper --out "$work/scores"
    done
done
