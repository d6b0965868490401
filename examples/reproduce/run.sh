#!/usr/bin/env bash
# One row of the paper's tables: train, draw, classify, score, verify, and a line in results.jsonl and RESULTS.md.
#
#   bash examples/reproduce/run.sh mnist 10 [BUDGET]        one set at one epsilon
#   bash examples/reproduce/run.sh all [BUDGET]             every row of the paper's tables, in its order
#   BASELINE=1 bash examples/reproduce/run.sh mnist 10      classifiers trained by DP-SGD on the real images, for comparison
#   BASELINE=scattering bash examples/reproduce/run.sh mnist 10    a private linear classifier of scattering features, there too
#
# BUDGET: cpu30 (two cores, half an hour; the default), cpu150, gpu25 (one large GPU, 25 minutes), full (300 epochs, K 32),
# tiny (a minute, to see that everything works; of digits too).
# Runs are in ${RUNS:-runs/reproduce}. A row that was interrupted continues when its command is repeated; one that is
# recorded is not run again, so that the test images are used once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ "${1:-}" = all ]; then
    for row in "mnist 10" "fashion-mnist 10" "mnist 1" "fashion-mnist 1" "mnist 0.2" "fashion-mnist 0.2"; do
        # shellcheck disable=SC2086
        bash "${BASH_SOURCE[0]}" $row "${2:-cpu30}"
    done
    exit
fi

set_name=${1:?name a data set, or all} epsilon=${2:?name an epsilon} budget=${3:-cpu30}
out=${RUNS:-runs/reproduce}/$set_name-$epsilon-$budget
command="bash examples/reproduce/run.sh $set_name $epsilon $budget"

# RESULTS.md says how these were chosen, and on which images.
case $budget in
cpu30 | cpu150)
    case $epsilon in
    10) train=(--preset small --warm-share 0.5) ;;
    1) train=(--preset small --warm-share 0.5 --batch-size 512) ;;
    *) train=(--preset small --warm-share 0.7 --batch-size 1024) ;;
    esac
    case $budget-$epsilon in
    cpu30-10) train+=(--steps 300) ;;
    cpu30-1) train+=(--steps 150) ;;
    cpu30-*) train+=(--steps 75) ;;
    cpu150-10) train+=(--steps 2000) ;;
    cpu150-1) train+=(--steps 1000) ;;
    cpu150-*) train+=(--steps 500) ;;
    esac
    case $budget in
    cpu30) images=30000 ;;
    cpu150) images=60000 ;;
    esac
    # More varied than the classes are, which helps classifiers. Distances are of images as they are.
    case $set_name in
    mnist) deformation=0.7 ;;
    *) deformation=0.3 ;;
    esac
    accuracy=(-n $images --temperature 1.7 --deformation $deformation)
    fid=(-n 2000)
    ;;
gpu25)
    # Not tried on a GPU yet. 0.64 GFLOP a row forward, three times that in a step: training takes 2.7e16 FLOP, and two
    # sets of 60,000 images by 100 evaluations 8e15. The paper's samplers would take 2.3e17, and gain half a point
    # (97.7 by DDIM, 98.1 by churn: its table 6).
    train=(--preset paper --warm-start moments --epochs 60 --noise-multiplicity 4)
    accuracy=(-n 60000 --sampler stochastic-ddim --steps 100)
    fid=(-n 60000 --sampler heun --steps 50)
    ;;
full)
    train=(--preset paper)
    accuracy=(-n 60000 --for accuracy)
    fid=(-n 60000 --for fid)
    ;;
tiny)
    train=(--preset small --warm-start none --batch-size 32 --steps 100 --config "$here/tiny.toml")
    accuracy=(-n 60 --sampler stochastic-ddim --steps 4)
    fid=(-n 60 --sampler heun --steps 4)
    ;;
*)
    echo "unknown budget $budget: cpu30, cpu150, gpu25, full or tiny" >&2
    exit 2
    ;;
esac

case ${BASELINE:-} in
'') baseline= ;;
1) baseline=dp-sgd out=${RUNS:-runs/reproduce}/$set_name-$epsilon.baseline ;;
scattering) baseline=scattering out=${RUNS:-runs/reproduce}/$set_name-$epsilon.scattering ;;
*)
    echo "unknown BASELINE $BASELINE: 1 or scattering" >&2
    exit 2
    ;;
esac
if [ "$baseline" ]; then command="BASELINE=$BASELINE bash examples/reproduce/run.sh $set_name $epsilon"; fi
if [ -f "$out.recorded" ]; then
    echo "$command was recorded; remove $out.recorded to look at the test images again"
    exit
fi

mkdir -p "$(dirname "$out")"
started=$SECONDS
# Also when interrupted: the parts add up.
trap 'if [ -d "$out" ]; then echo $((SECONDS - started)) >> "$out.seconds"; fi' EXIT

# Count the time until here, write the row.
record() {
    echo $((SECONDS - started)) >> "$out.seconds"
    started=$SECONDS
    python "$here/record.py" "$out" --set "$set_name" --epsilon "$epsilon" --command "$command" "$@"
    touch "$out.recorded"
}

if [ "$baseline" ]; then
    mkdir -p "$out"
    rm -f "$out.seconds" # it begins anew
    dpdm classify --baseline "$baseline" --test "$set_name" --eps "$epsilon" --delta 1e-5 --out "$out" --json > "$out/classify.json"
    record --baseline
    exit
fi

if [ ! -f "$out/manifest.json" ]; then
    resume=()
    if [ -f "$out/private/state.safetensors" ]; then resume=(--resume); fi
    dpdm train "$set_name" --eps "$epsilon" --delta 1e-5 "${train[@]}" --out "$out" ${resume[@]+"${resume[@]}"}
fi
dpdm sample "$out" "${accuracy[@]}" --out "$out.accuracy" --format npz
dpdm sample "$out" "${fid[@]}" --out "$out.fid" --format npz
dpdm classify "$out.accuracy/samples.npz" --test "$set_name" --out "$out/private" --json > "$out/private/classify.json"
dpdm fid "$out.fid/samples.npz" --against "$set_name" --extractor pixels --json > "$out/private/pixels.json"
dpdm fid "$out.fid/samples.npz" --against "$set_name" --extractor scattering --precision-recall --json > "$out/private/scattering.json"
if [ "${INCEPTION_WEIGHTS:-}" ]; then
    # Resized as for the paper's figures, which this one stands beside.
    dpdm fid "$out.fid/samples.npz" --against "$set_name" --inception-weights "$INCEPTION_WEIGHTS" \
        --resize legacy_tensorflow --json > "$out/private/fid.json"
fi
dpdm verify "$out" "$out.accuracy" "$out.fid" --quiet
record --budget "$budget"
