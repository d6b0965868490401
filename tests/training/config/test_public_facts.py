"""What a claim takes as public is not read off private images: through every kind of source, and to the last byte."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from support.trained import interrupt_after
from typer.testing import CliRunner

from dpdm_cli import prepare, release, train, verify
from dpdm_cli.checkpoint import load_model, save_model
from dpdm_cli.commands.app import app
from dpdm_cli.data import load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.errors import DataError, InterruptedRunError, PrivacyError
from dpdm_cli.privacy.accounting.claims import calibrate, planned
from dpdm_cli.privacy.plan_file import read_plan_file, write_plan_file
from dpdm_cli.privacy.public_inputs import PUBLISHED, UNLABELLED, PublicInputs
from dpdm_cli.privacy.statement import private_statement
from dpdm_cli.training.config.network import blank_images
from dpdm_cli.training.config.public_facts import Stated, check_sources, public_facts
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.trainer import Trainer

Labels = NDArray[np.int64]

TINY: dict[str, Any] = {
    "preset": "small",
    "width": 8,
    "multipliers": (1,),
    "embedding": 16,
    "patch": 1,
    "steps": 1,
    "batch_size": 8,
    "epsilon": 50.0,
    "delta": 1e-3,
    "accountant": "rdp",
    "warm_start": "none",
    "device": "cpu",
}
STATED: dict[str, Any] = {
    "dataset_size": 40,
    "classes": ["0", "1", "2"],
    "image_size": 8,
    "channels": 1,
}

# Two classes, one of which has a single image; and what one record more or less makes of it.
LABELS = np.array([0] * 24 + [1])
NEIGHBOURS = {
    "an ordinary one less": LABELS[1:],
    "the last of a class less": LABELS[:-1],
    "one of another class more": np.append(LABELS, 2),
}


def as_npz(path: Path, labels: Labels) -> Path:
    """The i-th image of a class is the same in every set."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 8, 8), dtype=np.uint8)
    ranks = [int(np.count_nonzero(labels[:i] == label)) for i, label in enumerate(labels)]
    np.savez(path.with_suffix(".npz"), images=pixels[labels, ranks], labels=labels)
    return path.with_suffix(".npz")


def as_folder(path: Path, labels: Labels) -> Path:
    with np.load(as_npz(path, labels)) as arrays:
        for index, (pixels, label) in enumerate(zip(arrays["images"], labels, strict=True)):
            (path / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / str(label) / f"{index:03}.png")
    return path


def as_zip(path: Path, labels: Labels) -> Path:
    return Path(shutil.make_archive(str(path), "zip", as_folder(path, labels)))


def as_prepared(path: Path, labels: Labels) -> Path:
    return prepare(as_folder(path, labels), path.with_suffix(".safetensors")).path


def as_flat_folder(path: Path, labels: Labels) -> Path:
    for file in as_folder(path, labels).glob("*/*.png"):
        file.rename(path / f"{file.parent.name}-{file.name}")
    for folder in path.iterdir():
        if folder.is_dir():
            folder.rmdir()
    return path


KINDS: dict[str, Callable[[Path, Labels], Path]] = {
    "npz": as_npz,
    "folder": as_folder,
    "zip": as_zip,
    "prepared": as_prepared,
    "flat": as_flat_folder,
}


