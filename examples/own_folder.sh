#!/usr/bin/env bash
# The same workflow with folders of your own, as hospitals have them: images of uneven sizes in class folders, labels in a
# table, several images a person, 16 bits, DICOM, broken files. Here all are made from real MNIST, DICOM by pydicom (pip
# install 'dpdm-cli[dicom]').    bash examples/own_folder.sh [OUT] [IMAGES] [STEPS]
set -euo pipefail
out=${1:-runs/own-folder}
images=${2:-6000}
steps=${3:-300}
here=$(cd "$(dirname "$0")" && pwd)

python "$here/make_folders.py" "$out/images" "$images"

# What is published with the model and not protected: you state it, whatever the images are. A class may have no image.
public=(--dataset-size "$images" --classes 0,1,2,3,4,5,6,7,8,9 --image-size 28 --channels 1)
claim=(--eps 10 --delta 1e-5 --steps "$steps")

# What the run would claim, without training.
dpdm train "$out/images/classes" "${public[@]}" "${claim[@]}" --dry-run
dpdm train "$out/images/classes" "${public[@]}" "${claim[@]}" --out "$out/run"
dpdm sample "$out/run" -n 500 --out "$out/synth"
dpdm classify "$out/synth" --test mnist --epochs 5
dpdm fid "$out/synth" --against "$out/images/classes" --extractor pixels

# Labels in a table, several images a person, 16 bits, DICOM, broken files: each from folder to verified samples, in short form.
python "$here/folder_cases.py" "$out/images" "$out/cases"
