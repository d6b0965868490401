"""Canaries: records whose gradients are known, included by a coin flip and searched for in what the step releases.

A canary's loss is a large multiple of a few of the network's own weights, read through the layers themselves, so that
its gradient takes the same path as any other: layer backward, mean over the copies, clip, sum, noise, divisor. Dirac
canaries have one weight each and together cover every tensor; dense ones have one in every tensor, with equal energy,
so that a clip which takes tensors one by one lets more of them through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.audit import layer_reads, lower_bounds
from dpdm_cli.privacy.audit.lower_bounds import Scores
from dpdm_cli.privacy.audit.replay import in_precision
from dpdm_cli.privacy.entropy import bernoulli
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.step import PrivateStep

LOUDNESS = 1e3
"""A canary's gradient before the clip, in units of the weights it reads."""

DENSE = "dense"
POOL = "all"
FAILING_RISK = 1e-4
SHOWN_RISK = 0.05
_FEWEST = 5
"""Canaries of a group: among four, an unclipped tensor stood out at that risk in 8 of 80 draws."""


@dataclass(frozen=True)
class Bounds:
    """Lower bounds on epsilon from one group of canaries, each wrong with the probability asked for.

    Attributes:
        group: all, dense, or the tensor that the canaries sit in.
        taken, left_out: numbers of canaries.
        one_run: free of assumptions; None for a single tensor, where it could never fail.
        clopper_pearson, gaussian_mean: under a Gaussian trade-off.
    """

    group: str
    taken: int
    left_out: int
    one_run: float | None
    clopper_pearson: float
    gaussian_mean: float

    @property
    def highest(self) -> float:
        """The strongest of them."""
        return max(self.one_run or 0.0, self.clopper_pearson, self.gaussian_mean)


@dataclass(frozen=True)
class CanaryAudit:
    """What the canaries show.

    Attributes:
        claimed: epsilon of the audit's plan.
        shown: bounds at 95 % for all canaries and for the dense ones.
        worst: the group with the highest bound at the risk at which an audit fails, that risk shared among groups.
        taken, left_out: scores in units of what one step adds to them without noise.
        unjudged: tensors with too few canaries of their own, or all of them on one side: a leak of such a tensor can
            show only in the pool.
        ideal: what Gaussian scores of exactly the claimed strength would show on average, in place of `shown`.
    """

    plan: PrivacyPlan
    claimed: float
    shown: tuple[Bounds, ...]
    worst: Bounds
    taken: Scores
    left_out: Scores
    unjudged: tuple[str, ...]
    ideal: float

    @property
    def passed(self) -> bool:
        """Whether no bound of `worst` exceeds the claim."""
        return self.worst.highest <= self.claimed


