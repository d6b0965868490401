#!/usr/bin/env bash
# The same workflow with a folder of your own: one subfolder per class, PNG files of different sizes. Here the folder is
# made from real MNIST.    bash examples/own_folder.sh [OUT] [IMAGES] [STEPS]
set -euo pipefail
out=${1:-runs/own-folder}
images=${2:-6000}
steps=${3:-300}
here=$(cd "$(dirname "$0")" && pwd)

python "$here/make_folder.py" "$out/images" "$images"

# What is published with the model and not protected: you state it, whatever the images are. A class may have no image.
public=(--dataset-size "$images" --classes 0,1,2,3,4,5,6,7,8,9 --image-size 28 --channels 1)

# What the run would claim, without training.
dpdm train "$out/images" --eps 10 --delta 1e-5 "${public[@]}" --steps "$steps" --dry-run
dpdm train "$out/images" --eps 10 --delta 1e-5 "${public[@]}" --steps "$steps" --out "$out/run"
dpdm sample "$out/run" -n 500 --out "$out/synth"
dpdm classify "$out/synth" --test mnist --epochs 5
dpdm fid "$out/synth" --against "$out/images" --extractor pixels
