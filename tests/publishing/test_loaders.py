"""What others load a released set with gives every image its own label: `datasets`, torchvision and numpy."""

from __future__ import annotations

import io
import json
import socket
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.drawn import draw, save
from torchvision.datasets import ImageFolder

from dpdm_cli import release, verify
from dpdm_cli.checkpoint import load_model
from dpdm_cli.privacy.public_inputs import UNLABELLED, PublicInputs
from dpdm_cli.privacy.statement import Statement, private_statement
from dpdm_cli.sampling.png import DIGITAL_SOURCE_TYPE
from dpdm_cli.sampling.writing import FORMATS

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"
CLASSES = ("zebra", 'é: "(x)" - #&!', "ant", "null", "007", "{a: b}\U0001f9a0")
"""In an order of their own, and with names that YAML could take for something else.

Without *, ? and [, for which `datasets` searches a zip instead of opening the file.
"""
N = 17
SHARES = (0.3, 0.2, 0.2, 0.1, 0.1, 0.1)


def statement(classes: str = UNLABELLED) -> Statement:
    """A claim that holds, for images of one's own."""
    ledger = load_model(PRETRAINED).statement.ledger  # type: ignore[union-attr]
    public = PublicInputs(
        dataset_size="stated", classes=classes, image_size="stated", channels="stated"
    )
    return private_statement(ledger, public)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return save(path, CLASSES, statement=statement("stated"))


