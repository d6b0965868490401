"""Which tensors canaries can judge, and that the rest are named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support import tiny

from dpdm_cli.privacy.accounting.claims import calibrate
from dpdm_cli.privacy.audit.canaries import Canaries, CanaryAudit, judge

PLAN = dataclasses.replace(
    calibrate(epsilon=5.0, delta=1e-5, dataset_size=64, expected_batch_size=64, steps=4),
    noise_multiplicity=4,
)


def judged(groups: list[str], members: list[bool], loud: str = "") -> CanaryAudit:
    """Scores of Gaussian noise of the plan, 4 higher for members; those of a `loud` tensor are not clipped."""
    noise = np.random.default_rng(0).normal(0.0, 2 * PLAN.sigma, len(groups))
    is_in = np.array(members)
    heights = np.where(np.array(groups) == loud, 4000.0, 4.0)
    return judge(noise + heights * is_in, is_in, groups, ["a", "b", "c", "d", "e"], PLAN)


def test_tensors_with_few_canaries_or_all_on_one_side_are_named() -> None:
    groups = [*"a" * 5, *"b" * 4, *"c" * 8, *"d" * 8, *["dense"] * 20]
    sides = [True, False, True, False, True, *[True, False] * 2, *[True] * 8, *[False, True] * 14]
    assert judged(groups, sides).unjudged == ("b", "c", "e")


@pytest.mark.parametrize("members", [1, 2, 4])
def test_a_tensor_that_is_judged_cannot_go_unclipped(members: int) -> None:
    groups = ["a"] * 5 + ["b"] * 40
    sides = [index < members for index in range(5)] + [True, False] * 20
    audit = judged(groups, sides, loud="a")
    assert not audit.passed
    assert "a" not in audit.unjudged
    assert judged(groups, sides).passed


def test_every_tensor_gets_as_many_canaries_as_it_has_room_for() -> None:
    network = tiny.denoiser().network
    canaries = Canaries(network, dirac=10 * 143, dense=60)
    for name, parameter in zip(canaries.names, network.parameters(), strict=True):
        assert canaries.groups.count(name) >= min(10, parameter.numel()), name
