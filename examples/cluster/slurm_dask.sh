#!/bin/sh
#SBATCH --job-name=reunet
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=2
#SBATCH --mem-per-cpu=3G
#SBATCH --time=04:00:00
# sbatch examples/cluster/slurm_dask.sh IMAGES LABELS [OPTIONS OF reunet predict]
# One run whose images, and tiles of slides, go to a worker of Dask a task: for few large slides, or
# where tables and the page are wanted at once. All nodes have to see both folders and the weights, and
# have the same version of reunet with the extra `dask`. docs/scale.md tells what else holds.
set -eu
images=$1 labels=$2
shift 2
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

mkdir -p "$labels"
meeting=$labels/.scheduler-${SLURM_JOB_ID:-$$}.json # how the workers find the scheduler
dask scheduler --scheduler-file "$meeting" --port 0 --no-dashboard &
scheduler=$!
trap 'kill $scheduler 2>/dev/null; wait; rm -f "$meeting"' EXIT
until [ -s "$meeting" ]; do
    kill -0 $scheduler # the scheduler could not start: end with what it said
    sleep 1
done
srun dask worker --scheduler-file "$meeting" --nthreads 1 --no-dashboard &
address=$(sed -n 's/.*"address": *"\([^"]*\)".*/\1/p' "$meeting" | head -n 1)
reunet predict "$images" "$labels" --scheduler "$address" "$@"
