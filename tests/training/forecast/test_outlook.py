"""The forecast in words: from public figures, beside rows that were measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpdm_cli.training.forecast.outlook import Figures, measured, outlook

RESULTS = Path(__file__).parents[3] / "examples" / "reproduce" / "results.jsonl"

PHOTOGRAPHS = Figures(dataset_size=2000, side=64, channels=3, classes=2, epsilon=10.0, steps=1200)
MNIST = Figures(dataset_size=60_000, side=28, channels=1, classes=10, epsilon=10.0, steps=300)

figures = st.builds(
    Figures,
    dataset_size=st.integers(1, 10**7),
    side=st.integers(1, 1024),
    channels=st.sampled_from([1, 3]),
    classes=st.integers(0, 1000),
    epsilon=st.floats(0.01, 100),
    steps=st.integers(1, 10**6),
)


def test_the_rows_are_the_last_ones_that_were_recorded() -> None:
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    last = {
        (row["dataset"], row["epsilon"]): (row["steps"], row["cnn"])
        for row in lines
        if row["budget"] in ("cpu30", "quickstart")
    }
    rows = {(r.dataset, r.figures.epsilon): (r.figures.steps, r.cnn) for r in measured()}
    assert rows == last
    assert {dataset for dataset, _ in rows} == {"digits", "mnist", "fashion-mnist"}


def test_few_colour_photographs_are_told_to_expect_noise_and_what_to_change() -> None:
    first, second, third = outlook(PHOTOGRAPHS).words
    assert first.startswith("expect noise")
    assert "no colour images" in second
    assert "--channels 1" in third
    assert "--image-size 16" in third
    assert "94,000 images" in third


def test_whoever_does_what_is_said_to_help_is_told_something_else() -> None:
    helped = (replace(PHOTOGRAPHS, channels=1, side=16), replace(PHOTOGRAPHS, dataset_size=94_000))
    assert not outlook(helped[0]).words[0].startswith("expect noise")
    for better in helped:
        assert better.hardness < 1.1 * measured()[len(measured()) // 2].figures.hardness


def test_a_measured_run_is_most_like_itself() -> None:
    found = outlook(MNIST)
    (words,) = found.words
    (itself,) = [row for row in found.rows if (row.dataset, row.figures.epsilon) == ("mnist", 10.0)]
    assert f"mnist (CNN {itself.cnn:.1f} %) at epsilon 10" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5}, "5 steps are few"),
        ({"dataset_size": 500}, "about 50 images a class"),
        ({"side": 64}, "no images as large as these"),
    ],
)
def test_what_else_is_unlike_the_measured_rows_is_said(changes: dict[str, int], words: str) -> None:
    assert words in " ".join(outlook(replace(MNIST, **changes)).words)
    assert words not in " ".join(outlook(MNIST).words)


@given(figures)
def test_anything_has_an_outlook_and_noise_comes_with_a_way_out(asked: Figures) -> None:
    said = outlook(asked)
    assert said.words
    if said.words[0].startswith("expect noise:"):
        assert any(words.startswith("what helps: ") for words in said.words)
    json.dumps(said.to_dict(), allow_nan=False)
