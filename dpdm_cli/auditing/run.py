"""Audit: the real training step on probe images, checked and attacked. Reads no data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dpdm_cli.auditing.picture import write_picture
from dpdm_cli.checkpoint import load_model
from dpdm_cli.choices import Precision, Preset, Unit
from dpdm_cli.compute.device import memory_errors, resolve_device, set_precision, to_device
from dpdm_cli.compute.threads import workers_on
from dpdm_cli.data.named import NAMED
from dpdm_cli.diffusion.denoiser import PARAMETERISATIONS, Denoiser, with_noise_levels
from dpdm_cli.diffusion.unet import UNet, UNetConfig
from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.files import expanded
from dpdm_cli.privacy.accounting.claims import calibrate, check_plan_file
from dpdm_cli.privacy.audit.canaries import Canaries, CanaryAudit, play
from dpdm_cli.privacy.audit.checks import check_all
from dpdm_cli.privacy.audit.findings import Finding
from dpdm_cli.privacy.audit.replay import in_precision
from dpdm_cli.privacy.gradients.per_example import PerExampleGradients
from dpdm_cli.privacy.gradients.tuning import tune
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.privacy.plan_file import refuse_existing
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.reporter import Reporter, heard
from dpdm_cli.results import Result
from dpdm_cli.stored import Json
from dpdm_cli.training.config.network import blank_images
from dpdm_cli.training.config.request import request_run
from dpdm_cli.training.config.run_spec import RunSpec, resolve
from dpdm_cli.training.config.settings import SettingOptions, TrainSettings
from dpdm_cli.training.probe_records import ProbeRecords, off_zero
from dpdm_cli.training.trainer import seldom_exceeded
from dpdm_cli.training.warm_start import new_prior

RECORDS = 16
"""Fewest that are replayed."""

_MOST_ROWS = {"cpu": 512, "other": 1 << 18}
"""Noisy copies in a batch that is replayed, as time allows."""

CANARY_DELTA = 1e-5
DENSE_SHARE = 0.1
CANARIES = 600
"""Fewest that are played unless a number is asked for."""
PER_TENSOR = 10
"""Of them, in each tensor that has so many elements."""
_CANARY_COPIES = 4
_CANARY_ROWS = 64
_LESS_MEMORY = "choose a smaller --micro-batch"


@dataclass(frozen=True, repr=False)
class AuditResult(Result):
    """What an audit found.

    Attributes:
        network: what was audited, in words.
        plan: whose step was replayed; None when only canaries were played.
        records: in the batch that was replayed; 0 when only canaries were played.
        micro_batch: how many of them were differentiated at a time.
        precision: of forward and backward passes.
        findings: of the checks.
        canaries: of the statistical audit.
        picture: where it was drawn.
    """

    network: str
    plan: PrivacyPlan | None
    records: int
    micro_batch: int
    precision: str
    findings: tuple[Finding, ...]
    canaries: CanaryAudit | None
    picture: Path | None

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the claim."""
        return all(finding.passed for finding in self.findings) and (
            self.canaries is None or self.canaries.passed
        )

    @property
    def summary(self) -> str:
        """One line."""
        passed = sum(finding.passed for finding in self.findings)
        verdict = "passed" if self.passed else "FAILED"
        return f"audit of {self.network} {verdict}: {passed} of {len(self.findings)} checks"

    def picture_png(self) -> Path | bytes | None:
        """The canaries' scores, where they were drawn."""
        return self.picture

    def to_dict(self) -> Json:
        """A JSON object; infinite bounds are given as null."""
        played = self.canaries
        return {
            "passed": self.passed,
            "network": self.network,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "records": self.records,
            "micro_batch": self.micro_batch,
            "precision": self.precision,
            "checks": [asdict(finding) for finding in self.findings],
            "statistical": None
            if played is None
            else {
                "passed": played.passed,
                "claimed": played.claimed,
                "plan": played.plan.to_dict(),
                "canaries": len(played.taken) + len(played.left_out),
                "lower_bounds_at_95_percent": [_finite(asdict(bounds)) for bounds in played.shown],
                "worst_group": _finite(asdict(played.worst)),
                "tensors_not_judged": list(played.unjudged),
                "lower_bound_of_an_exact_mechanism": played.ideal,
            },
            "picture": None if self.picture is None else str(self.picture),
        }