@pytest.fixture(scope="module")
def released(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in each format, and one without marks."""
    home = tmp_path_factory.mktemp("released")
    for name in (*FORMATS, "unmarked"):
        format = name if name in FORMATS else "png"
        options: dict[str, Any] = {"format": format, "mark": name != "unmarked"}
        draw(checkpoint, home / f"drawn-{name}", n=N, steps=1, proportions=SHARES, **options)
        release(home / f"drawn-{name}", home / name)
    return home


@pytest.fixture(scope="module")
def expected(released: Path) -> list[tuple[bytes, str]]:
    """Pixels and class of each image, by its index."""
    with np.load(released / "npz" / "samples.npz", allow_pickle=False) as arrays:
        names = arrays["classes"][arrays["labels"]].tolist()
        assert tuple(arrays["classes"]) == CLASSES
        pairs = zip(arrays["images"], names, strict=True)
        found = [(image.tobytes(), str(name)) for image, name in pairs]
    assert len(set(found)) == N
    return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`datasets`, which may not even look for a network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection is opened")

    home = str(tmp_path_factory.mktemp("hub"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", home)
        patch.setattr(socket.socket, "connect", refuse)
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(home))
        yield datasets


def index_of(path: str) -> int:
    """The number of an image by its name, in an archive too."""
    return int(Path(path.partition("::")[0]).stem)


def loaded(dataset: Any) -> list[tuple[int, bytes, str]]:
    """Index, pixels and class of each image of a `datasets.Dataset`."""
    label = dataset.features["label"]
    names = label.names if hasattr(label, "names") else CLASSES
    if "class" in dataset.features:
        assert [names[row] for row in dataset["label"]] == dataset["class"][:]
    paths = dataset.cast_column("image", type(dataset.features["image"])(decode=False))
    return [
        (index_of(file["image"]["path"]), np.asarray(row["image"]).tobytes(), names[row["label"]])
        for row, file in zip(dataset, paths, strict=True)
    ]  # fmt: skip


WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "png by folders": ("imagefolder", {"data_dir": "png"}),
    "zip by folder": ("imagefolder", {"data_dir": "zip"}),
    "zip by name": ("imagefolder", {"data_files": "zip/samples.zip"}),
    "parquet by columns": ("parquet", {"data_files": "parquet/samples.parquet"}),
    "png by its card": ("png", {}),
    "zip by its card": ("zip", {}),
    "parquet by its card": ("parquet", {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_datasets_keeps_every_label(
    released: Path, expected: list[tuple[bytes, str]], hub: Any, tmp_path: Path, way: str
) -> None:
    source, options = WAYS[way]
    by_card = not options
    dataset = hub.load_dataset(
        str(released / source) if by_card else source,
        split="train",
        cache_dir=str(tmp_path),
        **{name: str(released / value) for name, value in options.items()},
    )
    found = loaded(dataset)
    assert sorted(index for index, *_ in found) == list(range(N))
    for index, pixels, name in found:
        assert (pixels, name) == expected[index]
    names = getattr(dataset.features["label"], "names", CLASSES)
    # Folders are in the order of the alphabet.
    assert tuple(names) == (tuple(sorted(CLASSES)) if "png" in way else CLASSES)


def test_a_set_of_one_class_keeps_its_label(checkpoint: Path, hub: Any, tmp_path: Path) -> None:
    for format in ("png", "zip", "parquet"):
        draw(checkpoint, tmp_path / "drawn" / format, n=3, steps=1, labels=["ant"], format=format)
        home = tmp_path / format
        release(tmp_path / "drawn" / format, home)
        dataset = hub.load_dataset(str(home), split="train", cache_dir=str(tmp_path / "cache"))
        assert [name for *_, name in loaded(dataset)] == ["ant"] * 3


def test_images_without_classes_are_loaded_without_labels(hub: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", (), statement=statement())
    for format in ("png", "zip", "parquet"):
        draw(path, tmp_path / "drawn" / format, n=3, steps=1, format=format)
        home = tmp_path / format
        release(tmp_path / "drawn" / format, home)
        dataset = hub.load_dataset(str(home), split="train", cache_dir=str(tmp_path / "cache"))
        assert (len(dataset), [*dataset.features]) == (3, ["image"])


def test_torchvision_keeps_every_label(released: Path, expected: list[tuple[bytes, str]]) -> None:
    folder = ImageFolder(str(released / "png" / "train"))
    found = {int(Path(path).stem): folder.classes[label] for path, label in folder.samples}
    assert found == {index: name for index, (_, name) in enumerate(expected)}


def test_the_head_of_a_card_is_yaml_that_says_what_the_set_is(released: Path) -> None:
    import yaml

    for name in FORMATS:
        _, head, _ = (released / name / "README.md").read_text().split("---\n", 2)
        values = yaml.safe_load(head)
        assert values["tags"] == ["synthetic", "differential-privacy"]
        assert values["task_categories"] == ["image-classification"]
        assert values["size_categories"] == ["n<1K"]
        assert "epsilon" in values["pretty_name"]
        assert "license" not in values  # nobody stated one
        if name != "npz":
            _, label, *_ = values["dataset_info"]["features"]
            names = label["dtype"]["class_label"]["names"]
            assert names == {str(at): name for at, name in enumerate(CLASSES)}
        assert all(f"{share:g}" in (released / name / "README.md").read_text() for share in SHARES)


def test_the_head_of_a_models_card(checkpoint: Path, tmp_path: Path) -> None:
    import yaml

    release(checkpoint, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    values = yaml.safe_load(text.split("---\n", 2)[1])
    assert values["library_name"] == "dpdm"
    assert values["pipeline_tag"] == "unconditional-image-generation"
    assert "differential-privacy" in values["tags"]
    assert "base_model" not in values
    assert "dpdm sample model.safetensors -n 1000 --out images" in text


def pngs_of(folder: Path) -> dict[str, bytes]:
    """Every PNG file of a release, wherever it lies, by name."""
    found = {path.name: path.read_bytes() for path in folder.rglob("*.png")}
    if (folder / "samples.zip").is_file():
        with zipfile.ZipFile(folder / "samples.zip") as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            found |= {name: archive.read(name) for name in names}
    if (folder / "samples.parquet").is_file():
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(folder / "samples.parquet").to_pylist()
        found |= {row["image"]["path"]: row["image"]["bytes"] for row in rows}
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_picture_says_for_machines_that_a_model_made_it(released: Path, name: str) -> None:
    pictures = pngs_of(released / name)
    assert len(pictures) == (1 if name == "npz" else N + 1)
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as picture:
            packet = picture.info["XML:com.adobe.xmp"]
        (described,) = ElementTree.fromstring(packet.encode()).iter(
            "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
        )
        term = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
        assert described.attrib[term] == DIGITAL_SOURCE_TYPE
    stored = json.loads((released / name / "metadata.json").read_text())
    assert (stored["digital_source_type"], stored["marked"]) == (DIGITAL_SOURCE_TYPE, True)


def test_without_marks_the_description_alone_says_so(released: Path) -> None:
    marked, bare = pngs_of(released / "png"), pngs_of(released / "unmarked")
    assert marked.keys() == bare.keys()
    for name, content in bare.items():
        assert b"xmp" not in content
        with Image.open(io.BytesIO(content)) as one, Image.open(io.BytesIO(marked[name])) as other:
            assert one.tobytes() == other.tobytes()
    stored = json.loads((released / "unmarked" / "metadata.json").read_text())
    assert (stored["digital_source_type"], stored["marked"]) == (DIGITAL_SOURCE_TYPE, False)
    verify([released / "unmarked"])
