from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError, ResourceError, UsageError
from dpdm_cli.evaluation import scoring
from dpdm_cli.evaluation.distances.frechet import FeatureStatistics, frechet_distance
from dpdm_cli.evaluation.distances.kernel_distance import kernel_distance
from dpdm_cli.evaluation.distances.manifolds import compare_manifolds
from dpdm_cli.evaluation.features.extractors import PixelExtractor
from dpdm_cli.evaluation.features.kept_features import KeptFeatures
from dpdm_cli.evaluation.measuring import Measuring
from dpdm_cli.reporter import SilentReporter


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def write_images(folder: Path, n: int, seed: int, size: int = 8) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(
            folder / f"{i:03}.png"
        )
    return folder


@pytest.fixture
def synth(tmp_path: Path) -> Path:
    return write_images(tmp_path / "synth", 12, 0)


def test_the_score_is_the_distance_of_the_pixels_to_both_splits(
    synth: Path, tmp_path: Path
) -> None:
    result = scoring.fid(synth, "digits", extractor="pixels", cache_dir=tmp_path / "cache")

    def statistics(images: torch.Tensor) -> FeatureStatistics:
        return FeatureStatistics.of(images.flatten(1) / 255.0)

    ours = statistics(load_images(synth).images)
    for split, n in (("train", 1438), ("test", 359)):
        reference = load_images("digits", split=split).images  # type: ignore[arg-type]
        expected = frechet_distance(ours, statistics(reference))
        assert result.scores[split].fid == pytest.approx(expected, rel=1e-6)
        assert result.scores[split].n == n
    assert (result.n, result.extractor, result.against) == (12, "pixels", "digits")


def test_a_set_is_at_distance_zero_from_itself_whatever_the_batch_size(
    synth: Path, tmp_path: Path
) -> None:
    for batch_size in (1, 5, 64):
        cache = tmp_path / str(batch_size)
        result = scoring.fid(
            synth, synth, extractor="pixels", cache_dir=cache, batch_size=batch_size
        )
        assert list(result.scores) == ["all"]
        assert result.scores["all"].fid == pytest.approx(0.0, abs=1e-9)


