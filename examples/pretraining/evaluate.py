"""What a pre-trained network makes of real images that it has not seen, without any private step.

    python examples/pretraining/evaluate.py procedural-grey.safetensors mnist --images 3000

Images are resized to what the network was trained on, or to `--size`. Class means and covariances of the first 55,000
training images are released with the noise that a tenth of epsilon 10 pays for; the denoising loss is that of 2,000
held-out ones. With `--images`, so many are drawn (Heun, 15 steps), and classifiers that are trained on them are tested
on the last 5,000. These are public sets: the training images are looked at here, and nothing is accounted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dpdm_cli.checkpoint import read_tensors
from dpdm_cli.data import ImageSet, load_images
from dpdm_cli.diffusion.denoiser import EDM, Denoiser
from dpdm_cli.diffusion.generation import SamplerSettings, generate
from dpdm_cli.diffusion.keyed_noise import KeyedNoise
from dpdm_cli.diffusion.loss import denoising_losses
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.evaluation.classifiers.networks import accuracy, build_classifier, fit, predict
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.training.warm_start import learn_prior, new_prior

TRAINED, JUDGED = 55_000, 2_000
WARM_SIGMA = 2.24
LEVELS = EDM(p_mean=0.0, p_std=1.2)
SAMPLER = SamplerSettings(sampler="heun", steps=15)
EPOCHS = {"cnn": 25, "logreg": 50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", type=Path, help="weights that pretrain.py made")
    parser.add_argument("dataset", choices=("mnist", "fashion-mnist"))
    parser.add_argument("--size", type=int, help="of the images; by default that of pre-training")
    parser.add_argument("--images", type=int, default=0, help="to draw for classifiers")
    arguments = parser.parse_args()
    weights, facts = read_tensors(arguments.start, "start")
    shape = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["network"].items()}
    size = shape["image_size"] = arguments.size or shape["image_size"]
    network, nothing = UNet(UNetConfig(**shape)), UNet(UNetConfig(**shape))
    network.load_state_dict(weights)
    torch.nn.init.zeros_(nothing.head.weight)

    whole = load_images(arguments.dataset, image_size=size)
    assert whole.labels is not None
    images, labels = whole.images, whole.labels
    shown = ImageSet(
        name="shown", images=images[:TRAINED], labels=labels[:TRAINED], classes=whole.classes
    )
    plan = PrivacyPlan(
        dataset_size=TRAINED,
        expected_batch_size=1,
        steps=1,
        sigma=1.0,
        delta=1e-5,
        warm_start="moments",
        warm_sigma=WARM_SIGMA,
    )
    prior = new_prior((1, size, size), len(whole.classes))
    learn_prior(prior, shown, Ledger(plan))

    def denoiser(of: UNet) -> Denoiser:
        return Denoiser(of, LEVELS, prior, sees_prior=True)

    def loss(of: UNet) -> float:
        found = [
            denoising_losses(
                denoiser(of), images[i].float() / 127.5 - 1, labels[i], 1, KeyedNoise((3,), i)
            )
            for i in torch.arange(TRAINED, TRAINED + JUDGED).split(250)
        ]
        return float(torch.cat(found).mean())

    with torch.no_grad():
        print(
            f"{arguments.dataset}: loss {loss(network):.4f}, {loss(nothing):.4f} by Gaussians alone"
        )
    if not arguments.images:
        return
    classes = torch.arange(arguments.images) % len(whole.classes)
    drawn = torch.cat(
        [
            generate(denoiser(network), i, classes[i], (1, size, size), SAMPLER, seed=0)
            for i in torch.arange(arguments.images).split(64)
        ]
    )
    for name, epochs in EPOCHS.items():
        generator = torch.Generator().manual_seed(0)
        model = build_classifier(name, (1, size, size), len(whole.classes), generator)
        fit(model, drawn, classes, generator=generator, epochs=epochs)
        score = accuracy(predict(model, images[TRAINED:]), labels[TRAINED:])
        print(f"{name} on {arguments.images:,} images drawn: {score:.1f} %")


if __name__ == "__main__":
    main()
