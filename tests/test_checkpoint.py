"""Checkpoints survive storage and notice damage, each kind with its own message."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support import tiny
from support.drawn import STATEMENT

from dpdm_cli import checkpoint, files
from dpdm_cli.checkpoint import Model, load_model, read_tensors, save_model, write_tensors
from dpdm_cli.errors import DamagedFileError, DataError, DpdmError, ResourceError


def model() -> Model:
    return Model(
        denoiser=tiny.denoiser(),
        config=tiny.config(),
        parameterisation="edm",
        classes=("a", "b", "c"),
        dataset="custom",
        statement=STATEMENT,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, model())
    return path


def test_a_model_comes_back_with_everything_known_about_it(saved: Path) -> None:
    loaded, original = load_model(saved), model()
    assert (loaded.classes, loaded.dataset, loaded.statement) == (
        original.classes,
        "custom",
        STATEMENT,
    )
    assert asdict(loaded.config) == asdict(original.config)
    x, sigma, y = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 1])
    assert torch.equal(loaded.denoiser(x, sigma, y), original.denoiser(x, sigma, y))
    assert load_model(saved.parent).sha256 == files.sha256_of(saved)


def rewrite(path: Path, change: object, honest: bool = True) -> None:
    """Change the description in the header, leaving the tensors as they are."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["dpdm"])
    change(facts)  # type: ignore[operator]
    if honest:  # as somebody would who writes such a file on purpose
        facts.pop("sha256")
        facts["sha256"] = checkpoint._digest(safetensors.torch.load_file(path), facts)
    header["__metadata__"]["dpdm"] = checkpoint._text(facts)
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "a flipped byte in the tensors": lambda p: flip(p, -100),
    "a flipped byte in the header": lambda p: flip(p, 40),
    "a smaller epsilon in its statement": lambda p: rewrite(
        p, lambda f: f["statement"].update(epsilon=0.1), honest=False
    ),
    "truncated": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "trailing bytes": lambda p: p.write_bytes(p.read_bytes() + b"xx"),
    "a header that claims to be huge": lambda p: p.write_bytes(
        struct.pack("<Q", 1 << 50) + p.read_bytes()[8:]
    ),
    "text": lambda p: p.write_text("hello"),
    "a pickle": lambda p: p.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "another format": lambda p: rewrite(p, lambda f: f.update(format=99)),
    "no network": lambda p: rewrite(p, lambda f: f.pop("network")),
    "a network of other shapes": lambda p: rewrite(p, lambda f: f["network"].update(channels=16)),
    "a network too large for memory": lambda p: rewrite(
        p, lambda f: f["network"].update(channels=1 << 24)
    ),
    "a network too deep": lambda p: rewrite(p, lambda f: f["network"].update(blocks=10**9)),
    "a text where a number belongs": lambda p: rewrite(
        p, lambda f: f["network"].update(channels="x")
    ),
    "unknown parameterisation": lambda p: rewrite(p, lambda f: f.update(parameterisation="ddpm")),
    "missing classes": lambda p: rewrite(p, lambda f: f.update(classes=["a"])),
    "a description that is no object": lambda p: rewrite(p, lambda f: f.update(network=[1])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_named(saved: Path, damage: str) -> None:
    DAMAGES[damage](saved)
    with pytest.raises(DamagedFileError, match=r"model\.safetensors") as caught:
        load_model(saved)
    assert caught.value.exit_code == 4


HUGE = {
    "image_size": (0, -8, 8.0, True, 100_000, 8 * 10**8),
    "image_channels": (0, 2, True, 10**9),
    "classes": (-1, 10**9),
    "channels": (0, -8, 10, 10**9),
    "multipliers": ([], [0], [-1], [1] * 60, [1] * 10**4, [10**9], [True, True], 1),
    "blocks": (0, -1, 10**6),
    "attention": ([0], [1] * 10**5, [10**9], "4"),
    "patch": (0, -1, 10**6),
    "embedding": (0, -1, 10**9),
    "sees_prior": (1, None),
}


@pytest.mark.parametrize("name", HUGE)
def test_no_network_out_of_bounds_is_begun(
    name: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one without memory: a million layers take long to describe."""

    def build(config: object) -> None:
        raise AssertionError(f"a network was built: {config}")

    monkeypatch.setattr(checkpoint, "UNet", build)
    for value in HUGE[name]:
        rewrite(saved, lambda f, value=value: f["network"].update({name: value}))
        with pytest.raises(DamagedFileError) as caught:
            load_model(saved)
        assert len(caught.value.message) < 500


@pytest.mark.parametrize("count", [0, -1, True, 1.5, 4000, 10**9])
@pytest.mark.parametrize("name", ["coefficients", "directions"])
def test_no_prior_out_of_bounds_is_begun(
    name: str, count: object, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "GaussianPrior", lambda *_: pytest.fail("a prior was built"))
    prior = {"coefficients": 4, "directions": 2, name: count}
    rewrite(saved, lambda f: f.update(prior=prior))
    with pytest.raises(DamagedFileError, match=f"a prior of another size|prior: {name} is"):
        load_model(saved)


def test_what_is_no_safetensors_file_is_called_so(saved: Path) -> None:
    for name, content in (
        ("statement.json", b'{"private": true}'),
        ("grid.png", b"\x89PNG\r\n\x1a\n"),
    ):
        path = saved.with_name(name)
        path.write_bytes(content)
        with pytest.raises(DamagedFileError) as caught:
            load_model(path)
        assert caught.value.message == f"{path} is not a model file (safetensors)"
    os.truncate(saved, saved.stat().st_size // 2)
    with pytest.raises(DamagedFileError, match="damaged"):
        load_model(saved)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    broken = model()
    with torch.no_grad():
        broken.denoiser.network.head.bias.fill_(torch.nan)
    save_model(path, broken)
    with pytest.raises(DamagedFileError, match="finite"):
        load_model(path)


@pytest.mark.parametrize("kind", ["state", "other"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.safetensors"
    if kind == "state":
        write_tensors(path, {"x": torch.zeros(2)}, "state", {})
    else:
        safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(DataError) as caught:
        load_model(path)
    assert caught.value.exit_code == 3


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        load_model(tmp_path / "absent.safetensors")


def test_a_full_disk_leaves_the_old_file_and_no_remains(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        save_model(saved, model())
    assert caught.value.exit_code == 6
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_an_interrupted_write_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, model())
    assert saved.read_bytes() == before


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"x": torch.zeros(2)}, "state", {}, private=True)
    assert path.stat().st_mode & 0o077 == 0
    assert read_tensors(path, "state")[0]["x"].tolist() == [0, 0]


def test_errors_are_ours(saved: Path) -> None:
    saved.write_bytes(b"")
    with pytest.raises(DpdmError):
        load_model(saved)
