"""Folders as hospitals have them, each from the folder to samples that are verified, in short form: what commands say.

python folder_cases.py FOLDER OUT

FOLDER is made by make_folders.py. Each command is shown as it would be typed; all run in this process, which saves the
seconds that each would take to start. A few images of 16x16, a tiny network and a few steps are too little for samples
of any use.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from dpdm_cli.commands.app import app

TINY = Path(__file__).parent / "reproduce" / "tiny.toml"
CLASSES = "--classes 0,1,2,3,4,5,6,7,8,9"
CASES = {
    # No folders, no classes. A table beside the images that nobody names is not used, and said to be there.
    "flat": "{data}/csv",
    # Labels from it; its columns are named, since they are not called as usual, and one says whom an image is of.
    "csv": "{data}/csv --labels {data}/csv/findings.csv --file-column scan --label-column finding "
    "--person-column patient " + CLASSES,
    # Hugging Face's table is found by itself.
    "metadata": "{data}/metadata " + CLASSES,
    # Folders of persons in those of classes; --layout person/class/image is the other way round.
    "persons": "{data}/persons --layout class/person/image " + CLASSES,
    # 12 bits in 16, as PNG and TIFF; and DICOM in Hounsfield's units. Windows are fixed whatever the images are.
    "deep": "{data}/deep --window 0,4095 " + CLASSES,
    "dicom": "{data}/dicom --window -1000,1040 " + CLASSES,
    # Five files that cannot be used are named, and left out.
    "broken": "{data}/broken --skip-bad " + CLASSES,
    # A prepared file: to train on; a fifth of the persons are in another, to test on.
    "prepared": "{out}/scans.safetensors " + CLASSES,
}
PREPARE = (
    "prepare {data}/persons-first {out}/scans.safetensors --layout person/class/image --image-size 16 "
    "--hold-out 0.2"
)
TRAIN = (
    "--dataset-size 300 --image-size 16 --channels 1 --eps 10 --delta 1e-5 --batch-size 64 --steps 3 "
    "--warm-start none --init none --accountant rdp --config {tiny} --out {out}/{name}/run"
)
SAMPLE = "sample {out}/{name}/run -n 20 --steps 5 --out {out}/{name}/synth --quiet"


def main(data: Path, out: Path) -> None:
    dpdm(PREPARE.format(data=data, out=out))
    for name, source in CASES.items():
        print(f"--- {name}", flush=True)
        places = {"data": data, "out": out, "name": name, "tiny": TINY}
        dpdm(f"train {source} {TRAIN}".format(**places))
        dpdm(SAMPLE.format(**places))
    test = f"--test {out}/scans-held-out.safetensors --model logreg --epochs 2"
    dpdm(f"classify {out}/prepared/synth {test}")
    dpdm(f"release {out}/persons/synth {out}/persons/release")
    dpdm(" ".join(["verify", *(f"{out}/{name}/synth" for name in CASES)]))


def dpdm(words: str) -> None:
    print(f"$ dpdm {words}", flush=True)
    app(shlex.split(words), standalone_mode=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
