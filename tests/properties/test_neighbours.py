"""Two data sets that differ in one record: all that is public of their runs is the same, the rest differs by C at most.

Both runs draw alike for each record, and both are given the same numbers in the place of each noisy sum. So whatever
differs after that was learnt past the mechanism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny
from torch import Tensor

from dpdm_cli.compute.distributed import ALONE, Processes
from dpdm_cli.data import ImageSet
from dpdm_cli.diffusion.ema import EMA
from dpdm_cli.evaluation.classifiers.networks import build_classifier
from dpdm_cli.evaluation.private_classifiers import private_classifier, scattering_classifier
from dpdm_cli.privacy import class_sums, noise, step
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.poisson import PoissonSampler
from dpdm_cli.reporter import SilentProgress
from dpdm_cli.training.config import planning
from dpdm_cli.training.config.planning import plan_run
from dpdm_cli.training.config.public_facts import Stated, public_facts
from dpdm_cli.training.config.request import RunRequest
from dpdm_cli.training.config.settings import TrainSettings
from dpdm_cli.training.setup import Setup, set_up
from dpdm_cli.training.trainer import Trainer

HELD, STATED = 24, 30
LAST = HELD - 1
CLIP = 1e-2

SETTINGS = TrainSettings(
    epsilon=20.0,
    delta=1e-3,
    dataset_size=STATED,
    image_size=8,
    batch_size=8,
    steps=6,
    clip_norm=CLIP,
    noise_multiplicity=2,
    accountant="rdp",
    warm_start="moments",
    width=8,
    multipliers=(1,),
    blocks=1,
    embedding=16,
    micro_batch=9,
    precision="float32",
)

# Who is drawn: all, the last alone, nobody, some with the last and without it, all but the last.
MASKS = [range(HELD), [LAST], [], range(1, HELD, 2), range(0, HELD, 2), range(LAST)]


def neighbours(special: str) -> tuple[ImageSet, ImageSet]:
    """Images, and the same without the last, which is special in some way."""
    images = tiny.images(HELD)
    images.labels[:] %= 2
    if special == "black":
        images.images[LAST] = 0
    elif special == "a duplicate":
        images.images[LAST], images.labels[LAST] = images.images[0], images.labels[0]
    elif special == "the only one of its class":
        images.labels[LAST] = 2
    fewer = replace(images, images=images.images[:LAST], labels=images.labels[:LAST])
    return images, fewer


calibrate_once = cache(planning.calibrate)  # for the same figures


@dataclass
class Run:
    """What is seen of a run: its setup and trainer, its public calls, and each sum before the noise with its scale."""

    setup: Setup
    trainer: Trainer
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    sums: list[tuple[Tensor, float]] = field(default_factory=list)


def public(value: object) -> object:
    """What a call shows of an argument: numbers and words, kinds and shapes."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape)
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, tuple | list):
        return tuple(map(public, value))
    return type(value).__name__


def draw_in_turn(masks: Sequence[Sequence[int]], patch: pytest.MonkeyPatch) -> None:
    """Say who is in each batch, of those that there are."""
    turns = iter(masks)
    patch.setattr(
        PoissonSampler,
        "draw",
        lambda self, records: torch.tensor([i for i in next(turns) if i < records]).long(),
    )


