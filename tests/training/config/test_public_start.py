"""Starting from a model of public images: what is taken over, what is refused, what the statement says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.statements import checked
from support.trained import TINY, digits_folder, run

from dpdm_cli import sample
from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.errors import DamagedFileError, PrivacyError, UsageError
from dpdm_cli.files import sha256_of
from dpdm_cli.privacy.statement import PROCEDURAL_STARTS
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.training.config.public_start import read_procedural, read_public, shipped_start
from dpdm_cli.training.config.settings import preset_settings, where_started
from dpdm_cli.training.dry_run import dry_run
from dpdm_cli.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Public images: not the named set itself, which is the private one here."""
    return str(digits_folder(tmp_path_factory.mktemp("pictures") / "public"))


@pytest.fixture(scope="module")
def public(pictures: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("public") / "run", pictures, private=False, patch=1).model


def test_training_starts_at_the_public_weights(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {}

    def check(self: Trainer) -> None:
        begun.update({name: tensor.clone() for name, tensor in self.state().items()})

    monkeypatch.setattr(Trainer, "check", check)
    run(tmp_path / "run", steps=1, init_from=public)
    for name, tensor in load_model(public).denoiser.network.state_dict().items():
        assert torch.equal(begun[f"network/{name}"], tensor)
        assert torch.equal(begun[f"average/{name}"], tensor)


def test_the_statement_names_it_and_verify_holds_it_to_that(public: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "run", init_from=public)
    assert result.statement.init_from == sha256_of(public)
    assert f"declares to be public (SHA-256 {sha256_of(public)})" in result.statement.text
    verify([tmp_path / "run"])
    with pytest.raises(PrivacyError):
        checked({**result.statement.to_json(), "init_from": None})
    with pytest.raises(PrivacyError):
        checked({**result.statement.to_json(), "init_from": "0" * 64})
    with pytest.raises(DamagedFileError):
        checked({**result.statement.to_json(), "init_from": "my own words"})


def test_a_model_of_private_images_is_refused(tmp_path: Path) -> None:
    private = run(tmp_path / "private").model
    with pytest.raises(PrivacyError, match="trained on private images"):
        run(tmp_path / "run", init_from=private)
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_private_set_itself_is_refused_also_behind_another(
    pictures: str, tmp_path: Path
) -> None:
    itself = run(tmp_path / "itself", private=False)
    assert itself.statement.trained_on == ("digits",)
    behind = run(tmp_path / "behind", pictures, private=False, patch=1, init_from=itself.model)
    (tmp_path / "behind" / "manifest.json").unlink()
    behind = run(tmp_path / "behind", pictures, private=False, resume=True, patch=1)
    assert behind.statement.trained_on == ("custom", "digits")
    for start in (itself.model, behind.model):
        with pytest.raises(PrivacyError, match="without privacy on digits") as caught:
            run(tmp_path / "run", init_from=start)
        assert caught.value.exit_code == 5
        assert not (tmp_path / "run").exists()
        # Without privacy there is nothing to protect, and other images may start from it.
        shape = load_model(start).config
        assert (
            read_public(start, shape, None).trained_on
            == read_public(start, shape, "mnist").trained_on
        )


def test_another_network_is_refused(public: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="channels = 8"):
        run(tmp_path / "run", init_from=public, width=16)


def test_embeddings_of_other_classes_stay_behind(public: Path) -> None:
    model = load_model(public)
    assert model.config.classes == len(NAMED["digits"].classes)
    same = read_public(public, model.config, "digits")
    assert "classes.weight" in same.weights
    other = read_public(public, dataclasses.replace(model.config, classes=3), "digits")
    assert set(same.weights) - set(other.weights) == {"classes.weight"}


def test_resuming_keeps_the_source_and_refuses_another(
    public: Path, pictures: str, tmp_path: Path
) -> None:
    run(tmp_path / "run", init_from=public)
    (tmp_path / "run" / "manifest.json").unlink()
    again = run(tmp_path / "run", resume=True)
    assert again.statement.init_from == sha256_of(public)
    other = run(tmp_path / "other", pictures, private=False, patch=1, **{**TINY, "seed": 5}).model
    with pytest.raises(PrivacyError, match="not what this run was started from"):
        run(tmp_path / "run", resume=True, init_from=other)


PROCEDURAL = {
    **TINY,
    **{"width": 32, "multipliers": (1, 1), "embedding": 64, "patch": 2, "attention": ()},
    "init": "procedural",
    "warm_start": "moments",
    "image_size": 12,
    "steps": 1,
}


@pytest.mark.parametrize(("image_size", "patch"), [(12, 2), (40, 4)])
def test_the_procedural_start_is_named_as_no_data_and_verified(
    image_size: int, patch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {}

    def check(self: Trainer) -> None:
        begun.update({name: tensor.clone() for name, tensor in self.state().items()})

    monkeypatch.setattr(Trainer, "check", check)
    result = run(tmp_path / "run", **{**PROCEDURAL, "image_size": image_size, "patch": patch})
    shipped = sha256_of(shipped_start(1, patch))
    assert shipped in PROCEDURAL_STARTS
    assert result.statement.init_from == shipped
    assert f"drawn by a program; no data (SHA-256 {shipped})" in result.statement.text
    verify([tmp_path / "run"])
    weights, _ = read_tensors(shipped_start(1, patch), "start")
    for name, tensor in weights.items():
        assert torch.equal(begun[f"network/{name}"], tensor), name
        assert torch.equal(begun[f"average/{name}"], tensor), name
    assert not begun["network/classes.weight"].any()
    drawn = sample(tmp_path / "run", n=20, out=tmp_path / "synth", steps=2)
    verify([tmp_path / "run", drawn.folder])


def test_with_classes_it_begins_as_the_same_network_without() -> None:
    config = load_shape(classes=0)
    alone, classed = UNet(config), UNet(dataclasses.replace(config, classes=3))
    alone.load_state_dict(read_procedural(config).weights)
    classed.load_state_dict(read_procedural(classed.config).weights)
    x, noise = torch.randn(4, 2, 20, 20), torch.randn(4)
    torch.testing.assert_close(classed(x, noise, torch.tensor([0, 1, 2, 3])), alone(x, noise))


def load_shape(classes: int) -> UNetConfig:
    facts = read_tensors(shipped_start(1, 2), "start")[1]["network"]
    shape = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    return UNetConfig(**{**shape, "classes": classes, "image_size": 20})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 16}, "a network with channels = 32"),
        ({"warm_start": "none"}, "needs a warm start"),
        ({"private": False}, "needs a warm start"),
        ({"init_from": Path("other.safetensors")}, "are two starts"),
        ({"init": "wishful"}, "choose one of none, procedural"),
    ],
)
def test_a_procedural_start_that_cannot_be_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "run", **{**PROCEDURAL, **changes})
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "run" / "model.safetensors").exists()


