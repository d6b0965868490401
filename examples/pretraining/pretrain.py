"""Train the network that `--init procedural` starts from: on images drawn by a program, and nothing else.

    python examples/pretraining/pretrain.py procedural-grey.safetensors --images 3e6

In each round new families of images (`families.py`) take the place of private classes: their means and covariances are
released with noise of a random size, by the code that does so for private images, and become the denoiser's prior. The
network is shown the prior's estimate beside the noisy image and is told no class, so that it learns how images go on
from a Gaussian, whatever they show. Goes on where it was stopped; the same seed gives the same weights on one machine.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from families import Family
from shapes import Dice
from torch import Tensor

from dpdm_cli.checkpoint import read_tensors, write_tensors
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.ema import EMA
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.training.config.network import network_config
from dpdm_cli.training.config.settings import preset_settings, where_large
from dpdm_cli.training.warm_start import learn_prior, new_prior

FAMILIES = 32
IMAGES = 300  # of each family
STEPS = 200  # on them
BATCH = 128
LEARNING_RATE = 2e-3
WARM_UP = 200  # steps
DECAY = 0.996
LARGEST_GRADIENT = 1.0
NOISE = (0.05, 1.5)  # of the moments; 1 to 30 for classes of 6,000 images
LEVELS = EDM(p_mean=0.0, p_std=1.3)
CPU = torch.device("cpu")
UNSEEN = 1 << 40  # seeds from here on are of families that are only looked at


class Round:
    """Images of new families and the prior that their noisy moments make."""

    def __init__(self, seed: int, size: int, families: int = FAMILIES) -> None:
        drawn = torch.cat(
            [Family(seed * FAMILIES + number, size).draw(IMAGES) for number in range(families)]
        )
        names = tuple(str(number) for number in range(families))
        self.images = ImageSet(
            name="families",
            images=((drawn + 1) * 127.5).round().to(torch.uint8),
            labels=torch.arange(families).repeat_interleave(IMAGES),
            classes=names,
        )
        dice = Dice(seed)
        plan = PrivacyPlan(
            dataset_size=len(drawn),
            expected_batch_size=1,
            steps=1,
            sigma=1.0,
            delta=1e-9,
            warm_start="moments",
            warm_sigma=dice.scale(*NOISE),
        )
        self.prior = new_prior((1, size, size), families)
        learn_prior(self.prior, self.images, Ledger(plan), entropy=random.Random(seed).randbytes)
        self._dice, self._seed = dice, seed

    def losses(self, network: UNet, step: int, count: int) -> Tensor:
        """Of some images, drawn anew in each step, [count]; on the network's device."""
        device = network.head.weight.device
        chosen = self._dice.choice(torch.ones(len(self.images.images)), count)
        assert self.images.labels is not None
        return denoising_losses(
            Denoiser(network, LEVELS, self.prior.to(device), sees_prior=True),
            self.images.rows(chosen).to(device).float() / 127.5 - 1,
            self.images.labels[chosen].to(device),
            1,
            KeyedNoise((self._seed, step), torch.arange(count, device=device)),
        )


class Pretraining:
    """The network, its running average and Adam, and how far they are.

    Args:
        size: side of the images in pixels.
        steps: of the whole training.
        seed: gives everything.
        device: where the network is; families are drawn on the CPU.
    """

    def __init__(self, size: int, steps: int, seed: int, device: torch.device = CPU) -> None:
        of_side, _ = where_large("small", size)
        settings = replace(preset_settings("small", "mnist", 10.0), init="procedural", **of_side)
        blank = torch.zeros(1, 1, size, size, dtype=torch.uint8)
        images = ImageSet(name="blank", images=blank, labels=None, classes=())
        self.config: UNetConfig = network_config(images, settings)
        torch.manual_seed(seed)
        self.network = UNet(self.config).to(device, memory_format=torch.channels_last)
        self.average = EMA(self.network, DECAY)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        self.steps, self.seed, self.done = steps, seed, 0

    def round(self) -> float:
        """Train on new families for `STEPS` steps; gives the mean loss."""
        number = self.done // STEPS
        data = Round(self.seed * (1 << 20) + number, self.config.image_size)
        losses = []
        for _ in range(min(STEPS, self.steps - self.done)):
            for group in self.adam.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (self.done + 1) / WARM_UP)
                group["lr"] *= 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
            loss = data.losses(self.network, self.done, BATCH).mean()
            self.adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
            self.adam.step()
            self.average.update(self.network, self.done)
            self.done += 1
            losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    @torch.no_grad()
    def unseen(self) -> tuple[float, float]:
        """Mean losses on families it is not trained on: of the priors alone, and of the averaged network."""
        data = Round(UNSEEN // FAMILIES, self.config.image_size, families=8)
        alone = UNet(self.config).to(self.network.head.weight.device)
        alone.head.weight.zero_()
        found = []
        for network in (alone, self.average.averaged):
            data._dice = Dice(0)
            found.append(float(data.losses(network, 0, 1000).mean()))
        return found[0], found[1]

    def save(self, path: Path) -> None:
        """The averaged weights, as they are shipped."""
        facts = {"network": asdict(self.config), "images": self.done * BATCH, "seed": self.seed}
        write_tensors(path, dict(self.average.averaged.state_dict()), "start", facts)

    def save_state(self, path: Path) -> None:
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.averaged.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = self.adam.state[parameter][moment]
        facts = {"done": self.done, "steps": self.steps, "seed": self.seed}
        write_tensors(path, tensors, "pretraining", facts)

    def restore(self, path: Path) -> None:
        """Raises SystemExit: another training was begun there."""
        tensors, facts = read_tensors(path, "pretraining")
        if (facts["steps"], facts["seed"]) != (self.steps, self.seed):
            raise SystemExit(f"{path} is of another training: remove it, or repeat its options")

        def part(prefix: str) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network/"))
        self.average.averaged.load_state_dict(part("average/"))
        for name, parameter in self.network.named_parameters():
            self.adam.state[parameter] = {
                "step": torch.tensor(float(facts["done"])),
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }
        self.done = facts["done"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the weights; OUT.state keeps what going on needs")
    parser.add_argument("--images", type=float, default=3e6, help="noisy images to train on")
    parser.add_argument("--size", type=int, default=28, help="their side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = max(1, round(arguments.images / BATCH))
    device = resolve_device(arguments.device)
    training = Pretraining(arguments.size, steps, arguments.seed, device)
    state = arguments.out.with_name(arguments.out.name + ".state")
    if state.exists():
        training.restore(state)
    started = time.process_time()
    while training.done < steps:
        loss = training.round()
        training.save_state(state)
        training.save(arguments.out)
        line = f"{training.done * BATCH:,} images, loss {loss:.4f}"
        if training.done // STEPS % 10 == 0 or training.done == steps:
            alone, network = training.unseen()
            line += f"; on unseen families {network:.4f}, {alone:.4f} by their Gaussians alone"
        print(f"{line}; {time.process_time() - started:,.0f} s of processor time", flush=True)
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