def audit(
    checkpoint: Path | str | None = None,
    *,
    checks: bool = True,
    statistical: bool = False,
    preset: Preset = "small",
    settings_for: str | None = None,
    dataset: str = "mnist",
    epsilon: float = 10.0,
    unit: Unit | None = None,
    plan: Path | str | None = None,
    canaries: int | None = None,
    steps: int = 40,
    device: str = "auto",
    precision: Precision = "auto",
    micro_batch: int = 0,
    picture: Path | None = None,
    reporter: Reporter | None = None,
) -> AuditResult:
    """Try to catch the training step at losing its guarantee.

    Args:
        checkpoint: audit the network and the plan of this model or run; by default those of a preset.
        checks: replay it: sensitivity, noise, sampler, ledger.
        statistical: play canaries through it and bound epsilon from below.
        preset, settings_for, dataset, epsilon: the run that `train` would make of them; its plan is replayed.
        unit: what a record of that run is: image, or person, with one, two and fifty images among others; by default
            what it is in the plan of the model or the file, else image.
        plan: a plan file to replay instead.
        canaries, steps: of the statistical audit, which runs a plan of its own at sampling rate 1 that claims
            `epsilon` at delta 1e-5. By default so many canaries that there are some for each tensor.
        device, precision, micro_batch: as for `train`; the step is replayed as a run with them takes it.
        picture: where to draw the canaries' scores; with `statistical` only.

    Raises:
        UsageError, DataError, DamagedFileError, PrivacyError, ResourceError: inputs that cannot be used. A failed
            audit is a result, not an exception.
    """
    reporter = heard(reporter)
    if not checks and not statistical:
        raise UsageError("nothing to audit", "leave --checks on, or add --statistical")
    if canaries is not None and not 20 <= canaries <= 100_000:
        raise UsageError(f"{canaries} canaries are too few or too many", "choose 20 to 100000")
    if picture is not None:
        refuse_existing(picture)
    TrainSettings(precision=precision, micro_batch=micro_batch)  # refuses what no run can have
    where = resolve_device(device)
    set_precision(precision, where)
    bf16 = precision == "bf16"
    denoiser, config, whose, the_plan = _subject(
        checkpoint, preset, settings_for, dataset, epsilon, unit, plan, where
    )
    workers = workers_on(where)
    findings: list[Finding] = []
    records = 0
    played = None
    with off_zero(denoiser.network), memory_errors("during the audit", _LESS_MEMORY):
        if checks:
            records = _batch(the_plan, where)
            copies, unit = the_plan.noise_multiplicity, the_plan.record
            probes = ProbeRecords(denoiser, config, copies, records, unit)
            micro_batch = micro_batch or _chosen(probes, the_plan, denoiser, workers, bf16)
            reporter.note(
                f"replaying the step of {whose} on {records} probe records, each {the_plan.unit}, at most "
                f"{micro_batch} at a time, precision {precision}"
            )
            findings = check_all(
                denoiser.network,
                probes.losses,
                the_plan,
                records=records,
                suspects=probes.suspects,
                micro_batch=micro_batch,
                workers=workers,
                bf16=bf16,
            )
        if statistical:
            played = _play(denoiser, canaries, steps, epsilon, workers, bf16, reporter)
    if played is not None and picture is not None:
        write_picture(picture, played)
    return AuditResult(
        network=whose,
        plan=the_plan if checks else None,
        records=records,
        micro_batch=micro_batch,
        precision=precision,
        findings=tuple(findings),
        canaries=played,
        picture=picture if statistical else None,
    )


def _batch(plan: PrivacyPlan, device: torch.device) -> int:
    """Records to replay at a time: those expected in a step of the run, where that does not take too long."""
    most = _MOST_ROWS["cpu" if device.type == "cpu" else "other"] // plan.noise_multiplicity
    return max(RECORDS, min(round(plan.expected_batch_size), most))


def _chosen(
    probes: ProbeRecords, plan: PrivacyPlan, denoiser: Denoiser, workers: int, bf16: bool
) -> int:
    """The micro-batch that a run would choose."""
    device = next(denoiser.network.parameters()).device
    losses = in_precision(probes.losses, device, bf16)
    return tune(
        PerExampleGradients(denoiser.network),
        lambda indices: losses(indices % probes.count),
        copies=plan.noise_multiplicity,
        workers=workers,
        most=math.ceil(seldom_exceeded(plan.expected_batch_size) / workers),
    ).micro_batch


