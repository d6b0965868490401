"""Chosen shares of classes: kept by every beginning of a set, stated, and never guessed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawn import contents, draw, save

from dpdm_cli.data import load_images
from dpdm_cli.errors import UsageError
from dpdm_cli.sampling.proportions import check_shares, parse_proportions, turns


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=25))
def test_every_beginning_has_its_shares_within_one_image(parts: list[int]) -> None:
    parts[0] += 10_000 - sum(parts)  # the rest of a whole
    shares = check_shares([part / 10_000 for part in parts])
    order = turns(shares)
    counts = np.cumsum(np.eye(len(parts), dtype=np.int64)[list(order)], axis=0)
    numbers = np.arange(1, len(order) + 1)[:, None]
    assert (abs(np.array(parts) * numbers - 10_000 * counts) < 10_000).all()
    assert (counts[-1] * 10_000 == np.array(parts) * len(order)).all()


def test_equal_shares_take_turns() -> None:
    assert turns((0.25,) * 4) == (0, 1, 2, 3)
    assert turns((1.0,)) == (0,)
    assert turns((0.333, 0.333, 0.333)) == (0, 1, 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "drawn", "counts"),
    [
        ({"proportions": [0.5, 0.3, 0.2]}, ["cat", "dog", "eel"], [15, 9, 6]),
        ({"proportions": {"eel": 0.9, "cat": 0.1}}, ["eel", "cat"], [27, 3]),
        ({"proportions": [0.9, 0.1], "labels": ["dog", "eel"]}, ["dog", "eel"], [27, 3]),
    ],
)
@pytest.mark.parametrize("format", ["png", "npz", "zip", "parquet"])
def test_a_set_has_the_shares_that_it_states(
    checkpoint: Path,
    tmp_path: Path,
    format: str,
    options: dict[str, Any],
    drawn: list[str],
    counts: list[int],
) -> None:
    result = draw(checkpoint, tmp_path / "out", format=format, **options)
    images = load_images(result.images, classes=("cat", "dog", "eel"))
    assert images.labels is not None
    found = Counter(images.classes[label] for label in images.labels)
    assert [found[name] for name in drawn] == counts
    assert found.total() == 30
    stored = json.loads((tmp_path / "out" / "metadata.json").read_text())
    given = options["proportions"]
    assert stored["drawn"] == result.to_dict()["drawn"] == drawn
    shares = given.values() if isinstance(given, dict) else given
    assert stored["proportions"] == dict(zip(drawn, shares, strict=True))


def test_more_images_add_to_fewer_and_shards_are_parts(checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"proportions": [0.6, 0.3, 0.1]}
    draw(checkpoint, tmp_path / "whole", **options)
    draw(checkpoint, tmp_path / "few", n=11, **options)
    draw(checkpoint, tmp_path / "part", shard=(2, 3), **options)
    whole = contents(tmp_path / "whole").items()
    for part in ("few", "part"):
        found = {k: v for k, v in contents(tmp_path / part).items() if k.startswith("train/")}
        assert found
        assert found.items() <= whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proportions": [0.5, 0.5]}, "2 proportions are given for 3 classes"),
        ({"proportions": [0.5, 0.3, 0.1]}, "sum to 0.9"),
        ({"proportions": [0.5, 0.5, 0.0]}, "no share"),
        ({"proportions": [1.5, -0.3, -0.2]}, "no share"),
        ({"proportions": [0.33333, 0.33333, 0.33334]}, "no share"),
        ({"proportions": [float("nan"), 0.5, 0.5]}, "no share"),
        ({"proportions": [True, 0.5, 0.5]}, "no share"),
        ({"proportions": {"cow": 1.0}}, "knows no class 'cow'"),
        ({"proportions": {"cat": 1.0}, "labels": ["cat"]}, "labels are given"),
        ({"proportions": [0.5, 0.5], "labels": ["cat", "cat"]}, "repeated"),
    ],
)
def test_shares_that_make_no_sense_are_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        draw(checkpoint, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_without_classes_has_no_shares(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "m.safetensors", classes=())
    with pytest.raises(UsageError, match="knows no classes"):
        draw(checkpoint, tmp_path / "out", proportions=[1.0])


def test_shares_are_given_in_order_or_by_name() -> None:
    assert parse_proportions("0.7,0.3") == [0.7, 0.3]
    assert parse_proportions("a=b=0.7, c=0.3") == {"a=b": 0.7, "c": 0.3}
    for text in ("", "a", "0.7,b=0.3", "a=0.5,a=0.5", "a=x", "0.7,"):
        with pytest.raises(UsageError):
            parse_proportions(text)
