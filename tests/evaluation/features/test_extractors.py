from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dpdm_cli.errors import DamagedFileError, UsageError
from dpdm_cli.evaluation.features import weights as published
from dpdm_cli.evaluation.features.extractors import (
    InceptionExtractor,
    PixelExtractor,
    TorchScriptExtractor,
    load_torchscript,
)
from dpdm_cli.files import sha256_of

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")

CPU = torch.device("cpu")


class Layers(torch.nn.Module):
    """Stands for the network proper: [B, 3, 299, 299] in [-1, 1] to 2048 features."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, [8, 8]).flatten(1)
        return torch.cat([pooled] * 11, dim=1)[:, :2048]


class StandIn(torch.nn.Module):
    """The call signature of the published Inception file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        y = self.layers((x - 128.0) / 128.0)
        return y if return_features else y[:, :1008]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "any name.pt"
    torch.jit.script(StandIn()).save(str(path))
    return path


@pytest.fixture
def weights(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, taken for the published file."""
    monkeypatch.setattr(published, "SHA256", sha256_of(stand_in))
    return stand_in


def images(n: int = 3, channels: int = 3, size: int = 12) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=g)


def test_clean_features_are_those_of_pils_bicubic_resizing_to_299(weights: Path) -> None:
    x = images(2)
    resized = torch.empty(2, 3, 299, 299)
    for i, image in enumerate(x):
        for c, channel in enumerate(image):
            plane = Image.fromarray(channel.numpy().astype(np.float32))
            larger = plane.resize((299, 299), Image.Resampling.BICUBIC)
            resized[i, c] = torch.from_numpy(np.asarray(larger).copy()).clamp(0, 255)
    expected = Layers()((resized - 128) / 128)
    features = InceptionExtractor(weights, "clean", CPU)(x)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_legacy_tensorflow_leaves_the_resizing_to_the_network(weights: Path) -> None:
    x = images()
    features = InceptionExtractor(weights, "legacy_tensorflow", CPU)(x)
    torch.testing.assert_close(features, Layers()((x.float() - 128) / 128))


def test_a_grey_image_has_the_features_of_the_same_image_in_three_channels(weights: Path) -> None:
    extract = InceptionExtractor(weights, "clean", CPU)
    grey = images(channels=1)
    torch.testing.assert_close(extract(grey), extract(grey.repeat(1, 3, 1, 1)))


def test_features_do_not_depend_on_the_batch(weights: Path) -> None:
    extract, x = InceptionExtractor(weights, "clean", CPU), images(5)
    torch.testing.assert_close(extract(x), torch.cat([extract(x[:2]), extract(x[2:])]))


def test_the_digest_is_that_of_the_file(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.jit.script(Layers()).save(str(other))
    assert InceptionExtractor(weights, "clean", CPU).digest == sha256_of(weights)
    assert TorchScriptExtractor(other, CPU).digest == sha256_of(other)


def test_pixels_are_averaged_to_sixteen_and_small_images_left_alone() -> None:
    extract = PixelExtractor(CPU)
    small, large = images(2, 1, 8), images(2, 3, 32)
    torch.testing.assert_close(extract(small), small.flatten(1) / 255.0)
    blocks = large.float().unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(extract(large), blocks.flatten(1) / 255.0)


def test_any_torchscript_network_gives_features_from_colour_images(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    example = torch.zeros(1, 3, 12, 12)
    torch.jit.trace(torch.nn.AvgPool2d(12), example).save(str(file))
    grey = images(4, 1)
    extract = load_torchscript(str(file), CPU)
    mean = grey.float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(extract(grey), mean[:, None].repeat(1, 3))
    assert extract.name == "net.pt"


def test_a_network_with_the_argument_is_asked_for_features(weights: Path) -> None:
    assert TorchScriptExtractor(weights, CPU)(images()).shape == (3, 2048)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"no network")
    with pytest.raises(DamagedFileError, match=r"junk\.pt: not a TorchScript network"):
        load_torchscript(str(junk), CPU)


def test_no_file_but_the_published_inception_is_loaded(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(DamagedFileError, match="not the published weights of Inception"):
        InceptionExtractor(stand_in, "clean", CPU)


def test_a_network_without_a_row_for_each_image_is_refused(tmp_path: Path) -> None:
    class Scalar(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean()

    file = tmp_path / "scalar.pt"
    torch.jit.script(Scalar()).save(str(file))
    with pytest.raises(DamagedFileError, match="expected one row of features for each image"):
        load_torchscript(str(file), CPU)(images())


def test_unknown_extractors_and_modes_are_refused(weights: Path) -> None:
    with pytest.raises(UsageError, match="unknown extractor 'inceptoin'"):
        load_torchscript("inceptoin", CPU)
    with pytest.raises(UsageError, match="unknown resize mode 'legacy_pytorch'"):
        InceptionExtractor(weights, "legacy_pytorch", CPU)
