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

# The other cases in short form: a few images of 16x16 and a few steps show what is said of each folder. They go from the
# folder to samples that are verified.    whole NAME TRAIN'S ARGUMENTS...
small=(--dataset-size 300 --image-size 16 --channels 1)
classes=(--classes 0,1,2,3,4,5,6,7,8,9)
whole() {
  local name=$1
  shift
  echo "--- $name"
  dpdm train "$@" --eps 10 --delta 1e-5 --steps 3 --out "$out/cases/$name/run"
  dpdm sample "$out/cases/$name/run" -n 20 --steps 5 --out "$out/cases/$name/synth" --quiet
}
data=$out/images

# No folders, no classes. A table beside the images that nobody names is not used, and said to be there.
whole flat "$data/csv" "${small[@]}"
# Labels from it; its columns are named, since they are not called as usual, and one says whom an image is of.
whole csv "$data/csv" "${small[@]}" "${classes[@]}" --labels "$data/csv/findings.csv" \
  --file-column scan --label-column finding --person-column patient
# Hugging Face's table is found by itself.
whole metadata "$data/metadata" "${small[@]}" "${classes[@]}"
# Folders of persons in those of classes; --layout person/class/image is the other way round.
whole persons "$data/persons" "${small[@]}" "${classes[@]}" --layout class/person/image
# 12 bits in 16, as PNG and TIFF; and DICOM in Hounsfield's units. The window is known beforehand, whatever the images are.
whole deep "$data/deep" "${small[@]}" "${classes[@]}" --window 0,4095
whole dicom "$data/dicom" "${small[@]}" "${classes[@]}" --window -1000,1040
# Five files that cannot be used are named, and left out.
whole broken "$data/broken" "${small[@]}" "${classes[@]}" --skip-bad

# One file to train on, and another with the images of a fifth of the persons, to test on.
dpdm prepare "$data/persons-first" "$out/scans.safetensors" --layout person/class/image --image-size 16 --hold-out 0.2
whole prepared "$out/scans.safetensors" "${small[@]}" "${classes[@]}"
dpdm classify "$out/cases/prepared/synth" --test "$out/scans-held-out.safetensors" --model logreg --epochs 2

dpdm release "$out/cases/persons/synth" "$out/cases/persons/release"
dpdm verify "$out"/cases/*/synth
