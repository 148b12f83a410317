#!/bin/sh
#SBATCH --job-name=reunet
#SBATCH --array=0-9
#SBATCH --cpus-per-task=2
#SBATCH --mem=6G
#SBATCH --time=04:00:00
# sbatch examples/cluster/slurm_array.sh IMAGES LABELS [OPTIONS OF reunet predict]
# Every task of the array labels its share of a folder that all nodes see. A task whose exit code is 1
# had images without a label, each an `error:` line in its log; sent again with --resume, the array
# makes what is missing. Tables and the page come afterwards: reunet export LABELS IMAGES --table --html
set -eu
images=$1 labels=$2
shift 2
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

number=-1 before=
for image in "$images"/*; do
    case $(printf %s "$image" | tr '[:upper:]' '[:lower:]') in
    *.png | *.jpg | *.jpeg | *.bmp | *.tif | *.tiff | *.svs | *.ndpi | *.scn | *.bif) ;;
    *) continue ;;
    esac
    name=${image##*/}
    # a_1.png and a_1.old.png would get one label: the task that has both tells them apart
    [ "${name%%.*}" = "$before" ] || number=$((number + 1))
    before=${name%%.*}
    [ $((number % SLURM_ARRAY_TASK_COUNT)) -ne $((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN)) ] ||
        set -- "$@" "$image"
done
case "$*" in
*"$images"/*) exec reunet predict "$@" "$labels" ;;
*) echo "no image is left for task $SLURM_ARRAY_TASK_ID" ;;
esac
