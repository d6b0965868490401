"""What a resumed run takes up of the one before: weights, their average, the prior and Adam's moments, by name."""

from __future__ import annotations

import torch
from torch import Tensor

from dpdm_cli.diffusion.denoiser import Denoiser
from dpdm_cli.diffusion.ema import EMA
from dpdm_cli.errors import DamagedFileError

_MOMENTS = ("exp_avg", "exp_avg_sq")


def state_of(denoiser: Denoiser, ema: EMA, adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Everything a resumed run needs beside settings and ledger. Holds no random state."""
    tensors = {f"network/{k}": v for k, v in denoiser.network.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in ema.averaged.state_dict().items()}
    if denoiser.prior is not None:
        tensors |= {f"prior/{k}": v for k, v in denoiser.prior.state_dict().items()}
    for name, parameter in denoiser.network.named_parameters():
        moments = adam.state.get(parameter, {})
        for moment in _MOMENTS:
            tensors[f"{moment}/{name}"] = moments.get(moment, torch.zeros_like(parameter))
    return tensors


def restore(
    tensors: dict[str, Tensor], done: int, denoiser: Denoiser, ema: EMA, adam: torch.optim.Adam
) -> None:
    """Put back what `state_of` gave after `done` steps.

    Raises:
        DamagedFileError: the tensors belong to another network.
    """
    expected = {name: tensor.shape for name, tensor in state_of(denoiser, ema, adam).items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise DamagedFileError("the resume state was written for another network")

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    denoiser.network.load_state_dict(under("network/"))
    ema.averaged.load_state_dict(under("average/"))
    if denoiser.prior is not None:
        denoiser.prior.load_state_dict(under("prior/"))
    stored = {moment: under(f"{moment}/") for moment in _MOMENTS}
    for name, parameter in denoiser.network.named_parameters():
        adam.state[parameter] = {
            "step": torch.tensor(float(done)),
            **{
                moment: torch.empty_like(parameter).copy_(stored[moment][name])
                for moment in _MOMENTS
            },
        }
