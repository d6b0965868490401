from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpdm_cli.data import load_images
from dpdm_cli.errors import DataError, ResourceError, UsageError
from dpdm_cli.evaluation.frechet import FeatureStatistics, frechet_distance
from dpdm_cli.runs import scoring
from dpdm_cli.runs.reporter import SilentReporter


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
    assert files == [("private", "fid")] * 2
    counted: list[int] = []
    plain = scoring._statistics

    def counting(*args: object) -> FeatureStatistics:
        statistics = plain(*args)  # type: ignore[arg-type]
        counted.append(statistics.count)
        return statistics

    monkeypatch.setattr(scoring, "_statistics", counting)
    assert scoring.fid(synth, "digits", extractor="pixels", cache_dir=cache) == first
    assert counted == [12]


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
    one, two = sorted(cache.rglob("*.npz"))
    one.write_bytes(one.read_bytes()[:-200])
    two.write_bytes(b"no archive")
    assert scoring.fid(synth, "digits", extractor="pixels", cache_dir=cache) == before
    with np.load(two, allow_pickle=False) as mended:
        assert int(mended["count"]) in (359, 1438)


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
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="no device 'cuda'"):
            scoring.fid("x", "digits", extractor="pixels", device="cuda")


def test_one_image_has_no_covariance(tmp_path: Path) -> None:
    single = write_images(tmp_path / "single", 1, 6)
    with pytest.raises(DataError, match="at least 2 images"):
        scoring.fid(single, "digits", extractor="pixels", cache_dir=tmp_path)
