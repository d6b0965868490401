from __future__ import annotations

import json
from typing import Any

import pytest

from dpdm_cli.diffusion.generation import SamplerSettings
from dpdm_cli.diffusion.samplers import Churn
from dpdm_cli.errors import UsageError
from dpdm_cli.sampling.sampler_presets import (
    SamplerChoice,
    choose_sampler,
    is_origin,
    paper_sampler,
)


def heun(amount: float, lowest: float, guidance: float = 0.0) -> SamplerSettings:
    churn = Churn(amount=amount, lowest=lowest, highest=50)
    return SamplerSettings(sampler="heun", steps=1000, churn=churn, guidance=guidance)


@pytest.mark.parametrize(
    ("dataset", "epsilon", "purpose", "settings"),
    [
        ("mnist", 1, "fid", heun(100, 0.05)),
        ("mnist", 1, "accuracy", heun(10, 0.1)),
        ("mnist", 10, "fid", heun(50, 0.05, 0.25)),
        ("mnist", 10, "accuracy", heun(10, 0.025)),
        ("fashion-mnist", 1, "fid", heun(50, 0.025, 1.0)),
        ("fashion-mnist", 1, "accuracy", heun(10, 0.025)),
        ("fashion-mnist", 10, "fid", heun(25, 0.2, 0.25)),
        ("fashion-mnist", 10, "accuracy", heun(10, 0.1)),
        ("celeba", 1, "fid", heun(50, 0.005)),
        ("celeba", 10, "fid", heun(50, 0.005)),
        ("celeba", 10, "accuracy", SamplerSettings(sampler="ddim", steps=1000)),
    ],
)
def test_the_papers_rows_are_taken_without_a_remark(
    dataset: str, epsilon: float, purpose: Any, settings: SamplerSettings
) -> None:
    choice = paper_sampler(dataset, purpose, epsilon=epsilon, image_size=None)
    assert choice.settings == settings
    assert choice.remark == ""
    assert f"{dataset} at epsilon {epsilon}" in choice.origin


def test_a_claim_a_little_below_the_target_is_at_the_target() -> None:
    assert paper_sampler("mnist", "fid", epsilon=9.9731).remark == ""


@pytest.mark.parametrize(
    ("epsilon", "nearest"), [(0.2, 1), (3.0, 1), (3.3, 10), (100.0, 10), (None, 10)]
)
def test_without_a_row_for_the_budget_the_nearest_on_a_log_scale_is_taken_and_named(
    epsilon: float | None, nearest: int
) -> None:
    choice = paper_sampler("mnist", "fid", epsilon=epsilon)
    assert choice.settings == paper_sampler("mnist", "fid", epsilon=nearest).settings
    assert "no row" in choice.remark
    assert f"mnist at epsilon {nearest}" in choice.remark


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "custom"])
@pytest.mark.parametrize(("purpose", "kind"), [("fid", "stochastic-ddim"), ("accuracy", "heun")])
def test_without_a_row_for_the_data_set_the_choice_says_it_is_not_the_papers(
    dataset: str, purpose: Any, kind: str
) -> None:
    choice = paper_sampler(dataset, purpose, epsilon=10)
    assert choice.settings.sampler == kind
    assert f"no row for {dataset}" in choice.remark
    assert str(choice.settings) in choice.remark
    assert "not from the paper" in choice.origin


def test_another_image_size_than_the_rows_is_named() -> None:
    remark = paper_sampler("celeba", "fid", epsilon=10, image_size=64).remark
    assert "32" in remark
    assert "64" in remark
    assert paper_sampler("celeba", "fid", epsilon=10, image_size=32).remark == ""


def test_settings_by_name_override_the_papers_one_by_one() -> None:
    choice = choose_sampler(
        purpose="fid",
        dataset="mnist",
        epsilon=10,
        overrides={"steps": 40, "s_min": 0.2, "churn": None},
    )
    assert choice.settings == SamplerSettings(
        sampler="heun", steps=40, guidance=0.25, churn=Churn(amount=50, lowest=0.2, highest=50)
    )
    assert "s_min, steps as given" in choice.origin


def test_a_sampler_without_churn_drops_the_papers_churn() -> None:
    choice = choose_sampler(
        purpose="fid", dataset="mnist", epsilon=10, overrides={"sampler": "ddim"}
    )
    assert choice.settings == SamplerSettings(sampler="ddim", steps=1000, guidance=0.25)


def test_nothing_said_is_heun_with_30_steps() -> None:
    assert choose_sampler().settings == SamplerSettings(sampler="heun", steps=30)


@pytest.mark.parametrize("sampler", ["ddim", "stochastic-ddim", "euler"])
def test_a_sampler_named_alone_has_as_many_steps_as_cost_about_the_same(sampler: str) -> None:
    choice = choose_sampler(overrides={"sampler": sampler})
    assert (
        choice.settings
        == SamplerSettings(sampler=sampler)
        == SamplerSettings(sampler=sampler, steps=50)
    )
    assert choice.origin == "default; sampler as given"
    assert choose_sampler(overrides={"sampler": sampler, "steps": 7}).settings.steps == 7


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"base": SamplerSettings(), "purpose": "fid"}, "both"),
        ({"purpose": "speed"}, "speed"),
        ({"overrides": {"stepz": 3}}, "stepz"),
        ({"overrides": {"sampler": "ddim", "churn": 10.0}}, "churn"),
        ({"overrides": {"sampler": "heun", "s_min": 0.1}}, "s_min"),
        ({"overrides": {"steps": 0}}, "step"),
        ({"overrides": {"sampler": "heun", "churn": -1.0}}, "churn"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        choose_sampler(**values)


CHOICES = (
    choose_sampler(),
    choose_sampler(SamplerSettings(sampler="euler", steps=7, churn=Churn(amount=3))),
    choose_sampler(overrides={"steps": 3, "guidance": 0.5}),
    choose_sampler(has_prior=True, overrides={"temperature": 1.7}),
    choose_sampler(overrides={"deformation": 0.7}),
    choose_sampler(purpose="fid", dataset="mnist", epsilon=10),
    choose_sampler(purpose="accuracy", dataset="celeba", epsilon=1, overrides={"steps": 9}),
    choose_sampler(purpose="fid", overrides={"sampler": "heun", "churn": 2.0, "s_min": 0.1}),
)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.origin)
def test_what_is_written_of_a_choice_is_understood_and_nothing_else(choice: SamplerChoice) -> None:
    stored = json.loads(json.dumps(choice.settings.to_dict()))
    assert SamplerSettings.from_dict(stored) == choice.settings
    assert is_origin(choice.origin)
    for foreign in ({"note": "Ada"}, {"steps": True}, {"steps": 2.5}, {"churn": "Ada"}):
        with pytest.raises((LookupError, TypeError, ValueError, AttributeError, UsageError)):
            SamplerSettings.from_dict({**stored, **foreign})
    for text in (f"{choice.origin} Ada", f"Ada {choice.origin}", f"{choice.origin}; Ada as given"):
        assert not is_origin(text)