def _subject(
    checkpoint: Path | str | None,
    preset: Preset,
    settings_for: str | None,
    dataset: str,
    epsilon: float,
    unit: Unit | None,
    plan_file: Path | str | None,
    device: torch.device,
) -> tuple[Denoiser, UNetConfig, str, PrivacyPlan]:
    """The denoiser, its network's shape, what it is in words, and the plan to replay."""
    given = None if plan_file is None else check_plan_file(plan_file)[0]
    if checkpoint is not None:
        model = load_model(expanded(checkpoint))
        config = model.config
        network = UNet(config)
        network.load_state_dict(model.denoiser.network.state_dict())
        parameterisation = PARAMETERISATIONS[model.parameterisation]
        if not isinstance(model.statement, Statement):
            raise PrivacyError(f"{checkpoint} claims no privacy, so there is nothing to audit")
        own, whose = model.statement.plan, str(checkpoint)
    else:
        spec = _spec(preset, settings_for, dataset, epsilon, plan_file, given)
        assert spec.plan is not None  # the run is private
        config, settings, own = spec.network, spec.settings, spec.plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = UNet(config)
        parameterisation = with_noise_levels(
            PARAMETERISATIONS[settings.denoiser], settings.noise_mean, settings.noise_std
        )
        of = f" of {settings_for}" if settings_for else ""
        whose = f"the {preset} network{of} for {dataset}"
    plan = given or own
    if unit is not None and unit != plan.record:
        if given is not None or checkpoint is not None:
            raise UsageError(
                f"--unit {unit} is given, but the plan to replay is for {plan.unit}",
                "leave out --unit",
            )
        plan = dataclasses.replace(plan, unit=f"one {unit}")
    prior = None
    if config.sees_prior or plan.warm_releases:
        shape = config.image_channels, config.image_size, config.image_size
        prior = new_prior(shape, config.classes).to(device)
    denoiser = Denoiser(
        to_device(network, device), parameterisation, prior, sees_prior=config.sees_prior
    )
    return denoiser, config, whose, plan


def _spec(
    preset: Preset,
    settings_for: str | None,
    dataset: str,
    epsilon: float,
    plan_file: Path | str | None,
    plan: PrivacyPlan | None,
) -> RunSpec:
    """The run of a preset on a named set, whose facts are public: no image is needed."""
    flags: SettingOptions = {"epsilon": epsilon}
    if plan is not None:
        # Whatever number of images it was made for.
        flags = {"dataset_size": plan.dataset_size}
    request = request_run(dataset, preset, settings_for=settings_for, plan=plan_file, **flags)
    if dataset not in NAMED:
        raise UsageError(
            f"no network is known for {dataset!r}", f"choose one of {', '.join(NAMED)}"
        )
    # Somebody's, in case that the plan in a file is for persons.
    images = dataclasses.replace(
        blank_images(dataset, request.settings), persons=torch.zeros(1, dtype=torch.int64)
    )
    return resolve(request, images)


def _play(
    denoiser: Denoiser,
    count: int | None,
    steps: int,
    epsilon: float,
    workers: int,
    bf16: bool,
    reporter: Reporter,
) -> CanaryAudit:
    if count is None:
        tensors = len(PerExampleGradients(denoiser.network).names)
        count = max(CANARIES, math.ceil(PER_TENSOR * tensors / (1 - DENSE_SHARE)))
    dense = round(DENSE_SHARE * count)
    canaries = Canaries(denoiser.network, dirac=count - dense, dense=dense)
    plan = calibrate(
        epsilon=epsilon,
        delta=min(CANARY_DELTA, 0.1 / len(canaries)),
        dataset_size=len(canaries),
        expected_batch_size=len(canaries),
        steps=steps,
    )
    plan = dataclasses.replace(plan, noise_multiplicity=_CANARY_COPIES)
    with reporter.progress("canaries", plan.steps, "steps") as bar:
        return play(
            denoiser.network,
            canaries,
            plan,
            copies=plan.noise_multiplicity,
            micro_batch=_CANARY_ROWS // plan.noise_multiplicity,
            workers=workers,
            bf16=bf16,
            progress=bar.advance,
        )


def _finite(values: Json) -> Json:
    """JSON has no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
