#!/bin/sh
# sh benchmarks/choices/self_training.sh DATA UNLABELLED ROOT EPOCHS
# One round of self-training on fold 0 of ROOT's weight-map stage with each choice of its options,
# EPOCHS each, and for comparison as many without pseudo-labels; then every network's score on half
# of the validation part. DATA: folder with images/, labels/ and meta.csv. A network that is trained
# is not trained again.
set -eu
data=$1 unlabelled=$2 root=$3 epochs=$4
python=${PYTHON:-python3}
work=runs/ablation
set_=preprocessed/Dataset703_ReUNet
start=$root/results/Dataset703_ReUNet/nnUNetTrainerReUNet__plans_compact_weightmap__2d/fold_0/checkpoint_final.pth

train() { # NAME STAGE COMMAND [OPTION ...]: in a root of its own, which shares ROOT's images
    name=$1 stage=$2 command=$3
    shift 3
    if [ ! -e "$work/$name" ]; then
        own=$work/root_$name
        mkdir -p "$own/$set_" "$own/rounds"
        cp "$root/$set_/"*.json "$root/$set_/"*.complete "$own/$set_"
        rm -f "$own/$set_/plans_compact_round"*
        cp "$root/rounds/"*labelled.json "$own/rounds"
        for folder in "$root/raw" "$root/$set_/nnUNetPlans_2d" "$root/$set_/gt_segmentations" "$root/$set_/unlabelled"; do
            ln -sfn "$(realpath "$folder")" "$own/${folder#"$root/"}"
        done
        "$python" -m reunet.training "$command" --root "$own" --folds 0 --epochs "$epochs" "$@"
        "$python" -m reunet.training export "$work/part_$name" --root "$own" --stage "$stage" --meta "$data/meta.csv"
        mv "$work/part_$name" "$work/$name" # last: stands for a trained network
    fi
    "$python" -m benchmarks.accuracy.results "$data" "$name=$work/$name" --no-tta --every 2 --ways averaged --out "$work/scores"
}

round() { # NAME [OPTION ...]
    name=$1
    shift
    train "$name" round1 selftrain --unlabelled "$unlabelled" --rounds 1 --teacher "$start" --no-tta "$@"
}

train self_none weightmap weightmap --start "$start"
round self_default
round self_threshold --threshold 0.8
round self_ratio --ratio 0.6
