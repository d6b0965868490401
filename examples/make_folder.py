"""Write real MNIST images as PNG files of different sizes, one subfolder per class: a folder such as users have.

python make_folder.py FOLDER COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from dpdm_cli.data import load_images


def main(folder: Path, count: int) -> None:
    digits = load_images("mnist")
    assert digits.labels is not None
    for index in range(count):
        side = 28 + index % 9
        target = folder / digits.classes[int(digits.labels[index])] / f"{index:05}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[index, 0].numpy()).resize((side, side)).save(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
