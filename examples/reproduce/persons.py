"""What a claim for persons costs: one set, two images a person, three ways to the same epsilon.

    python examples/reproduce/persons.py OUT --set digits --epsilon 10 --runs 3

The training images are given to persons at random, two each. Models are then trained by image, whose claim is for one
image; by person (`--unit person`) with half as many records and half the batch, so at the same rate; and by image
at the smaller epsilon that is the asked one when it is restated for two images. Classifiers of their samples are tested
on the set's test images. Prints a table, the mean over the runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from dpdm_cli import classify, sample, train
from dpdm_cli.data import load_images
from dpdm_cli.data.named import NAMED
from dpdm_cli.privacy.accounting.restating import person_epsilon
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.training.config.planning import plan_run
from dpdm_cli.training.config.settings import merge

EACH = 2
HEADINGS = (
    "trained",
    "epsilon for an image",
    "epsilon for a person",
    "N",
    "B",
    "sigma",
    "LR",
    "MLP",
    "CNN",
)


def with_persons(name: str, path: Path) -> int:
    """Write the set's training images with persons to an .npz file; gives how many persons there are."""
    images = load_images(name)
    count = len(images.images)
    assert images.labels is not None
    persons = np.empty(count, np.int64)
    persons[np.random.default_rng(0).permutation(count)] = np.arange(count) // EACH
    pixels = images.images.permute(0, 2, 3, 1).numpy()
    np.savez(path, images=pixels, labels=images.labels.numpy(), persons=persons)
    return int(persons.max()) + 1


def restated(name: str, options: dict[str, Any], epsilon: float) -> float:
    """The epsilon for one image that is at most the given one for a person with two, by bisection."""
    low, high = 0.1 * epsilon, epsilon
    while high - low > 0.01 * epsilon:
        middle = (low + high) / 2
        flags = {**options, "epsilon": middle}
        settings, _ = merge("custom", preset="small", settings_for=name, flags=flags)
        fits = person_epsilon(plan_run(options["dataset_size"], settings), EACH) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", default="digits", choices=("digits", "mnist"))
    parser.add_argument("--epsilon", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--row", type=int, choices=(1, 2, 3), help="this row of the table alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    data, facts = given.out / "images.npz", NAMED[given.set]
    persons = with_persons(given.set, data)
    settings, _ = merge("custom", preset="small", settings_for=given.set)
    by_image = {"dataset_size": facts.train_size, "batch_size": settings.batch_size}
    by_person = {
        "dataset_size": persons,
        "batch_size": settings.batch_size // EACH,
        "unit": "person",
    }
    for options in (by_image, by_person):
        options["steps"] = given.steps or settings.steps
    kinds: dict[str, dict[str, Any]] = {
        "by image": {"epsilon": given.epsilon, **by_image},
        "by person": {"epsilon": given.epsilon, **by_person},
        "by image, restated for two": {
            "epsilon": restated(given.set, by_image, given.epsilon),
            **by_image,
        },
    }
    print(f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|", sep="\n")
    chosen = [*kinds.items()]
    for kind, options in chosen if given.row is None else [chosen[given.row - 1]]:
        scores = []
        for number in range(given.runs):
            folder = given.out / f"{kind.replace(' ', '-').replace(',', '')}-{number}"
            run = train(
                str(data),
                folder,
                preset="small",
                settings_for=given.set,
                classes=facts.classes,
                image_size=facts.image_size,
                channels=facts.channels,
                **options,
            )
            drawn = sample(run.model, folder / "synth", n=given.images, format="npz")
            found = classify(drawn.images, test=given.set).to_dict()
            scores.append([found[name] for name in ("logreg", "mlp", "cnn")])
        assert isinstance(run.statement, Statement)
        plan, epsilon = run.statement.plan, run.statement.epsilon
        image = "" if plan.record == "person" else f"{epsilon:.2f}"
        person = epsilon if plan.record == "person" else person_epsilon(plan, EACH)
        means = [f"{mean:.1f}" for mean in np.mean(scores, axis=0)]
        figures = [plan.dataset_size, plan.expected_batch_size, plan.sigma]
        row = [kind, image, f"{person:.2f}", *(f"{figure:.4g}" for figure in figures), *means]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