def sums_before_noise(patch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    """Each sum with the scale of its noise, as they come; what is released in its place is the same for everybody."""
    sums: list[tuple[Tensor, float]] = []
    with_noise = step.with_noise

    def given(total: Tensor, scale: float, *args: Any, **named: Any) -> Tensor:
        noisy = with_noise(total, scale, *args, **named)
        sums.append((total.clone(), scale))
        numbers = np.random.default_rng(len(sums)).standard_normal(len(noisy))
        return torch.from_numpy(scale * numbers)

    patch.setattr(step, "with_noise", given)
    patch.setattr(class_sums, "with_noise", given)
    return sums


def traced(images: ImageSet, patch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """A whole training, as a command makes it, with its calls of everything that acts on what is public."""
    patch.setattr(planning, "calibrate", calibrate_once)
    request = RunRequest(
        data="somebody",
        preset="paper",
        settings=replace(SETTINGS, **changes),
        origins={},
        stated=Stated(classes=images.classes, channels=1),
    )
    setup = set_up(
        request,
        lambda **_: images,
        saved=None,
        device=torch.device("cpu"),
        processes=ALONE,
    )
    calls: list[tuple[Any, ...]] = []

    def watch(owner: Any, name: str) -> Callable[..., Any]:
        ordinary = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            calls.append(
                (name, *map(public, args), *sorted((k, public(v)) for k, v in named.items()))
            )
            return ordinary(*args, **named)

        patch.setattr(owner, name, watched)
        return watched

    for owner, names in {
        Ledger: ("require_budget", "record"),
        Processes: (
            "scatter_indices",
            "reduce_scatter",
            "all_gather",
            "check_same",
            "broadcast",
            "all_reduce_max",
        ),
        PerExampleGradients: ("assign",),
        EMA: ("update",),
        torch.optim.Adam: ("step",),
        noise: ("standard_normal",),
    }.items():
        for name in names:
            watch(owner, name)
    watch(step, "with_noise")
    sums = sums_before_noise(patch)
    draw_in_turn(MASKS, patch)
    trainer = Trainer(
        setup.spec.network,
        setup.spec.settings,
        setup.images,
        steps=setup.spec.steps,
        sample_rate=setup.spec.sample_rate,
        ledger=setup.ledger,
        device=torch.device("cpu"),
    )
    trainer._noise_key = 0
    trainer.warm_up()
    while trainer.done < trainer.steps:
        trainer.step()
    return Run(setup, trainer, calls, sums)


@pytest.mark.parametrize(
    "special", ["ordinary", "black", "a duplicate", "the only one of its class"]
)
def test_a_record_shows_in_the_sums_by_at_most_the_clip_norm_and_nowhere_else(special: str) -> None:
    runs = []
    for images in neighbours(special):
        with pytest.MonkeyPatch.context() as patch:
            runs.append(traced(images, patch))
    check_neighbours(*runs)


def people(held: int) -> tuple[ImageSet, ImageSet]:
    """Images of so many people by turns, of several classes, and the same without the last person's images."""
    images_of = torch.arange(HELD) % 3 + 1
    images_of[LAST] = held
    persons = torch.arange(HELD).repeat_interleave(images_of)
    # The last person's images come between those of the others, whose places all change without them.
    order = torch.randperm(len(persons), generator=torch.Generator().manual_seed(0))
    images = replace(tiny.images(len(persons)), persons=persons[order])
    others = images.persons != LAST
    fewer = replace(
        images,
        images=images.images[others],
        labels=images.labels[others],
        persons=images.persons[others],
    )
    return images, fewer


@pytest.mark.parametrize("held", [1, 2, 50])
def test_a_person_shows_in_the_sums_by_at_most_the_clip_norm_however_many_images_they_have(
    held: int,
) -> None:
    runs = []
    for images in people(held):
        with pytest.MonkeyPatch.context() as patch:
            runs.append(traced(images, patch, unit="person"))
    assert runs[0].setup.spec.plan.unit == "one person"
    check_neighbours(*runs)


def test_persons_are_drawn_and_not_images() -> None:
    seen = []
    for images in people(50):
        with pytest.MonkeyPatch.context() as patch:
            run = traced(images, patch, unit="person")
        seen.append(run.trainer._private_step._records)
    assert seen == [HELD, LAST]


def check_neighbours(one: Run, other: Run) -> None:
    """The runs differ by C, or 1, in the sums that the last record is in, and nowhere else."""
    runs = one, other
    assert one.setup.spec.plan == other.setup.spec.plan
    assert one.setup.spec.plan is not None
    assert one.setup.spec.plan.divisor == other.setup.spec.plan.divisor == 8
    for name in (
        "steps",
        "sample_rate",
        "network",
        "settings",
        "dataset_size",
        "public_inputs",
    ):
        assert getattr(one.setup.spec, name) == getattr(other.setup.spec, name), name
    # The ledger names its process by chance; what it counts is compared.
    private = {"salt", "fingerprint", "ledger"}
    assert [run.setup.ledger and run.setup.ledger.releases for run in runs] == [2 + len(MASKS)] * 2
    told = [
        {k: v for k, v in run.setup.state().to_json().items() if k not in private} for run in runs
    ]
    assert told[0] == told[1]

    assert one.calls == other.calls
    names = [call[0] for call in one.calls]
    assert names.count("record") == names.count("with_noise") == 2 + len(MASKS)
    assert names.count("assign") == names.count("step") == names.count("update") == len(MASKS)

    drawn = [True, True, *(LAST in mask for mask in MASKS)]
    limits = [1.0, 1.0, *[CLIP] * len(MASKS)]
    for limit, is_in, (whole, scale), (without, _) in zip(
        limits, drawn, one.sums, other.sums, strict=True
    ):
        distance = float((whole - without).norm())
        if is_in:
            assert distance <= limit * (1 + 1e-4)
            assert distance > (0.99 * CLIP if limit == CLIP else 1e-3)  # the bound is met
        else:
            # The same records; only their micro-batches, and so the rounding, may be others.
            assert distance <= 1e-4 * limit
        assert scale > 0.1 * limit

    # From the released numbers on everything is the same to the bit.
    states = one.trainer.state(), other.trainer.state()
    assert states[0].keys() == states[1].keys()
    assert not {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert one.trainer.digest() == other.trainer.digest()
    ledgers = one.trainer.ledger, other.trainer.ledger
    assert [ledger.releases for ledger in ledgers if ledger] == [2 + len(MASKS)] * 2


def classifier_by_dp_sgd(images: ImageSet, ledger: Ledger) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = build_classifier("mlp", (1, 8, 8), len(images.classes), generator)
    private_classifier.train_privately(
        model, images.images, images.labels, ledger.plan, SilentProgress()
    )
    return model


def classifier_of_scattering(images: ImageSet, ledger: Ledger) -> torch.nn.Module:
    return scattering_classifier.train_privately(
        images.images, images.labels, len(images.classes), ledger
    )


@pytest.mark.parametrize("train", [classifier_by_dp_sgd, classifier_of_scattering])
@pytest.mark.parametrize("special", ["ordinary", "black", "the only one of its class"])
def test_a_record_shows_in_a_private_classifier_by_at_most_the_clip_norm_and_in_its_sums_alone(
    special: str, train: Callable[[ImageSet, Ledger], torch.nn.Module]
) -> None:
    plan = tiny.plan(dataset_size=STATED, steps=len(MASKS), clip_norm=CLIP, noise_multiplicity=1)
    found = []
    for images in neighbours(special):
        with pytest.MonkeyPatch.context() as patch:
            draw_in_turn(MASKS, patch)
            sums = sums_before_noise(patch)
            found.append((sums, train(images, Ledger(plan)).state_dict()))
    (one, weights), (other, without) = found
    assert len(one) == len(MASKS)
    for mask, (whole, scale), (rest, _) in zip(MASKS, one, other, strict=True):
        assert scale == plan.sigma * CLIP
        distance = float((whole - rest).norm())
        if LAST in mask:
            assert 0.99 * CLIP < distance <= CLIP * (1 + 1e-4)
        else:
            assert distance <= 1e-4 * CLIP
    # From the released numbers on everything is the same to the bit.
    assert not {name for name in weights if not torch.equal(weights[name], without[name])}


# A size that the batch divides, where 1 / ceil(N / B) would jump from 1/15 to 1/16 with one record more.
DIVIDED, BATCH = 61_440, 4096


@pytest.mark.parametrize("held", [DIVIDED - 1, DIVIDED, DIVIDED + 1])
@pytest.mark.parametrize("stated", [DIVIDED, DIVIDED + 1])
def test_the_plan_is_made_of_the_stated_size_whatever_is_held(stated: int, held: int) -> None:
    settings = TrainSettings(batch_size=BATCH, epochs=300, accountant="rdp", dataset_size=stated)
    pixels = torch.zeros(held, 1, 1, 1, dtype=torch.uint8)
    images = ImageSet(name="a folder", images=pixels, labels=None, classes=())
    size, public = public_facts("a folder", images, settings, Stated(public_metadata=True))
    assert (size, public.dataset_size) == (stated, "stated")
    plan = plan_run(size, settings)
    assert plan.sample_rate == BATCH / stated
    assert plan.divisor == BATCH
    assert plan.steps == 4500


def test_one_image_more_than_the_batch_divides_changes_the_plan_by_one_part_in_so_many() -> None:
    settings = TrainSettings(batch_size=BATCH, epochs=300, accountant="rdp")
    one, more = (plan_run(size, settings) for size in (DIVIDED, DIVIDED + 1))
    assert one.sample_rate == 1 / 15
    assert more.sample_rate == pytest.approx(one.sample_rate, rel=2 / DIVIDED)
    assert more.sample_rate < one.sample_rate
    assert (more.steps, more.divisor, more.clip_norm) == (one.steps, one.divisor, one.clip_norm)
    assert more.sigma == pytest.approx(one.sigma, rel=1e-4)