def test_reference_statistics_are_computed_once_and_kept_among_private_files(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = scoring.fid(synth, "digits", extractor="pixels", cache_dir=cache)
    files = sorted(path.relative_to(cache).parts[:2] for path in cache.rglob("*.npz"))
    assert files == [("private", "fid")] * 2 * 3  # of all images, and of the yardstick's two halves
    counted: list[int] = []
    plain = Measuring.statistics

    def counting(*args: object) -> dict[str, FeatureStatistics]:
        statistics = plain(*args)  # type: ignore[arg-type]
        counted.append(sum(each.count for each in statistics.values()))
        return statistics

    monkeypatch.setattr(Measuring, "statistics", counting)
    assert scoring.fid(synth, "digits", extractor="pixels", cache_dir=cache) == first
    assert counted == [12]
    # As many real images as there are synthetic ones make the yardstick.
    more = write_images(tmp_path / "more", 15, 1)
    scoring.fid(more, "digits", extractor="pixels", cache_dir=cache)
    assert counted == [12, 15, 30, 30]


def test_a_change_of_one_reference_pixel_is_noticed(synth: Path, tmp_path: Path) -> None:
    real = write_images(tmp_path / "real", 6, 1)
    before = scoring.fid(synth, real, extractor="pixels", cache_dir=tmp_path / "cache")
    pixels = np.asarray(Image.open(real / "003.png")).copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    Image.fromarray(pixels).save(real / "003.png")
    after = scoring.fid(synth, real, extractor="pixels", cache_dir=tmp_path / "cache")
    assert before.scores["all"].digest != after.scores["all"].digest
    assert before.scores["all"].fid != after.scores["all"].fid


def test_damaged_cache_files_are_computed_anew(synth: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = scoring.fid(synth, "digits", extractor="pixels", cache_dir=cache)
    files = sorted(cache.rglob("*.npz"))
    for file in files[::2]:
        file.write_bytes(file.read_bytes()[:-200])
    for file in files[1::2]:
        file.write_bytes(b"no archive")
    assert scoring.fid(synth, "digits", extractor="pixels", cache_dir=cache) == before
    counts = []
    for file in files:
        with np.load(file, allow_pickle=False) as mended:
            counts.append(int(mended["count"]))
    assert sorted(counts) == [12] * 4 + [359, 1438]


def test_a_cache_that_cannot_be_written_costs_no_score(synth: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    listener = Listener()
    result = scoring.fid(
        synth, synth, extractor="pixels", cache_dir=tmp_path / "cache", reporter=listener
    )
    assert result.scores["all"].fid == pytest.approx(0.0, abs=1e-9)
    assert any("the reference's statistics are not kept" in text for text in listener.warnings)


def test_few_images_and_the_missing_privacy_claim_are_warned_of(
    synth: Path, tmp_path: Path
) -> None:
    listener = Listener()
    scoring.fid(synth, synth, extractor="pixels", cache_dir=tmp_path, reporter=listener)
    few, claim = listener.warnings
    assert "12 synthetic images: below 10,000" in few
    assert "not covered by the samples' privacy claim" in claim


def test_a_divided_folder_gives_a_score_for_each_split(synth: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    write_images(real / "train" / "a", 5, 2)
    write_images(real / "test" / "a", 4, 3)
    both = scoring.fid(synth, real, extractor="pixels", cache_dir=tmp_path)
    assert {split: score.n for split, score in both.scores.items()} == {"train": 5, "test": 4}
    one = scoring.fid(synth, real, split="test", extractor="pixels", cache_dir=tmp_path)
    assert one.scores == {"test": both.scores["test"]}


def test_the_reference_is_brought_to_the_samples_size(tmp_path: Path) -> None:
    larger = write_images(tmp_path / "larger", 4, 4, size=10)
    smaller = write_images(tmp_path / "smaller", 5, 5, size=8)
    result = scoring.fid(larger, smaller, extractor="pixels", cache_dir=tmp_path)
    resized = load_images(smaller, image_size=10).images.flatten(1) / 255.0
    ours = load_images(larger).images.flatten(1) / 255.0
    expected = frechet_distance(FeatureStatistics.of(ours), FeatureStatistics.of(resized))
    assert result.scores["all"].fid == pytest.approx(expected, rel=1e-6)


def test_misuse_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown split 'validation'"):
        scoring.fid("x", "digits", split="validation")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="weights of Inception are given"):
        scoring.fid("x", "digits", extractor="pixels", weights=tmp_path, cache_dir=tmp_path)
    with pytest.raises(UsageError, match="batch size"):
        scoring.fid("x", "digits", extractor="pixels", batch_size=0)
    with pytest.raises(UsageError, match="unknown device 'tpu0'"):
        scoring.fid("x", "digits", extractor="pixels", device="tpu0")
    with pytest.raises(UsageError, match="unknown extractor 'scatering'") as caught:
        scoring.fid("x", "digits", extractor="scatering", cache_dir=tmp_path)
    assert "scattering" in caught.value.hint
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="no device 'cuda'"):
            scoring.fid("x", "digits", extractor="pixels", device="cuda")


def test_one_image_has_no_covariance(tmp_path: Path) -> None:
    single = write_images(tmp_path / "single", 1, 6)
    with pytest.raises(DataError, match="at least 2 images"):
        scoring.fid(single, "digits", extractor="pixels", cache_dir=tmp_path)


def test_the_further_measures_are_of_the_pixels_and_of_as_many_on_both_sides(
    synth: Path, tmp_path: Path
) -> None:
    result = scoring.fid(
        synth, "digits", extractor="pixels", cache_dir=tmp_path, kid=True, precision_recall=True
    )

    def in_random_order(images: torch.Tensor) -> torch.Tensor:
        kept = KeptFeatures(len(images))
        kept.take(torch.arange(len(images)), images.flatten(1) / 255.0)
        return kept.rows()

    ours = in_random_order(load_images(synth).images)
    for split, score in result.scores.items():
        reference = in_random_order(load_images("digits", split=split).images)  # type: ignore[arg-type]
        assert score.kid == kernel_distance(ours, reference)
        assert score.manifolds == compare_manifolds(reference[:12], ours)


def test_the_further_measures_are_in_the_result_when_asked_for(synth: Path, tmp_path: Path) -> None:
    ask = partial(scoring.fid, synth, synth, extractor="pixels", cache_dir=tmp_path)
    plain = ask().to_dict()
    assert not {"kid", "precision_recall"} & set(plain)
    kid = ask(kid=True).to_dict()
    sizes = {"subsets": 100, "subset_size": 6, "n": 12, "reference_n": 12}
    assert sizes.items() <= kid.pop("kid")["all"].items()
    manifolds = ask(precision_recall=True).to_dict()
    found = manifolds.pop("precision_recall")["all"]
    assert (found["precision"], found["recall"], found["coverage"]) == (1.0, 1.0, 1.0)
    assert (found["n"], found["k"], found["density_k"]) == (12, 3, 5)
    assert plain == kid == manifolds


def test_of_large_sets_a_random_choice_is_compared_and_its_number_stated(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "KeptFeatures", partial(KeptFeatures, most=8))
    ask = partial(scoring.fid, synth, "digits", extractor="pixels", cache_dir=tmp_path)
    score = ask(kid=True, precision_recall=True).scores["test"]
    assert score.kid is not None
    assert score.manifolds is not None
    assert (score.kid.first, score.kid.second, score.manifolds.n) == (8, 8, 8)
    assert score.fid == ask().scores["test"].fid


def test_beside_kept_statistics_only_the_chosen_images_are_looked_at(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "KeptFeatures", partial(KeptFeatures, most=30))
    seen: list[int] = []
    extract = PixelExtractor.__call__

    def seeing(self: PixelExtractor, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(PixelExtractor, "__call__", seeing)
    ask = partial(scoring.fid, synth, "digits", split="test", extractor="pixels")
    ask = partial(ask, cache_dir=tmp_path, batch_size=20)
    first = ask(kid=True, precision_recall=True)
    assert sum(seen) == 12 + 359
    seen.clear()
    assert ask(kid=True, precision_recall=True) == first
    assert seen == [12, 20, 10]
    seen.clear()
    assert ask().scores["test"].fid == first.scores["test"].fid
    assert seen == [12]


def test_extractors_do_not_share_kept_statistics(synth: Path, tmp_path: Path) -> None:
    def distances(extractor: str, cache: Path) -> list[float]:
        result = scoring.fid(synth, "digits", extractor=extractor, cache_dir=cache)
        assert result.extractor == extractor
        return [score.fid for score in result.scores.values()]

    alone = distances("scattering", tmp_path / "alone")
    assert distances("pixels", tmp_path / "shared") != alone
    assert distances("scattering", tmp_path / "shared") == alone


def test_images_too_small_for_scattering_are_refused(tmp_path: Path) -> None:
    small = write_images(tmp_path / "small", 4, 7, size=4)
    with pytest.raises(DataError, match="4x4 pixels are too small for wavelet scattering"):
        scoring.fid(small, "digits", extractor="scattering", cache_dir=tmp_path)


@pytest.mark.parametrize("asked", ["kid", "precision_recall", "by_class"])
def test_the_further_measures_are_for_one_process(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UsageError, match="--kid, --precision-recall or --by-class works in one process"
    ):
        scoring.fid("x", "digits", extractor="pixels", **{asked: True})  # type: ignore[arg-type]
