"""The denoising loss with noise multiplicity: K noisy copies, one number for each record.

DPDM, arXiv 2210.09929, equation 7: l_i = 1/K sum_k lambda(sigma_ik) |D(x_i + n_ik; sigma_ik) - x_i|^2, with the mean
over pixels for the norm. A record is one image; or several, each copy being of one of them.
"""

from __future__ import annotations

from torch import Tensor

from dpdm_cli.diffusion.denoiser import Denoiser
from dpdm_cli.diffusion.keyed_noise import KeyedNoise


def denoising_losses(
    denoiser: Denoiser,
    images: Tensor,
    labels: Tensor | None,
    copies: int,
    noise: KeyedNoise,
    *,
    label_dropout: float = 0.0,
    null_label: int = 0,
) -> Tensor:
    """One loss for each record, [B]; it depends on its images, their labels and its key alone.

    Args:
        denoiser: called once on B*K rows, example-major.
        images: clean images in [-1, 1], [B, C, H, W], B >= 1; or one for each copy, [B*K, C, H, W], record-major.
        labels: classes, one for each of `images`, or None for an unconditional model.
        copies: K, the noisy copies of a record.
        noise: source of noise levels, noise and label dropout, keyed by record.
        label_dropout: probability that a record's labels are replaced by `null_label`; drawn once a record and shared
            by its copies.
    """
    sigma = denoiser.parameterisation.noise_levels(noise.uniform(copies), noise.normal(copies))
    records = len(sigma)
    each = records * copies // len(images)
    sigma = sigma.flatten().to(images.dtype)
    clean = images.repeat_interleave(each, dim=0)
    added = noise.normal(copies, *images.shape[1:]).flatten(0, 1).to(images.dtype)
    if labels is not None:
        dropped = (noise.uniform(1).squeeze(1) < label_dropout).repeat_interleave(copies)
        labels = labels.repeat_interleave(each).masked_fill(dropped, null_label)
    denoised = denoiser(clean + sigma.view(-1, 1, 1, 1) * added, sigma, labels)
    squared_error = (denoised - clean).square().flatten(1).mean(1)
    weighted = denoiser.parameterisation.weight(sigma) * squared_error
    losses: Tensor = weighted.view(-1, copies).mean(1)
    return losses
