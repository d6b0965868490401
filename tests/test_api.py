"""The package from Python: what it offers, and what `help()`, completion and type checkers see of it."""

from __future__ import annotations

import inspect
import typing

import pytest

import dpdm_cli
from dpdm_cli.choices import Preset
from dpdm_cli.keywords import keywords_shown
from dpdm_cli.sampling import sampler_presets
from dpdm_cli.training.config.settings import FIELDS, SettingOptions, TrainSettings

FUNCTIONS = [n for n in dpdm_cli.__all__ if n not in ("__version__", "PrivacyPlan")]


def test_what_is_public_is_listed() -> None:
    assert sorted(dpdm_cli.__all__) == dir(dpdm_cli)


def test_the_settings_as_keywords_are_those_of_a_run_with_their_types() -> None:
    wanted = typing.get_type_hints(TrainSettings)
    found = typing.get_type_hints(SettingOptions)
    assert list(found) == list(FIELDS)
    for name, kind in found.items():
        assert kind == typing.Optional[wanted[name]], name  # noqa: UP045


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_keyword_is_seen_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(dpdm_cli, name)).parameters.values()
    assert not [p for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert not [p for p in parameters if p.annotation is p.empty]


def test_training_and_its_dry_run_take_the_same() -> None:
    train, dry = (inspect.signature(f).parameters for f in (dpdm_cli.train, dpdm_cli.dry_run))
    assert {*train} - {*dry} == {"out", "resume", "log_losses"}
    assert all(train[name] == dry[name] for name in dry)
    assert set(FIELDS) < set(train)
    assert train["preset"].annotation in ("Preset | None", typing.Optional[Preset])  # noqa: UP045


def test_the_settings_of_a_sampler_are_keywords_of_sample() -> None:
    names = {*sampler_presets._OTHERS, *sampler_presets._CHURN}
    assert names <= set(inspect.signature(dpdm_cli.sample).parameters)


class Options(typing.TypedDict, total=False):
    width: int | None


def test_a_function_with_shown_keywords_is_called_as_before() -> None:
    @keywords_shown
    def given(name: str, **options: typing.Unpack[Options]) -> dict[str, object]:
        return {"name": name, **options}

    assert list(inspect.signature(given).parameters) == ["name", "width"]
    assert given("a", width=3) == {"name": "a", "width": 3}
    assert given("a") == {"name": "a"}
