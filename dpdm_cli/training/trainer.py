"""The objects of one training run and how one step moves them. Knows tensors and settings; no file, no screen."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from dpdm_cli.compute.device import to_device
from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.compute.threads import workers_on
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser, with_noise_levels
from dpdm_cli.diffusion.ema import EMA
from dpdm_cli.diffusion.gaussian_prior import GaussianPrior
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.privacy.audit.checks import CHECKS
from dpdm_cli.privacy.entropy import bernoulli, secret_key
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.gradients.tuning import Tuning, tune
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.step import PrivateStep
from dpdm_cli.reporter import Reporter, SilentReporter
from dpdm_cli.training import training_state
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.plain_step import plain_step
from dpdm_cli.training.probe_records import check_before_training
from dpdm_cli.training.records import People, people_in
from dpdm_cli.training.warm_start import learn_prior, new_prior


class Trainer:
    """A denoiser in training.

    Args:
        config: the network's shape.
        settings: see `TrainSettings`.
        images: the training images, uint8. Those in memory are moved to the device and gathered there; those mapped
            from a file stay in it, and those of a micro-batch are read. Where the plan's unit is a person, it says
            whose they are.
        steps: steps of the whole run.
        ledger: of the private mechanism; None trains without privacy.
        device: where to compute.
        processes: that train it together; all of them have the same images.
        tuning: what was measured for such a run before; None measures it where the settings leave it open.
        reporter: gets the progress of that, and of the checks.
    """

    def __init__(
        self,
        config: UNetConfig,
        settings: TrainSettings,
        images: ImageSet,
        *,
        steps: int,
        sample_rate: float,
        ledger: Ledger | None,
        device: torch.device,
        processes: Processes = ALONE,
        tuning: Tuning | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.settings = settings
        self.steps = steps
        self.done = ledger.steps if ledger else 0
        self.ledger = ledger
        self.expected_batch_size = (
            ledger.plan.expected_batch_size if ledger else settings.batch_size
        )
        self._config = config
        self._rate = sample_rate
        self._set = images
        self._here = None if images.storage else images.images.to(device)
        self._labels = None if images.labels is None else images.labels.to(device)
        self._people: People | None = None
        if ledger is not None and ledger.plan.record == "person":
            people = people_in(images, "person")
            assert people is not None
            self._people = people.to(device)
        self._device = device
        self._processes = processes
        self._reporter = reporter or SilentReporter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = UNet(config)
        self._denoiser = Denoiser(
            to_device(network, device),
            with_noise_levels(
                PARAMETERISATIONS[settings.denoiser], settings.noise_mean, settings.noise_std
            ),
            self._prior(),
            sees_prior=config.sees_prior,
        )
        self._ema = EMA(self._denoiser.network, settings.ema)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        # Noise goes by a record's place in the set, and all places behind a record change when it is removed. Only
        # because nobody knows the key are a record's draws the same to others wherever it stands, and its gradient
        # all that its removal takes from the sum. A resumed run draws another key.
        self._noise_key = processes.broadcast(secret_key)
        self._seen: list[Tensor] = []
        self._workers = workers_on(device)
        self.tuning = None if settings.micro_batch else tuning or self._tuned()
        self._micro_batch = self.tuning.micro_batch if self.tuning else settings.micro_batch
        self._private_step = None
        if ledger is not None:
            self._private_step = PrivateStep(
                network,
                ledger,
                records=len(images.images if self._people is None else self._people),
                micro_batch=self._micro_batch,
                workers=self._workers,
                processes=processes,
            )

    def step(self) -> None:
        """One logical step: a noisy gradient, Adam, the running average."""
        network = self._denoiser.network
        self._seen = []
        if self._private_step is not None:
            self._private_step(self._losses)
        else:
            share = self._processes.scatter_indices(self._drawn).to(self._device)
            plain_step(
                network, self._losses, share, self._micro_batch, self._workers, self._processes
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()
        self._ema.update(network, self.done)
        self.done += 1

    def _losses(self, indices: Tensor) -> Tensor:
        """Losses of some records [b]; each depends on its own images, labels and key alone."""
        noise = KeyedNoise((self._noise_key, self.done), indices)
        rows = indices
        if self._people is not None:
            rows = self._people.choose(indices, self.settings.noise_multiplicity, noise)
        if self._here is not None:
            images = self._here[rows]
        else:
            each, back = torch.unique(rows.cpu(), return_inverse=True)
            images = self._set.rows(each)[back].to(self._device)
        labels = None if self._labels is None else self._labels[rows]
        losses = self._losses_of(images, labels, noise)
        self._seen.append(losses.detach())
        return losses

    def _losses_of(self, images: Tensor, labels: Tensor | None, noise: KeyedNoise) -> Tensor:
        settings = self.settings
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=settings.precision == "bf16"
        ):
            return denoising_losses(
                self._denoiser,
                images.float() / 127.5 - 1,
                labels,
                settings.noise_multiplicity,
                noise,
                label_dropout=settings.label_dropout,
                null_label=self._config.classes,
            )

    def _drawn(self) -> Tensor:
        """A batch for a step without privacy."""
        return torch.from_numpy(bernoulli(self._rate, len(self._set.images)))

    def _learning_rate(self) -> float:
        settings = self.settings
        rate = settings.learning_rate * min(1.0, (self.done + 1) / (settings.warmup + 1))
        if settings.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        return rate

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take over public weights, by name; those that are not named stay as they were initialised."""
        for network in (self._denoiser.network, self._ema.averaged):
            network.load_state_dict(weights, strict=False)

    def check(self) -> None:
        """Replay the private step on probe records, before the first image is touched.

        Raises:
            PrivacyError: it does not do what the plan says.
        """
        if self.ledger is None:
            return
        with self._reporter.progress("checking the step", CHECKS, "parts") as bar:
            check_before_training(
                self._denoiser,
                self._config,
                self.ledger.plan,
                micro_batch=self._micro_batch,
                workers=self._workers,
                bf16=self.settings.precision == "bf16",
                processes=self._processes,
                progress=bar.advance,
            )

    def warm_up(self) -> None:
        """Make the plan's warm start, unless there is none or it has been made."""
        prior = self._denoiser.prior
        if self.ledger is not None and prior is not None and not self.ledger.is_warm:
            learn_prior(
                prior.cpu(), self._set, self.ledger, people=self._people, processes=self._processes
            )
            # The same to the bit, whatever computed the eigenvectors.
            tensors, _ = self._processes.broadcast_tensors(lambda: (prior.state_dict(), None))
            prior.load_state_dict(tensors)
            prior.to(self._device)

    @property
    def averaged(self) -> Denoiser:
        """The denoiser over the averaged weights: what a run publishes."""
        trained = self._denoiser
        return Denoiser(
            self._ema.averaged,
            trained.parameterisation,
            trained.prior,
            sees_prior=trained.sees_prior,
        )

    @property
    def images_seen(self) -> int:
        """In the last step, by this process. Private, unless they are grey ones."""
        return sum(map(len, self._seen))

    def mean_loss(self) -> float:
        """Over the last step's batch, of all processes; 0 if it was empty. Private: no noise protects it."""
        seen = torch.cat(self._seen).cpu().double() if self._seen else torch.zeros(0).double()
        mine = torch.stack([seen.sum(), seen.new_tensor(len(seen))])
        total, count = self._processes.all_gather(mine).sum(0).tolist()
        return float(total / max(1.0, count))

    def digest(self) -> str:
        """SHA-256 of the weights, which is the same in all processes."""
        digest = hashlib.sha256()
        for tensor in self._denoiser.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def state(self) -> dict[str, Tensor]:
        """See `training_state.state_of`."""
        return training_state.state_of(self._denoiser, self._ema, self._optimizer)

    def restore(self, tensors: dict[str, Tensor], done: int) -> None:
        """Take over what `state` gave after `done` steps.

        Raises:
            DamagedFileError: the tensors belong to another network.
        """
        training_state.restore(tensors, done, self._denoiser, self._ema, self._optimizer)
        self.done = done

    def _prior(self) -> GaussianPrior | None:
        if self.ledger is None or not self.ledger.plan.warm_releases:
            return None
        channels, side = self._config.image_channels, self._config.image_size
        return new_prior((channels, side, side), self._config.classes).to(self._device)

    def _tuned(self) -> Tuning:
        """Kernels and micro-batch, by passes over images that are all grey."""
        config = self._config
        shape = config.image_channels, config.image_size, config.image_size
        grey = torch.full((1, *shape), 127, dtype=torch.uint8, device=self._device)

        def losses(indices: Tensor) -> Tensor:
            first = torch.zeros_like(indices)
            return self._losses_of(
                grey[first], first if config.classes else None, KeyedNoise((0,), indices)
            )

        layers = sum(isinstance(m, nn.Conv2d) for m in self._denoiser.network.modules())
        with self._reporter.progress(
            "choosing kernels", self._workers * layers, "convolutions"
        ) as bar:
            return tune(
                PerExampleGradients(self._denoiser.network),
                losses,
                copies=self.settings.noise_multiplicity,
                workers=self._workers,
                most=math.ceil(
                    seldom_exceeded(self.expected_batch_size / self._processes.size) / self._workers
                ),
                progress=bar.advance,
            )


def seldom_exceeded(expected_batch_size: float) -> float:
    """A public bound that nearly every Poisson batch keeps: four standard deviations above its mean."""
    return expected_batch_size + 4 * math.sqrt(expected_batch_size)
