"""Warm start: noisy class means and covariances of low frequencies, and the Gaussian prior they make.

The idea of spending a little of the budget on class means first is DP-FETA's (Li et al. 2025). Here the statistics
are not used to draw training images but as the denoiser's preconditioning, and covariances are released with the
means. What is released are sums and counts; everything after that is post-processing and costs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.pixels import to_floats
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.gaussian_prior import GaussianPrior
from dpdm_cli.errors import UsageError
from dpdm_cli.privacy.class_sums import noisy_class_squares, noisy_class_sums
from dpdm_cli.privacy.entropy import Entropy
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.training.records import People

# All of these are public: chosen on MNIST and Fashion-MNIST, which are, and for images of any kind.
COEFFICIENTS = 196
DIRECTIONS = 64
_COUNT_SHARE = 0.5  # of the norm of 1 that a record has, for its count
_RADIUS = 0.35  # times sqrt(pixels): where deviations from the mean are clipped
_ELSEWHERE = 0.06  # variance of all other directions, and the smallest
_AFTER_CLIP = 1.2  # variances are larger than they look after the clip
_AROUND_MEANS = 1 / 6  # variance when there are means alone

_MICRO_BATCH = 4096


def new_prior(shape: tuple[int, int, int], classes: int) -> GaussianPrior:
    """A prior that knows nothing yet: the same for all classes, as EDM's.

    Raises:
        UsageError: the images are too large for one.
    """
    try:
        return GaussianPrior(shape, classes, COEFFICIENTS, DIRECTIONS)
    except ValueError as error:
        raise UsageError(
            f"no warm start for such images: {error}", "choose --warm-start none, or --image-size"
        ) from error


def learn_prior(
    prior: GaussianPrior,
    images: ImageSet,
    ledger: Ledger,
    people: People | None = None,
    entropy: Entropy = os.urandom,
    processes: Processes = ALONE,
) -> None:
    """Make the releases of the plan's warm start, and fill `prior` from them.

    Args:
        prior: on the CPU; see `new_prior`.
        images: all private images.
        ledger: its plan's warm start is means or moments.
        people: whose the images are, where a record is a person: their images count 1 together.
        entropy: source of secret bytes.
        processes: each of them goes over its span of the images.

    Raises:
        PrivacyError: the warm start has been made.
    """
    plan = ledger.plan
    persons = None if people is None else people.persons.cpu()
    classes, size = max(1, len(images.classes)), prior.low.size
    radius = math.sqrt(math.prod(prior.low.shape))  # no image in [-1, 1] has a larger norm
    of_count, of_mean = _COUNT_SHARE, math.sqrt(1 - _COUNT_SHARE**2) / radius

    def coefficients() -> Iterator[tuple[Tensor, ...]]:
        span = processes.span(len(images.images))
        for rows in torch.split(torch.arange(span.start, span.stop), _MICRO_BATCH):
            labels = torch.zeros_like(rows) if images.labels is None else images.labels[rows]
            whose = () if persons is None else (persons[rows],)
            yield prior.low.coefficients(to_floats(images.rows(rows))), labels, *whose

    def counted() -> Iterator[tuple[Tensor, ...]]:
        for rows, *rest in coefficients():
            count = torch.full((len(rows), 1), of_count)
            yield torch.cat([count, of_mean * rows], dim=1), *rest

    of_all: dict[str, Any] = {"classes": classes, "entropy": entropy, "processes": processes}
    of_all["vectors_of"] = None if people is None else people.images_of.cpu()
    sums = noisy_class_sums(ledger, counted(), size=1 + size, **of_all)
    assert plan.warm_sigma is not None
    # A class may have no image: then its count is noise, and its mean must not be noise divided by almost nothing.
    least = max(4 * plan.warm_sigma / of_count, 0.02 * plan.dataset_size / classes)
    counts = (sums[:, 0] / of_count).clamp(min=least)
    means = sums[:, 1:] / of_mean / counts[:, None]
    if plan.warm_start == "means":
        covariances = torch.eye(size).double().repeat(classes, 1, 1) * _AROUND_MEANS
        _fill(prior, counts, means, covariances, elsewhere=_AROUND_MEANS)
        return

    reach = _RADIUS * radius

    def deviations() -> Iterator[tuple[Tensor, ...]]:
        for rows, labels, *whose in coefficients():
            yield (rows - means[labels].float()) / reach, labels, *whose

    squares = noisy_class_squares(ledger, deviations(), size=size, **of_all)
    scale = reach**2 / counts
    covariances = covariances_from(squares * scale[:, None, None], plan.warm_sigma * scale)
    _fill(prior, counts, means, _AFTER_CLIP * covariances, elsewhere=_ELSEWHERE)


def covariances_from(noisy: Tensor, noise: Tensor) -> Tensor:
    """Covariances behind noisy ones.

    Each class is drawn towards the mean of all by as much as the noise explains of its distance (James and Stein 1961).
    Eigenvalues are then corrected for what noise adds to them (Benaych-Georges and Nadakuditi 2011, arXiv 0910.2120,
    for a symmetric Gaussian matrix), and those that noise alone would give are dropped.

    Args:
        noisy: [Y, d, d], symmetric.
        noise: standard deviation of their diagonals, [Y]; off the diagonal it is sqrt(2) times smaller.

    Returns:
        [Y, d, d], positive semi-definite.
    """
    classes, size = noisy.shape[:2]
    common = noisy.mean(0)
    own = noisy - common
    by_noise = noise**2 * size * (size + 1) / 2 * (1 - 1 / classes)
    distance = own.square().sum((1, 2)).clamp(min=torch.finfo(noisy.dtype).tiny)
    kept = (1 - by_noise / distance).clamp(min=0)
    remaining = noise * (kept**2 * (1 - 1 / classes) + 1 / classes).sqrt()
    values, vectors = torch.linalg.eigh(common + kept[:, None, None] * own)
    edge = (remaining * math.sqrt(2 * size))[:, None]  # the largest eigenvalue of noise alone
    beyond = (values + (values.square() - edge.square()).clamp(min=0).sqrt()) / 2
    values = torch.where(values > edge / 2, beyond, 0.0)
    covariances: Tensor = (vectors * values[:, None]) @ vectors.transpose(1, 2)
    return covariances


def _fill(
    prior: GaussianPrior, counts: Tensor, means: Tensor, covariances: Tensor, *, elsewhere: float
) -> None:
    """Set the Gaussian of each class, and that of all images together for no class."""
    if len(prior.means) > 1:
        shares = counts / counts.sum()
        centre = shares @ means
        between = (means - centre).T @ (shares[:, None] * (means - centre))
        within = torch.einsum("c,cij->ij", shares, covariances)
        means = torch.cat([means, centre[None]])
        covariances = torch.cat([covariances, (within + between)[None]])
    values, vectors = torch.linalg.eigh(covariances)
    k = prior.variances.shape[1]
    prior.means.copy_(means)
    prior.directions.copy_(vectors[:, :, -k:])
    prior.variances.copy_(values[:, -k:].clamp(min=elsewhere))
    prior.elsewhere.fill_(elsewhere)
