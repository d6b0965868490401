#!/usr/bin/env bash
# From private images to synthetic ones and their scores, on the digits that come with scikit-learn: a laptop, no
# network, under five minutes.    bash examples/quickstart.sh [OUT]
set -euo pipefail
out=${1:-runs/quickstart}

dpdm train digits --eps 10 --out "$out"
dpdm sample "$out" -n 3000 --out "$out/synth"
dpdm classify "$out/synth"

echo "Look at $out/synth/grid.png; the claim is in $out/statement.json."
