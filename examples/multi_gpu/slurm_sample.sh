#!/usr/bin/env bash
# Draw 60,000 images by a job array of independent tasks:
#
#   sbatch examples/multi_gpu/slurm_sample.sh runs/mnist 60000 synth
#   mkdir synth; cp -r synth-*/. synth/; dpdm sample runs/mnist -n 60000 --batch-size 1000 --out synth
#
# The last command draws what is missing, which should be nothing, checks the rest and writes the set's metadata.
#SBATCH --job-name=dpdm-sample
#SBATCH --array=1-16
#SBATCH --gpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --requeue
set -euo pipefail

checkpoint=${1:?name a model} count=${2:?say how many images} out=${3:?name a folder}
shift 3
dpdm sample "$checkpoint" -n "$count" --batch-size 1000 "$@" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --out "$out-$SLURM_ARRAY_TASK_ID"