def settled(data: str, **asked: Any) -> dict[str, tuple[Any, str]]:
    """Settings that a preset changes where there is a start, and where they are from."""
    shown = dry_run(data, preset="small", **asked)
    return {
        name: (getattr(shown.settings, name), shown.origins[name])
        for name in where_started("small")
    }


def test_small_begins_from_the_procedural_start_where_there_is_one() -> None:
    changes = where_started("small")
    assert changes["init"] == "procedural"
    origin = "preset small, where there is a procedural start"
    for size in (None, 32, 40, 64):
        found = settled("mnist", image_size=size)
        assert found == {name: (value, origin) for name, value in changes.items()}
    assert settled("mnist", learning_rate=1e-3)["learning_rate"] == (1e-3, "flag")
    assert settled("mnist", learning_rate=1e-3)["init"] == ("procedural", origin)


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        ("cifar10", {}),  # colour
        ("mnist", {"init": "none"}),
        ("mnist", {"warm_start": "none"}),
        ("mnist", {"private": False}),
        ("mnist", {"width": 16}),
        ("mnist", {"image_size": 80}),
        ("digits", {}),
    ],
    ids=str,
)
def test_elsewhere_small_begins_with_nothing_and_its_own_rate(
    data: str, asked: dict[str, Any]
) -> None:
    found = settled(data, **asked)
    assert found["init"][0] == "none"
    assert found["learning_rate"][0] == preset_settings("small", data, 10.0).learning_rate


def test_there_is_no_procedural_start_for_colour() -> None:
    with pytest.raises(UsageError, match="colour"):
        read_procedural(dataclasses.replace(load_shape(classes=0), image_channels=3))
