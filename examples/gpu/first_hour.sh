#!/usr/bin/env bash
# What nobody could measure yet without a GPU, in about an hour of one: the GPU rows of SPEED.md and RESULTS.md.
#
#   bash examples/gpu/first_hour.sh [OUT]           on a CUDA device, from a checkout
#   TINY=1 bash examples/gpu/first_hour.sh [OUT]    every part in a size that a CPU does in minutes, to see that it works
#
# Needs `pip install -e '.[test]'`. OUT (runs/first-hour) holds first_hour.json: of each part its command, device, commit,
# seconds, exit status and what it printed. Repeat the command after an interruption: finished parts stay, rows go on. A
# part that fails is written down, and the next one begins.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:-runs/first-hour}"
out=$(cd "${1:-runs/first-hour}" && pwd)
cd "$here/../.."

part() { # NAME LIMIT-IN-SECONDS COMMAND...
    python "$here/part.py" "$out/first_hour.json" "$@"
}

bench=tests/benchmarks
if [ "${TINY:-}" ]; then
    device=cpu batch=32 images=64 budget=tiny drawn=1000
    rows=("digits 10")
    part "right on this device" 600 pytest -q -p no:cacheprovider tests/properties/test_devices.py -k "loop_in_float64"
    part "step, small" 900 python $bench/step_cost.py --net small --device $device --repeats 1 --no-functorch --json
else
    device=cuda batch=4096 images=60000 budget=gpu25 drawn=20e6
    rows=("mnist 10" "fashion-mnist 10" "mnist 1" "fashion-mnist 1")
    part "right on this device" 600 pytest -q -p no:cacheprovider -m gpu
    part "step, small" 300 python $bench/step_cost.py --net small --device $device --json
    part "step, paper" 600 python $bench/step_cost.py --net paper --device $device --json
    part "removal, paper" 600 python $bench/removal.py --net paper --batch $batch --device $device --json
fi
part "removal, small" 300 python $bench/removal.py --net small --batch $batch --device $device --json
part "one process, joined" 300 torchrun --standalone --nproc-per-node 1 $bench/many_processes.py \
    --net small --batch $batch --copies 1 --turns 2 --device $device --json
part "sampling, small" 600 python $bench/sampling.py -n $images --device $device --json
export RUNS=$out/rows
for row in "${rows[@]}"; do
    # shellcheck disable=SC2086
    part "row: $row $budget" 2400 bash examples/reproduce/run.sh $row $budget
done
part "pre-training, small" 1200 python examples/pretraining/pretrain.py "$out/procedural-grey.safetensors" \
    --images $drawn --device $device

python "$here/part.py" "$out/first_hour.json"