class Canaries:
    """The weights that each canary reads.

    Args:
        network: as for `PerExampleGradients`.
        dirac, dense: how many of each; fewer where the network has not enough weights.
    """

    def __init__(self, network: nn.Module, *, dirac: int, dense: int) -> None:
        per_example = PerExampleGradients(network)
        self.names = per_example.names
        sizes = [p.numel() for p in per_example.parameters]
        used = [0] * len(sizes)
        # Coordinates of a tensor are taken at equal distances, none twice: scores stay independent.
        strides = [max(1, size // (1 + dense + math.ceil(dirac / len(sizes)))) for size in sizes]
        self.reads: list[dict[int, tuple[int, float]]] = []
        self.groups: list[str] = []

        def take(tensor: int) -> int | None:
            place = used[tensor] * strides[tensor]
            if place >= sizes[tensor]:
                return None
            used[tensor] += 1
            return place

        for number in range(dense):
            # A tensor of few weights is left to the Dirac canaries.
            places = {
                tensor: place
                for tensor, size in enumerate(sizes)
                if size >= 2 * dense and (place := take(tensor)) is not None
            }
            share = 1 / math.sqrt(len(places))
            self.reads.append(
                {t: (p, -share if (t + number) % 2 else share) for t, p in places.items()}
            )
            self.groups.append(DENSE)
        while len(self.reads) < dense + dirac:
            before = len(self.reads)
            for tensor, name in enumerate(self.names):
                if len(self.reads) < dense + dirac and (place := take(tensor)) is not None:
                    self.reads.append({tensor: (place, 1.0)})
                    self.groups.append(name)
            if len(self.reads) == before:
                break
        self._layers = layer_reads.place_of(network, per_example.parameters)

    def __len__(self) -> int:
        return len(self.reads)

    def losses(self, indices: Tensor, copies: int) -> Tensor:
        """Losses [b] of some canaries, each the mean over its copies."""
        rows = indices.repeat_interleave(copies).tolist()
        total = torch.zeros(len(rows), device=indices.device)
        for layer, tensors in self._layers.items():
            weight, bias = (
                [self.reads[row].get(tensors.get(name, -1)) for row in rows]
                for name in ("weight", "bias")
            )
            if any(weight) or any(bias):
                total = total + _read_places(layer, weight, bias, indices.device)
        return LOUDNESS * total.view(len(indices), copies).mean(1)

    def scores(self, release: list[Tensor]) -> Scores:
        """How much of each canary is in a release, given for each tensor, flat."""
        values = [part.cpu().numpy() for part in release]
        return np.array(
            [sum(w * float(values[t][p]) for t, (p, w) in reads.items()) for reads in self.reads]
        )


def play(
    network: nn.Module,
    canaries: Canaries,
    plan: PrivacyPlan,
    *,
    copies: int,
    micro_batch: int,
    workers: int = 1,
    bf16: bool = False,
    progress: Any = None,
) -> CanaryAudit:
    """Flip a coin for each canary, run the real step for the whole plan on those that are in, and bound epsilon.

    Args:
        plan: of the audit itself, at sampling rate 1.
        copies: K of the losses.
        bf16: whether they are computed with autocast to bfloat16.
        progress: called after each step.
    """
    if plan.sample_rate != 1:
        raise ValueError("canaries are scored for plans that take every record in every step")
    members = torch.from_numpy(bernoulli(0.5, len(canaries)))
    device = next(network.parameters()).device
    members = members.to(device)
    step = PrivateStep(
        network, Ledger(plan), records=len(members), micro_batch=micro_batch, workers=workers
    )
    losses = in_precision(lambda indices: canaries.losses(members[indices], copies), device, bf16)
    scores = np.zeros(len(canaries))
    for _ in range(plan.steps):
        step(losses)
        released = [
            p.grad.flatten() * plan.divisor
            for p in step.per_example.parameters
            if p.grad is not None
        ]
        scores += canaries.scores(released) / plan.clip_norm
        if progress:
            progress()
    for parameter in network.parameters():
        parameter.grad = None
    is_in = np.zeros(len(canaries), bool)
    is_in[members.cpu().numpy()] = True
    return judge(scores, is_in, canaries.groups, canaries.names, plan)


def judge(
    scores: Scores,
    is_in: np.ndarray[Any, np.dtype[np.bool_]],
    groups: list[str],
    tensors: list[str],
    plan: PrivacyPlan,
) -> CanaryAudit:
    """Compare what the scores prove with what the plan claims.

    Args:
        groups: of each canary, dense or the tensor it sits in.
        tensors: all that the network has.
    """
    claimed = claim(plan).epsilon
    halfway = plan.steps / 2  # a canary adds 1 to its score in each step, before the noise
    kinds = np.array(groups)
    members: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {
        POOL: np.ones(len(scores), bool),
        **{name: kinds == name for name in dict.fromkeys(groups)},
    }
    usable = {
        name: chosen
        for name, chosen in members.items()
        if (chosen & is_in).any() and (chosen & ~is_in).any() and chosen.sum() >= _FEWEST
    }

    def bounds(name: str, risk: float) -> Bounds:
        taken, left_out = scores[usable[name] & is_in], scores[usable[name] & ~is_in]
        return Bounds(
            group=name,
            taken=len(taken),
            left_out=len(left_out),
            one_run=lower_bounds.one_run(taken, left_out, plan.delta, risk)
            if name in (POOL, DENSE)
            else None,
            clopper_pearson=lower_bounds.clopper_pearson(
                taken, left_out, halfway, plan.delta, risk
            ),
            gaussian_mean=lower_bounds.gaussian_mean(taken, left_out, plan.delta, risk),
        )

    # The risk at which correct code would fail: half of it for all canaries together, the rest for the other groups,
    # in each shared among three bounds.
    shares = {name: FAILING_RISK / 2 / 3 / max(1, len(usable) - 1) for name in usable}
    shares[POOL] = FAILING_RISK / 2 / 3
    judged = [bounds(name, shares[name]) for name in usable]
    return CanaryAudit(
        plan=plan,
        claimed=claimed,
        shown=tuple(bounds(name, SHOWN_RISK) for name in (POOL, DENSE) if name in usable),
        worst=max(judged, key=lambda bounds: bounds.highest),
        taken=scores[is_in],
        left_out=scores[~is_in],
        unjudged=tuple(name for name in tensors if name not in usable),
        ideal=_ideal(int(is_in.sum()), int((~is_in).sum()), plan),
    )


def _ideal(taken: int, left_out: int, plan: PrivacyPlan) -> float:
    """The Gaussian-mean bound at 95 % when the scores are exactly as far apart as the plan allows."""
    quantiles = [
        torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).numpy()
        for n in (taken, left_out)
    ]
    mu = math.sqrt(plan.steps) / plan.sigma
    return lower_bounds.gaussian_mean(quantiles[0] + mu, quantiles[1], plan.delta, SHOWN_RISK)


def _read_places(
    layer: nn.Module,
    weight: list[tuple[int, float] | None],
    bias: list[tuple[int, float] | None],
    device: torch.device,
) -> Tensor:
    """For each row the sum of its chosen weights of a layer, times their factors: [R]."""
    rows = len(weight)
    shape, outputs = layer_reads.inputs_of(layer), layer_reads.outputs_of(layer)
    count = math.prod(shape)
    impulse = torch.zeros(rows, count)
    factors, biases = torch.zeros(rows, outputs), torch.zeros(rows, outputs)
    for row, read in enumerate(weight):
        if read is not None:
            place, factor = read
            if isinstance(layer, nn.Embedding):
                source, target = divmod(place, outputs)
            else:
                target, source = divmod(place, count)
            impulse[row, source], factors[row, target] = 1.0, factor
    for row, read in enumerate(bias):
        if read is not None:
            biases[row, read[0]] = read[1]
    impulse = impulse.view(rows, *shape)
    return layer_reads.read(layer, *(part.to(device) for part in (impulse, factors, biases)))