def stated_for(kind: str) -> dict[str, Any]:
    return {name: value for name, value in STATED.items() if (kind, name) != ("flat", "classes")}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without its check of the step, which is tested elsewhere and looks at no image."""
    monkeypatch.setattr(Trainer, "check", lambda self: None)


def published(folder: Path) -> dict[str, Any]:
    """All of a run that may be published, but for weights and pixels: names, sizes, keys, shapes and words."""
    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np") as tensors:
                shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
                found[file.name] = file.stat().st_size, shapes, tensors.metadata()
        elif file.suffix == ".png":
            with Image.open(file) as picture:
                found[file.name] = picture.size, picture.mode
        elif file.is_file():
            found[file.name] = file.read_text()
    text = json.dumps(found)
    return json.loads(re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{32})\b", "<digest>", text))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_one_record_more_or_less_changes_nothing_that_is_published(
    kind: str, tmp_path: Path, unchecked: None
) -> None:
    shapes = {}
    for name, labels in {"the set": LABELS, **NEIGHBOURS}.items():
        source = KINDS[kind](tmp_path / name, labels)
        train(str(source), tmp_path / f"{name} run", **TINY, **stated_for(kind))
        release(tmp_path / f"{name} run", tmp_path / f"{name} release")
        folders = tmp_path / f"{name} run", tmp_path / f"{name} release"
        shapes[name] = [published(folder) for folder in folders]
    assert shapes["the set"][1].keys() > {"model.safetensors", "statement.json", "README.md"}
    for name in NEIGHBOURS:
        assert shapes[name] == shapes["the set"], name


@pytest.mark.parametrize("kind", ["npz", "folder", "zip", "prepared"])
def test_an_image_of_a_class_that_was_not_stated_is_refused_by_name(
    kind: str, tmp_path: Path
) -> None:
    source = KINDS[kind](tmp_path / "set", NEIGHBOURS["one of another class more"])
    with pytest.raises(DataError, match=r"\b2\b") as caught:
        train(str(source), tmp_path / "run", **TINY, **{**STATED, "classes": ["0", "1"]})
    assert "declare" in caught.value.message + caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lacking", [*STATED, "everything"])
def test_each_figure_is_stated_or_declared_or_the_run_is_refused(
    kind: str, lacking: str, tmp_path: Path
) -> None:
    source = KINDS[kind](tmp_path / "set", LABELS)
    said = {name: v for name, v in stated_for(kind).items() if lacking not in (name, "everything")}
    settings = TrainSettings(
        dataset_size=said.get("dataset_size"), image_size=said.get("image_size")
    )
    stated = {"classes": tuple(said["classes"]) if "classes" in said else None}
    stated["channels"] = said.get("channels")
    images = load_images(str(source), image_size=settings.image_size, **stated)
    declared = Stated(**stated, public_metadata=True)
    size, public = public_facts(str(source), images, settings, declared)
    expected = {name: "stated" if name in said else "declared" for name in STATED}
    if kind == "flat":
        expected["classes"] = UNLABELLED
    assert public.to_dict() == expected
    assert size == (40 if "dataset_size" in said else len(LABELS))
    if set(expected.values()) <= {"stated", UNLABELLED}:
        assert public_facts(str(source), images, settings, Stated(**stated)) == (size, public)
        return
    with pytest.raises(PrivacyError) as caught:
        public_facts(str(source), images, settings, Stated(**stated))
    assert caught.value.exit_code == 5
    for name, source_of in expected.items():
        words = f"{name}={ {**STATED, 'dataset_size': 25, 'classes': ('0', '1')}[name]!r}"
        assert (words in caught.value.hint) == (source_of == "declared"), name


def test_a_named_sets_figures_are_published_and_what_is_stated_instead_is_stated() -> None:
    for name, facts in NAMED.items():
        images = blank_images(name, TrainSettings())
        assert public_facts(name, images, TrainSettings(), Stated()) == (
            facts.train_size,
            PUBLISHED,
        )
        settings = TrainSettings(dataset_size=1000, image_size=4)
        size, public = public_facts(name, images, settings, Stated(public_metadata=True))
        assert size == 1000
        assert public == PublicInputs(
            dataset_size="stated", classes="published", image_size="stated", channels="published"
        )


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    """What `dpdm WORDS` gives."""
    typed = [str(word) for word in words]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dpdm", *typed])
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, typed)


def pasted(result: Any) -> list[list[str]]:
    """The commands that a refusal shows, as a shell reads them."""
    lines = [line.strip() for line in result.stderr.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("dpdm ")]


def test_training_is_refused_with_what_was_found_and_commands_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = as_folder(tmp_path / "my own", LABELS)
    (source / "1").rename(source / "fur & feathers")
    config = tmp_path / "tiny.toml"
    config.write_text("width = 8\nembedding = 16\nmultipliers = [1]\npatch = 1\n")
    words = ["train", source, "--dry-run", "--config", config, "-B", 8, "--delta", 1e-3, "--json"]
    for extra in ((), ("--image-size", 8), ("--dataset-size", 40, "--channels", 3)):
        result = command(monkeypatch, *words, *extra)
        assert (result.exit_code, result.stdout) == (5, "")
        assert "0, fur & feathers" in result.stderr
        assert ("number of images: 25" in result.stderr) == ("--dataset-size" not in extra)
        declaring, stating = pasted(result)
        assert declaring == [*map(str, (*words, *extra)), "--public-metadata"]
        for again, sources in ((declaring, {"declared"}), (stating, {"stated"})):
            done = command(monkeypatch, *again)
            assert done.exit_code == 0, done.output
            found = json.loads(done.stdout)["privacy"]
            named = {re.sub(r"^--(.*)$", r"\1", str(w)).replace("-", "_") for w in extra}
            assert {s for name, s in found["public_inputs"].items() if name not in named} == sources
            assert found["dataset_size"] == (40 if "--dataset-size" in extra else 25)


def test_a_run_that_claims_nothing_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = as_npz(tmp_path / "set", LABELS)
    shown = command(monkeypatch, "train", source, "--dry-run", "--non-private", "-B", 8)
    assert shown.exit_code == 0, shown.output
    assert "NOT PRIVATE" in shown.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_calibrating_for_images_counts_them_only_when_that_is_declared(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = KINDS[kind](tmp_path / "set", LABELS)
    words = ["calibrate", source, "--sigma", 2, "-B", 8, "--steps", 3, "--delta", 1e-3, "--json"]
    result = command(monkeypatch, *words, "--accountant", "rdp")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "number of images: 25" in result.stderr
    declaring, stating = pasted(result)
    assert stating[-2:] == ["--dataset-size", "25"]
    for again in (declaring, stating):
        assert json.loads(command(monkeypatch, *again).stdout)["dataset_size"] == 25
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    unread = command(monkeypatch, *words, "--dataset-size", 40)  # N is stated: nothing is looked at
    assert json.loads(unread.stdout)["dataset_size"] == 40


def test_calibrating_for_a_named_set_takes_its_published_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--sigma", 20, "--accountant", "rdp", "--json")
    by_name = command(monkeypatch, "calibrate", "cifar10", *options)
    assert by_name.exit_code == 0
    assert (
        by_name.stdout == command(monkeypatch, "calibrate", "--dataset", "cifar10", *options).stdout
    )
    assert (
        command(monkeypatch, "calibrate", "cifar10", "--dataset", "mnist", *options).exit_code == 2
    )


def test_the_n_of_a_plan_is_stated_or_declared_and_another_is_refused(
    tmp_path: Path, unchecked: None
) -> None:
    source = as_npz(tmp_path / "set", LABELS)
    path = tmp_path / "plan.json"
    figures: dict[str, Any] = {"delta": 1e-3, "expected_batch_size": 8, "steps": 1}
    plan = calibrate(epsilon=50, dataset_size=30, accountant="rdp", **figures)
    write_plan_file(path, planned(plan))
    network = {
        name: TINY[name] for name in ("preset", "width", "multipliers", "embedding", "patch")
    }
    options: dict[str, Any] = {"plan": path, "device": "cpu", **network}
    rest = {name: value for name, value in STATED.items() if name != "dataset_size"}
    # The plan does not say whether it was counted.
    with pytest.raises(PrivacyError, match="number of images: 30"):
        train(str(source), tmp_path / "run", **options, **rest)
    for said, word in (({"dataset_size": 30}, "stated"), ({"public_metadata": True}, "declared")):
        result = train(str(source), tmp_path / word, **options, **rest, **said)
        assert result.statement.plan == read_plan_file(path).plan
        assert result.statement.public_inputs.to_dict() == {
            **dict.fromkeys(STATED, "stated"),
            "dataset_size": word,
        }
    with pytest.raises(PrivacyError, match="N = 30"):
        train(str(source), tmp_path / "other", **options, **STATED)


def test_a_resumed_run_goes_on_with_what_was_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    source, out = str(as_folder(tmp_path / "set", LABELS)), tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedRunError):
            train(source, out, **{**TINY, "steps": 2}, **{**STATED, "channels": 3})
    for changes in ({"classes": ["0", "1"]}, {"channels": 1}, {"dataset_size": 41}):
        with pytest.raises(PrivacyError, match="was started with"):
            train(source, out, resume=True, preset="small", device="cpu", **changes)
    # Classes without an image, N and colours are remembered; declaring later changes no word of the claim.
    done = train(source, out, resume=True, preset="small", device="cpu", public_metadata=True)
    assert set(done.statement.public_inputs.to_dict().values()) == {"stated"}
    model = load_model(done.model)
    assert (model.classes, model.config.image_channels) == (("0", "1", "2"), 3)
    assert done.statement.plan.dataset_size == 40


CUSTOM = {"dataset": "custom", "dataset_size": 40, "classes": ("a", "b"), "shape": (1, 8, 8)}
DIGITS = {**CUSTOM, "dataset": "digits", "dataset_size": 1438, "classes": NAMED["digits"].classes}


@pytest.mark.parametrize(
    ("about", "sources", "fits"),
    [
        (DIGITS, {}, True),
        (DIGITS, {"dataset_size": "stated", "image_size": "stated"}, True),
        ({**DIGITS, "dataset_size": 1437}, {}, False),
        ({**DIGITS, "dataset_size": 1437}, {"dataset_size": "stated"}, True),
        ({**DIGITS, "classes": ("a", "b")}, {}, False),
        ({**DIGITS, "shape": (3, 8, 8)}, {}, False),
        ({**DIGITS, "shape": (1, 16, 16)}, {}, False),
        (DIGITS, {"dataset_size": "declared"}, False),
        (DIGITS, {"classes": UNLABELLED}, False),
        (CUSTOM, {}, False),
        (CUSTOM, dict.fromkeys(PUBLISHED.to_dict(), "stated"), True),
        (CUSTOM, dict.fromkeys(PUBLISHED.to_dict(), "declared"), True),
        (CUSTOM, {**dict.fromkeys(PUBLISHED.to_dict(), "stated"), "channels": "published"}, False),
        (CUSTOM, {**dict.fromkeys(PUBLISHED.to_dict(), "stated"), "classes": UNLABELLED}, False),
        ({**CUSTOM, "classes": ()}, dict.fromkeys(PUBLISHED.to_dict(), "stated"), False),
        (
            {**CUSTOM, "classes": ()},
            {**dict.fromkeys(PUBLISHED.to_dict(), "declared"), "classes": UNLABELLED},
            True,
        ),
    ],
)
def test_sources_fit_what_is_published_beside_them(
    about: dict[str, Any], sources: dict[str, str], fits: bool
) -> None:
    public = PublicInputs(**{**PUBLISHED.to_dict(), **sources})
    if fits:
        check_sources(public, **about)
        return
    with pytest.raises(PrivacyError, match="which does not fit the set"):
        check_sources(public, **about)


def test_verify_finds_a_counted_number_that_is_called_published(
    tmp_path: Path, unchecked: None
) -> None:
    source = as_npz(tmp_path / "set", LABELS)
    done = train(str(source), tmp_path / "run", **TINY, public_metadata=True)
    verify([done.model])
    model = load_model(done.model)
    lie = replace(model, statement=private_statement(model.statement.ledger, PUBLISHED))
    save_model(tmp_path / "lie.safetensors", lie)
    with pytest.raises(PrivacyError, match="dataset_size is said to be published"):
        verify([tmp_path / "lie.safetensors"])
