#!/usr/bin/env bash
# Train on several nodes under Slurm: sbatch examples/multi_gpu/slurm.sh SOURCE OUT [options of dpdm train]
#
# SOURCE must exist on every node, OUT on the first alone. Before the time limit all processes save and stop, and the
# job requeues itself and continues; so does one whose node was lost. A job that fails without having saved anything new
# does not, since it would fail again.
#SBATCH --job-name=dpdm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
set -euo pipefail

source=${1:?name the images: a named set, a folder, or a file of dpdm prepare} out=${2:?name the run folder}
shift 2
state=$out/private/state.safetensors
saved() { stat -c %Y "$state" 2> /dev/null || echo never; }
before=$(saved)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
if [ -f "$state" ]; then set -- "$@" --resume; fi

code=0
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:${PORT:-29500}" \
    -m dpdm_cli train "$source" --out "$out" "$@" || code=$?
if [ ! -f "$out/manifest.json" ] && [ "$(saved)" != "$before" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
