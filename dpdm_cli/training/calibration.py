"""`dpdm calibrate`: how much noise a claim needs, or what a noise level claims. Looks at no image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from dpdm_cli.choices import Preset, Profile, Unit, WarmStart
from dpdm_cli.data.named import NAMED
from dpdm_cli.data.reading import ListingOptions, Reading, reading_of
from dpdm_cli.errors import UsageError
from dpdm_cli.keywords import keywords_shown
from dpdm_cli.privacy.accounting.attack_risk import AttackRisk
from dpdm_cli.privacy.accounting.claims import Claim, claim, planned
from dpdm_cli.privacy.accounting.paper_profile import (
    batches_per_epoch,
    calibrate_like_paper,
    paper_plan,
)
from dpdm_cli.privacy.accounting.risk import Risk, risk_of
from dpdm_cli.privacy.plan import PrivacyPlan, positive_integer
from dpdm_cli.privacy.plan_file import PlanFile, refuse_existing, write_plan_file
from dpdm_cli.reporter import Reporter, heard
from dpdm_cli.results import Result
from dpdm_cli.stored import Json
from dpdm_cli.training.config.planning import check_batch_size, plan_run, step_count
from dpdm_cli.training.config.settings import TrainSettings, merge, published_size, sets_in

DEFAULT_DATASET = "mnist"


@dataclass(frozen=True, kw_only=True, repr=False)
class Calibration(Result):
    """A plan and what it claims.

    Attributes:
        plan: to be run by `train(plan=...)` from a file, or looked at.
        claim: what may be claimed after all its steps.
        target_epsilon: what was to be stayed within; None for the worth of a given sigma.
    """

    plan: PrivacyPlan
    claim: Claim
    target_epsilon: float | None

    @property
    def summary(self) -> str:
        """One line."""
        plan = self.plan
        return (
            f"epsilon {self.claim.epsilon_text} at delta {plan.delta:g}: sigma {plan.sigma:.6g}, N = "
            f"{plan.dataset_size:,}, batch {plan.expected_batch_size:g}, {plan.steps:,} steps"
        )

    @property
    def stated(self) -> PlanFile:
        """The plan with its claim and its risk, as a plan file states them."""
        stated = planned(self.plan, self.target_epsilon)
        return dataclasses.replace(stated, risk=self.risk.to_json())

    @property
    def risk(self) -> Risk:
        """What the plan costs beside epsilon and delta, and how its budget is divided."""
        return risk_of(self.plan)

    @property
    def attack_risk(self) -> AttackRisk:
        """What the plan lets somebody find out at most of one record."""
        return self.risk.attack

    def to_dict(self) -> Json:
        """For JSON: what a plan file holds, so that either can be run."""
        return self.stated.to_json()


@keywords_shown
def calibrate(
    data: str | None = None,
    *,
    epsilon: float | None = None,
    sigma: float | None = None,
    delta: float | None = None,
    unit: Unit | None = None,
    accountant: str | None = None,
    profile: Profile = "exact",
    clip_norm: float | None = None,
    noise_multiplicity: int | None = None,
    warm_start: WarmStart | None = None,
    warm_share: float | None = None,
    preset: Preset | None = None,
    dataset: str | None = None,
    settings_for: str | None = None,
    dataset_size: int | None = None,
    public_metadata: bool = False,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
    **options: Unpack[ListingOptions],
) -> Calibration:
    """Find the noise that keeps training within a privacy budget, and what it claims.

    No image is looked at. Of your own images the plan needs N alone: state it, or have them counted and declare the
    count public. `calibrate(epsilon=10, delta=1e-5)` is the paper's plan for MNIST. With `preset` named, the plan is
    that of `train` with the same arguments.

    Args:
        data: a named set; or a folder, zip, npz or prepared file, whose images are counted if N is not stated.
        epsilon: to stay within: sigma is found. Either this or `sigma`.
        sigma: the other way round: what this noise multiplier claims.
        delta: below 1/N; by default the data set's.
        unit: what the claim protects: image (by default), or person with all of their images. N and B then count
            persons, and N is stated.
        accountant: prv (by default), rdp or pld; where it may not claim, another does and a warning says why.
        profile: exact: q = B/N and the least noise. paper: q = 1/ceil(N/B), RDP with orders to 127 and a tolerance of
            0.01, as in the paper's tables (arXiv 2210.09929).
        clip_norm: C; the claim does not depend on it.
        noise_multiplicity: K; it costs nothing.
        warm_start, warm_share: pay for a warm start too, with this share of the budget; see `TrainSettings`. By default
            the preset's.
        preset: small or paper: whose settings are taken where nothing else is given, epsilon's included. By default the
            paper's, and for images of your own none: what a plan depends on is to be given.
        dataset: take N and settings of a known data set, also one that is no named set: celeba64 or imagenet32. By
            default MNIST, unless N or images are given.
        settings_for: take the preset's batch size, epochs, delta, C and K for this data set instead.
        dataset_size: N, the public number of images.
        public_metadata: the number of images in `data` is public knowledge.
        batch_size: B, the expected number of images in a step.
        epochs, steps: how long; one of them.
        out: a new file to write the plan to, for `train(plan=...)`.
        reporter: gets remarks; by default warnings are Python's.
        options: which files of `data` are its images (labels, label_column, file_column, person_column, layout), see
            `Reading`.

    Raises:
        UsageError: figures that are missing, given twice or none of their kind; `out` exists.
        PrivacyError: delta not below 1/N, an epsilon that no noise reaches, or a count that nobody declared public.
        DataError, DamagedFileError, ResourceError: images that cannot be counted, a plan that cannot be written.
    """
    reporter = heard(reporter)
    if profile == "paper" and accountant not in (None, "rdp"):
        raise UsageError(
            f"--profile paper means the rdp accountant, not {accountant}",
            "leave out --accountant, or use --profile exact",
        )
    if dataset_size is not None and dataset_size < 1:
        raise UsageError(
            f"N must be at least 1, found {dataset_size}",
            "give the public number of images with --dataset-size",
        )
    if profile == "paper" and unit == "person":
        raise UsageError(
            "--profile paper is the paper's plan, whose claim is for one image",
            "leave out --unit, or use --profile exact",
        )
    if out is not None:
        refuse_existing(out)
    if data in NAMED:
        if dataset is not None:
            raise UsageError(
                f"{data} and --dataset {dataset} are two data sets", "name one of them"
            )
        data, dataset = None, data
    if data is None and dataset is None and dataset_size is None and settings_for is None:
        dataset = DEFAULT_DATASET
    entries = settings_for or dataset
    if settings_for is None and preset is not None and dataset not in sets_in(preset):
        entries = None
    settings, origins = merge(
        "custom",
        preset=preset or "paper",
        settings_for=entries,
        flags={
            "epsilon": epsilon,
            "delta": delta,
            "unit": unit,
            "accountant": accountant,
            "clip_norm": clip_norm,
            "noise_multiplicity": noise_multiplicity,
            "warm_start": warm_start,
            "warm_share": warm_share,
            "dataset_size": dataset_size,
            "batch_size": batch_size,
            "epochs": epochs,
            "steps": steps,
        },
    )
    _check_warm_start(settings.warm_start, warm_share, profile, sigma)
    if preset is not None and epsilon is None and sigma is None:
        epsilon = settings.epsilon
    if entries is None and preset is None:
        _require_stated(origins)
    size = _public_size(data, dataset, settings, public_metadata, reading_of(options), reporter)
    if (epsilon is None) == (sigma is None):
        raise UsageError(
            "give either a target (--eps) or a noise multiplier (--sigma)",
            "for example: dpdm calibrate --eps 10 --delta 1e-5",
        )
    make = _paper_plan if profile == "paper" else _exact_plan
    plan = make(size, settings, sigma)
    found = Calibration(plan=plan, claim=claim(plan), target_epsilon=epsilon)
    _warn(reporter, found, "rdp" if profile == "paper" else settings.accountant)
    if out is not None:
        write_plan_file(out, found.stated)
        reporter.note(f"wrote {out}: run it with `dpdm train DATA --plan {out}`")
    return found


def _check_warm_start(
    kind: str, share: float | None, profile: Profile, sigma: float | None
) -> None:
    if kind == "none" and share is not None:
        raise UsageError("--warm-share is given without a warm start", "add --warm-start moments")
    if kind != "none" and (profile == "paper" or sigma is not None):
        raise UsageError(
            "a warm start is a share of a target epsilon, which --profile paper and --sigma do not have",
            "give --eps with --profile exact",
        )


def _require_stated(origins: dict[str, str]) -> None:
    """Of images that no plan is known for, what a plan depends on is given, and not that of a preset."""
    lacking = [name for name in ("batch_size", "delta") if origins[name] != "flag"]
    if "flag" not in (origins["epochs"], origins["steps"]):
        lacking.append("epochs")
    if lacking:
        names = ", ".join("--" + name.replace("_", "-") for name in lacking)
        raise UsageError(
            f"a plan for images of your own also needs {names}",
            "for example: dpdm calibrate --eps 10 --dataset-size 50000 --batch-size 1000 --epochs 100 --delta 1e-6",
        )


def _public_size(
    path: str | None,
    dataset: str | None,
    settings: TrainSettings,
    public_metadata: bool,
    reading: Reading,
    reporter: Reporter,
) -> int:
    """N: stated, else published, else counted if that is declared public."""
    if settings.dataset_size is not None:
        return settings.dataset_size
    if settings.unit == "person":
        raise UsageError(
            "N counts persons here, and no file or set says how many there are",
            "state the number of persons with --dataset-size",
        )
    if dataset is not None and (published := published_size(dataset)) is not None:
        return published
    if path is None:
        raise UsageError(
            "N is not known: --settings-for takes settings alone",
            "state the number of images with --dataset-size, or name a published set with --dataset",
        )
    from dpdm_cli.training.config.public_facts import public_count  # imports torch

    return public_count(path, public_metadata, reading, reporter)


def _exact_plan(size: int, settings: TrainSettings, sigma: float | None) -> PrivacyPlan:
    """The plan a run with these settings follows, or one with the given noise."""
    if sigma is None:
        return plan_run(size, settings)
    check_batch_size(size, settings)
    return PrivacyPlan(
        dataset_size=size,
        expected_batch_size=settings.batch_size,
        steps=step_count(size, settings),
        sigma=sigma,
        delta=settings.delta,
        clip_norm=settings.clip_norm,
        noise_multiplicity=settings.noise_multiplicity,
        accountant=settings.accountant,
        unit=f"one {settings.unit}",
    )


def _paper_plan(size: int, settings: TrainSettings, sigma: float | None) -> PrivacyPlan:
    """The same under the paper's convention for q and steps."""
    batches = batches_per_epoch(size, settings.batch_size)
    steps = settings.steps
    if steps is None:
        steps = positive_integer("epochs", settings.epochs) * batches
    figures: dict[str, Any] = {
        "dataset_size": size,
        "batch_size": settings.batch_size,
        "steps": steps,
        "delta": settings.delta,
        "clip_norm": settings.clip_norm,
        "noise_multiplicity": settings.noise_multiplicity,
    }
    if sigma is None:
        return calibrate_like_paper(epsilon=settings.epsilon, **figures)
    return paper_plan(sigma=sigma, **figures)


def _warn(reporter: Reporter, found: Calibration, asked: str) -> None:
    """Of a claim by another accountant than was asked for."""
    by = found.claim.accountant.upper()
    if found.plan.accountant != asked:
        why = claim(dataclasses.replace(found.plan, accountant=asked)).reason
        reporter.warn(f"calibrated and claimed by {by}: {why}")
    elif found.claim.reason:
        reporter.warn(f"claimed by {by}: {found.claim.reason}")
