"""A whole sampling run with a tiny network: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from PIL import Image
from support.drawn import STATEMENT, Listener, contents, draw, replace_with_room_for, save
from torchvision.datasets import ImageFolder

from dpdm_cli import errors
from dpdm_cli.checkpoint import read_tensors, write_tensors
from dpdm_cli.data import load_images
from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.files import sha256_of
from dpdm_cli.privacy.statement import non_private_statement
from dpdm_cli.sampling import drawing, writing
from dpdm_cli.sampling.run import sample
from dpdm_cli.sampling.writing import FORMATS, Format

LOCK = ".sampling.lock.part"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("unconditional") / "model.safetensors", classes=())


def interrupt(checkpoint: Path, out: Path, after: int = 2, **changes: Any) -> None:
    with pytest.raises(errors.InterruptedRunError):
        draw(checkpoint, out, reporter=Listener(stop_after=after), **changes)


def test_exactly_n_images_lie_in_class_folders_that_image_folder_reads(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = draw(checkpoint, tmp_path / "out", n=29)
    dataset = ImageFolder(str(tmp_path / "out"))
    assert dataset.classes == ["cat", "dog", "eel"]
    assert Counter(dataset.targets) == {0: 10, 1: 10, 2: 9}
    assert (len(dataset), result.n, result.drawn) == (29, 29, 29)
    assert {image.size for image, _ in dataset} == {(4, 4)}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"cat", "dog", "eel", "grid.png", "metadata.json"}


def test_image_i_lies_under_its_index_in_class_i_modulo_the_classes(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "out", n=7)
    found = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/*/*.png")}
    classes = ("cat", "dog", "eel")
    assert found == {f"{classes[i % 3]}/{i:06d}.png" for i in range(7)}


def test_images_differ_by_index_class_and_seed(checkpoint: Path, tmp_path: Path) -> None:
    first = load_images(draw(checkpoint, tmp_path / "a", labels=["cat"]).folder).images
    other_class = load_images(draw(checkpoint, tmp_path / "b", labels=["dog"]).folder).images
    other_seed = load_images(draw(checkpoint, tmp_path / "c", labels=["cat"], seed=1).folder).images
    assert len({image.numpy().tobytes() for image in first}) == 30
    for other in (other_class, other_seed):
        assert (first != other).flatten(1).any(1).all()


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_run_goes_on_and_ends_with_the_bytes_of_one_that_was_not(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    whole = draw(checkpoint, tmp_path / "whole", format=format)
    interrupt(checkpoint, tmp_path / "cut", format=format)
    assert not (tmp_path / "cut" / "metadata.json").exists()
    listener = Listener()
    rest = draw(checkpoint, tmp_path / "cut", format=format, reporter=listener)
    assert (rest.drawn, listener.done) == (14, 16)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert rest.metadata == whole.metadata


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_exit_code_and_whole_batches(
    checkpoint: Path, tmp_path: Path, number: int, code: int
) -> None:
    with pytest.raises(errors.InterruptedRunError) as caught:
        draw(checkpoint, tmp_path / "out", reporter=Listener(stop_after=1, number=number))
    assert caught.value.exit_code == code
    assert "8 of 30" in caught.value.message
    assert len(list((tmp_path / "out").rglob("*.png"))) == 8


def test_what_a_killed_process_leaves_is_checked_and_made_whole(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "whole")
    interrupt(checkpoint, tmp_path / "cut", after=3)
    files = sorted((tmp_path / "cut").rglob("*.png"))
    by_index = {int(p.stem): p for p in files}
    by_index[1].write_bytes(by_index[1].read_bytes()[:20])
    by_index[10].write_bytes(b"")
    by_index[3].with_name(".000030.png.part").write_bytes(b"half")
    (tmp_path / "cut" / ".metadata.json.7.part").write_bytes(b"half")
    rest = draw(checkpoint, tmp_path / "cut")
    assert rest.drawn == 7 + 6 + 6
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_killed_before_its_last_word_ends_complete(checkpoint: Path, tmp_path: Path) -> None:
    whole = draw(checkpoint, tmp_path / "out")
    before = contents(tmp_path / "out")
    recorded = replace(whole.metadata, digests=None).to_json()
    (tmp_path / "out" / "metadata.json").unlink()
    (tmp_path / "out" / ".sampling.json").write_text(json.dumps(recorded))
    again = draw(checkpoint, tmp_path / "out")
    assert (again.drawn, again.metadata) == (0, whole.metadata)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("format", FORMATS)
def test_two_at_once_do_not_meet(
    checkpoint: Path, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "whole", format=format)
    generate, refused = drawing.generate, []

    def generating(*args: Any, **named: Any) -> torch.Tensor:
        with pytest.raises(errors.UsageError, match="another process draws into this") as caught:
            draw(checkpoint, tmp_path / "out", format=format)
        refused.append(caught.value)
        return generate(*args, **named)

    monkeypatch.setattr(drawing, "generate", generating)
    draw(checkpoint, tmp_path / "out", format=format)
    assert len(refused) == 4
    assert f"process {os.getpid()} on" in refused[0].message
    assert "wait for it" in refused[0].hint
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_that_fails_lets_go_of_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InterruptedRunError) as caught:
        draw(checkpoint, tmp_path / "out", reporter=Listener(stop_after=1))
    assert not (tmp_path / "out" / LOCK).exists()
    assert draw(checkpoint, tmp_path / "out").drawn == 22
    assert caught.tb  # what failed is still there, with all that it held


@pytest.mark.parametrize("state", ["new", "unfinished", "complete", "shards"])
def test_the_lock_of_a_killed_process_stops_nobody_and_is_removed(
    checkpoint: Path, tmp_path: Path, state: str
) -> None:
    draw(checkpoint, tmp_path / "whole")
    out = tmp_path / "out"
    if state == "unfinished":
        interrupt(checkpoint, out)
    elif state == "complete":
        draw(checkpoint, out)
    elif state == "shards":
        for number in (1, 2):
            draw(checkpoint, tmp_path / str(number), shard=(number, 2))
            shutil.copytree(tmp_path / str(number), out, dirs_exist_ok=True)
    out.mkdir(exist_ok=True)
    (out / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}")
    draw(checkpoint, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_set_that_another_completes_meanwhile_is_checked_and_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filelock.FileLock

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(filelock, "FileLock", real)
        draw(checkpoint, tmp_path / "out")
        return real(*args, **options)

    monkeypatch.setattr(filelock, "FileLock", late)
    assert draw(checkpoint, tmp_path / "out").drawn == 0


def test_many_may_check_a_complete_set_and_where_they_cannot_write(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "out")
    monkeypatch.setattr(filelock, "FileLock", None)
    assert draw(checkpoint, tmp_path / "out").drawn == 0


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_set_is_checked_said_to_be_complete_and_left_alone(
    checkpoint: Path, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(checkpoint, tmp_path / "out", format=format)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(drawing, "generate", None)
    listener = Listener()
    again = draw(checkpoint, tmp_path / "out", format=format, reporter=listener)
    assert (again.drawn, again.metadata) == (0, first.metadata)
    assert any("is complete: 30 images" in note for note in listener.notes)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_a_complete_set_whose_images_were_changed_is_damaged(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw(checkpoint, tmp_path / "out")
    Image.new("L", (4, 4)).save(tmp_path / "out" / "cat" / "000003.png")
    with pytest.raises(errors.DamagedFileError, match="drawn"):
        draw(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n": 29}, "n is 30 there, 29 now"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"format": "npz"}, "format"),
        ({"labels": ["dog"]}, "drawn"),
        ({"steps": 4}, "sampler"),
        ({"steps": 3, "guidance": 0.5}, "sampler"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_untouched(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], named: str, complete: bool
) -> None:
    if complete:
        draw(checkpoint, tmp_path / "out")
    else:
        interrupt(checkpoint, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(errors.UsageError, match=named):
        draw(checkpoint, tmp_path / "out", **changes)
    assert contents(tmp_path / "out") == before


def test_a_folder_of_another_models_images_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "out")
    other = save(tmp_path / "other.safetensors", dataset="mnist")
    with pytest.raises(errors.UsageError, match="checkpoint_sha256"):
        draw(other, tmp_path / "out")


@pytest.mark.parametrize("name", ["photo.png", "metadata.json", "grid.png", "notes/a.txt"])
def test_a_folder_that_holds_something_else_is_refused_and_untouched(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(errors.UsageError, match="not empty"):
        draw(checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"{}"}


def test_a_file_is_no_folder_for_images(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(errors.UsageError, match="not a folder"):
        draw(checkpoint, tmp_path / "out")


def test_an_empty_folder_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert draw(checkpoint, tmp_path / "out", n=3).drawn == 3


def test_a_damaged_record_is_named(checkpoint: Path, tmp_path: Path) -> None:
    interrupt(checkpoint, tmp_path / "out")
    (tmp_path / "out" / ".sampling.json").write_text('{"n": 3')
    with pytest.raises(errors.DamagedFileError, match=r"\.sampling\.json"):
        draw(checkpoint, tmp_path / "out")


def test_the_batch_size_of_a_begun_set_is_kept_when_none_is_given(
    checkpoint: Path, tmp_path: Path
) -> None:
    interrupt(checkpoint, tmp_path / "out")
    assert draw(checkpoint, tmp_path / "out", batch_size=None).metadata.batch_size == 8


def test_fewer_images_are_the_first_of_more(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "few", n=11)
    draw(checkpoint, tmp_path / "many", n=30)
    many = contents(tmp_path / "many")
    few = {k: v for k, v in contents(tmp_path / "few").items() if "/" in k}
    assert len(few) == 11
    assert few.items() <= many.items()


def test_every_batch_is_aligned_and_has_all_its_rows(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    generate = drawing.generate

    def watched(denoiser: Any, indices: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        seen.append(indices.tolist())
        return generate(denoiser, indices, *rest, **named)

    monkeypatch.setattr(drawing, "generate", watched)
    draw(checkpoint, tmp_path / "out", n=18)
    assert seen == [list(range(start, start + 8)) for start in (0, 8, 16)]


def test_another_batch_size_differs_by_rounding_only(checkpoint: Path, tmp_path: Path) -> None:
    images = [
        load_images(draw(checkpoint, tmp_path / str(size), batch_size=size).folder).images.int()
        for size in (1, 8, 64)
    ]
    for other in images[1:]:
        assert (images[0] - other).abs().max() <= 1


@pytest.mark.parametrize(
    ("labels", "cycle"),
    [
        (["eel", "cat"], ["eel", "cat"]),
        ([2, 0], ["eel", "cat"]),
        (["2", " cat "], ["eel", "cat"]),
        (["dog"], ["dog"]),
        (["cat", "cat", "eel"], ["cat", "cat", "eel"]),
    ],
)
def test_labels_by_name_or_index_are_drawn_in_turn(
    checkpoint: Path, tmp_path: Path, labels: list[str | int], cycle: list[str]
) -> None:
    result = draw(checkpoint, tmp_path / "out", n=7, labels=labels)
    found = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/*/*.png")}
    assert found == {f"{cycle[i % len(cycle)]}/{i:06d}.png" for i in range(7)}
    assert result.metadata.drawn == cycle


def test_a_class_that_is_named_like_a_number_is_meant_by_that_name(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "m.safetensors", classes=("1", "0"))
    assert draw(checkpoint, tmp_path / "a", n=2, labels=["0"]).metadata.drawn == ["0"]
    assert draw(checkpoint, tmp_path / "b", n=2, labels=[0]).metadata.drawn == ["1"]


@pytest.mark.parametrize("labels", [["bird"], [3], ["3"], [-1], ["-1"], [""], []])
def test_labels_the_model_does_not_know_are_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, labels: list[str | int]
) -> None:
    with pytest.raises(errors.UsageError):
        draw(checkpoint, tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"labels": [0]}, {"guidance": 1.0}])
def test_an_unconditional_model_takes_no_labels_and_no_guidance(
    unconditional: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(errors.UsageError, match="knows no classes"):
        draw(unconditional, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_unconditional_images_lie_flat_and_are_read_without_classes(
    unconditional: Path, tmp_path: Path
) -> None:
    draw(unconditional, tmp_path / "out", n=11)
    images = load_images(tmp_path / "out")
    assert (len(images.images), images.labels, images.classes) == (11, None, ())


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_holds_the_whole_statement_and_what_made_the_images(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    result = draw(checkpoint, tmp_path / "out", format=format, seed=5)
    stored = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert stored == result.metadata.to_json()
    assert stored["statement"] == STATEMENT.to_json()
    assert stored["checkpoint_sha256"] == sha256_of(checkpoint)
    assert stored["classes"] == stored["drawn"] == ["cat", "dog", "eel"]
    facts = ("dataset", "n", "seed", "batch_size", "format", "private", "headline")
    assert [stored[name] for name in facts] == [
        "custom", 30, 5, 8, format, True, "epsilon 9.98, delta 1e-05, per image",
    ]  # fmt: skip
    assert stored["sampler"] == SamplerSettings(steps=3).to_dict()
    if format != "png":
        assert stored["images_sha256"] == sha256_of(result.images)


@pytest.mark.parametrize("format", FORMATS)
def test_no_file_names_a_path_the_user_or_the_machine(
    checkpoint: Path, tmp_path: Path, format: Format
) -> None:
    draw(checkpoint, tmp_path / "out", format=format)
    written = b"\n".join(contents(tmp_path / "out").values()).decode("latin-1")
    for word in (str(tmp_path), checkpoint.parent.name, socket.gethostname()):
        assert word not in written
    text = (tmp_path / "out" / "metadata.json").read_text()
    assert not {"cpu", getpass.getuser(), torch.__version__} & set(text.replace('"', " ").split())


def test_every_output_of_a_model_without_privacy_says_so(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "m.safetensors", statement=non_private_statement(7))
    listener = Listener()
    result = draw(checkpoint, tmp_path / "out", reporter=listener)
    assert any("NOT PRIVATE" in warning for warning in listener.warnings)
    stored = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert (stored["private"], stored["headline"]) == (False, "NOT PRIVATE")
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.text["Description"].startswith("NOT PRIVATE")  # type: ignore[attr-defined]
    assert result.to_dict()["headline"] == "NOT PRIVATE"


def test_the_grids_caption_is_the_claim(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "out")
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.text["Description"].startswith("epsilon 9.98, delta 1e-05")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statement",
    [
        {"private": True},
        {"private": True, "epsilon": "1", "delta": 1e-5},
        {**STATEMENT.to_json(), "epsilon": "1"},
        {**STATEMENT.to_json(), "epsilon": 1.0},
    ],
)
def test_a_model_whose_claim_is_damaged_draws_nothing(
    tmp_path: Path, statement: dict[str, Any]
) -> None:
    good = save(tmp_path / "m.safetensors")
    tensors, facts = read_tensors(good, "model")
    write_tensors(good, tensors, "model", {**facts, "statement": statement})
    with pytest.raises((errors.DamagedFileError, errors.PrivacyError), match="statement"):
        draw(good, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_purpose_takes_the_papers_sampler_for_the_models_set_and_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(tmp_path / "m.safetensors", dataset="mnist")

    def blank(denoiser: Any, indices: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        return torch.zeros(len(indices), 1, 4, 4, dtype=torch.uint8)

    monkeypatch.setattr(drawing, "generate", blank)
    result = sample(checkpoint, tmp_path / "out", n=3, purpose="fid", device="cpu")
    assert result.sampler.churn.amount == 50
    assert (result.sampler.steps, result.sampler.guidance) == (1000, 0.25)
    assert result.metadata.sampler_from == "the paper's for the best FID on mnist at epsilon 10"


def test_a_purpose_without_a_row_warns_what_was_taken(checkpoint: Path, tmp_path: Path) -> None:
    listener = Listener()
    draw(checkpoint, tmp_path / "out", purpose="accuracy", n=3, reporter=listener)
    assert any("no row for custom" in warning for warning in listener.warnings)


def test_a_full_disk_is_a_lack_of_resources_and_the_same_call_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(checkpoint, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "replace", replace_with_room_for(12))
        with pytest.raises(errors.ResourceError, match="No space left"):
            draw(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out" / "metadata.json").exists()
    for file in (tmp_path / "out").rglob("*.png"):
        Image.open(file).verify()
    assert draw(checkpoint, tmp_path / "out").drawn in range(1, 31)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_too_little_memory_is_a_lack_of_resources(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*args: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(drawing, "generate", exhausted)
    with pytest.raises(errors.ResourceError) as caught:
        draw(checkpoint, tmp_path / "out")
    assert "--batch-size" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [{"n": 0}, {"n": -1}, {"seed": -1}, {"seed": 1 << 63}, {"batch_size": 0}, {"format": "tar"}],
)
def test_numbers_and_formats_that_make_no_sense_are_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(errors.UsageError):
        draw(checkpoint, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_classes_that_cannot_be_folders_never_become_paths(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "m.safetensors", classes=("../up", "down"))
    with pytest.raises(errors.DataError) as caught:
        draw(checkpoint, tmp_path / "out")
    assert "--format npz" in caught.value.hint
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors"}
    draw(checkpoint, tmp_path / "out", format="npz")
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "out"}


def test_without_a_folder_the_images_lie_beside_the_model(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "model.safetensors")
    for given in (checkpoint, tmp_path):
        result = sample(given, n=3, batch_size=4, sampler=SamplerSettings(steps=2), device="cpu")
        assert result.folder == tmp_path / "synth"
    assert result.drawn == 0


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"not a model")
    with pytest.raises(errors.DamagedFileError):
        draw(tmp_path / "m.safetensors", tmp_path / "out")
    with pytest.raises(errors.DataError):
        draw(tmp_path / "absent.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
