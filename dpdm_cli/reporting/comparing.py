"""`dpdm compare`: several runs beside each other, and what all of them claim together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dpdm_cli.errors import PrivacyError, UsageError
from dpdm_cli.evaluation.classification import classify
from dpdm_cli.evaluation.classifiers.networks import EPOCHS
from dpdm_cli.evaluation.scoring import fid
from dpdm_cli.files import expanded
from dpdm_cli.privacy.accounting.accountants import NotComputable, Part
from dpdm_cli.privacy.accounting.attack_risk import (
    AttackRisk,
    attack_risk,
    plan_risk,
    risk_of_epsilon,
)
from dpdm_cli.privacy.accounting.claims import Claim
from dpdm_cli.privacy.ledger import PublishedLedger
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.publishing.verification import Artefact, Verification
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.reporter import Reporter, SilentReporter
from dpdm_cli.reporting import plots
from dpdm_cli.reporting.budget import BudgetPart, budget_of
from dpdm_cli.reporting.risks import risk_json, risk_panel
from dpdm_cli.sampling.sample_folder import is_sample_folder
from dpdm_cli.stored import Json

MODEL = "logreg"
EXTRACTOR = "scattering"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What real images say of a run's samples.

    Attributes:
        samples: the set.
        accuracy: percent of the real test images that a classifier trained on the set gets right.
        balanced: mean of its recalls, in percent.
        distance: squared Fréchet distance to the real training images, of `n` synthetic ones.
    """

    samples: Path
    accuracy: float
    balanced: float
    distance: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One of the runs.

    Attributes:
        path: as it was named.
        statement: what it claims.
        risk, budget: of its plan.
        scores: None unless asked for.
    """

    path: Path
    statement: Statement
    risk: AttackRisk
    budget: tuple[BudgetPart, ...]
    scores: Scores | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs, in the order given.

    Attributes:
        runs: each of them.
        together: the claim of all of them published, if they are from the same images; None for one run.
        risk: the same for the risk.
        relations: which share releases, in words.
        against, model, extractor: what the scores are of; None without.
        plot: the picture that was written.
    """

    runs: tuple[Compared, ...]
    together: Claim | None
    risk: AttackRisk | None
    relations: tuple[str, ...]
    against: str | None
    model: str | None
    extractor: str | None
    plot: Path | None

    def to_dict(self) -> Json:
        """A JSON object."""
        return {
            "runs": [
                {
                    "path": str(run.path),
                    "epsilon": run.statement.epsilon,
                    "delta": run.statement.delta,
                    "attack_risk": risk_json(run.risk),
                    "budget": [asdict(part) for part in run.budget],
                    "scores": run.scores
                    and {**asdict(run.scores), "samples": str(run.scores.samples)},
                }
                for run in self.runs
            ],
            "together": None
            if self.together is None or self.risk is None
            else {
                **self.together.to_dict(),
                "delta": self.together.delta,
                "attack_risk": risk_json(self.risk),
            },
            "relations": list(self.relations),
            "against": self.against,
            "model": self.model,
            "extractor": self.extractor,
            "plot": None if self.plot is None else str(self.plot),
        }


def compare(
    runs: Sequence[Path | str],
    *,
    plot: Path | str | None = None,
    against: str | None = None,
    model: str = MODEL,
    extractor: str = EXTRACTOR,
    epochs: int = EPOCHS,
    data_dir: Path | None = None,
    download: bool = True,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Comparison:
    """Put runs beside each other: claim, risk and budget; with `against` also accuracy and distance.

    Everything is verified first; what `verify` refuses is refused here.

    Args:
        runs: run folders, model files or sets of samples; at least one.
        plot: a picture of the figures against epsilon, .png, .svg or .pdf. With `against` it lies in a folder called
            private.
        against: real images: a named set, folder or zip. Of a run, the samples in its `synth/` are compared with them.
            Such figures are not covered by any claim.
        model: the classifier: logreg, mlp or cnn.
        extractor: the features of the distance, see `fid`.
        epochs, data_dir, download, device: as for `classify`.
        reporter: gets remarks and progress.

    Raises:
        UsageError: no run, samples that are missing, a name that is none.
        PrivacyError: a picture of private figures outside of private/; a claim that does not hold or is not made.
        DataError, DamagedFileError, ResourceError: see `verify`, `classify` and `fid`.
    """
    reporter = reporter or SilentReporter()
    picture = None if plot is None else expanded(plot)
    if picture is not None:
        plots.check_target(picture)
        if against is not None and picture.absolute().parent.name != "private":
            raise PrivacyError(
                f"{picture}: a picture with figures of real images stays in a folder called private",
                f"choose --plot {picture.parent / 'private' / picture.name}, or leave out --against",
            )
    verified = verify(runs)
    places = [None if against is None else _samples_of(found) for found in verified.artefacts]
    compared = []
    for found, place in zip(verified.artefacts, places, strict=True):
        scores = None
        if against is not None and place is not None:
            reporter.note(f"{place} against {against}")
            scored = classify(
                place,
                test=against,
                models=[model],
                epochs=epochs,
                data_dir=data_dir,
                download=download,
                device=device,
                reporter=reporter,
            )
            far = fid(
                place,
                against,
                split="train",
                extractor=extractor,
                data_dir=data_dir,
                download=download,
                device=device,
                keep=False,
                reporter=reporter,
            )
            score = scored.scores[model]
            scores = Scores(
                samples=place,
                accuracy=score.accuracy,
                balanced=score.balanced_accuracy,
                distance=far.scores["train"].fid,
                n=far.n,
            )
        plan = found.ledger.plan
        compared.append(
            Compared(
                path=found.path,
                statement=found.statement,
                risk=plan_risk(plan),
                budget=budget_of(plan),
                scores=scores,
            )
        )
    comparison = Comparison(
        runs=tuple(compared),
        together=verified.together,
        risk=_risk_together(verified),
        relations=verified.relations,
        against=against,
        model=None if against is None else model,
        extractor=None if against is None else extractor,
        plot=picture,
    )
    if picture is not None:
        epsilons = [run.statement.epsilon for run in comparison.runs]
        plots.write(plots.draw(epsilons, _panels(comparison)), picture)
    return comparison


def _panels(comparison: Comparison) -> list[plots.Panel]:
    panels = [risk_panel([run.risk for run in comparison.runs])]
    if comparison.against is not None:
        scores = [run.scores for run in comparison.runs]
        accuracy = plots.Curve("accuracy", tuple(None if s is None else s.accuracy for s in scores))
        balanced = plots.Curve("balanced", tuple(None if s is None else s.balanced for s in scores))
        distance = plots.Curve("distance", tuple(None if s is None else s.distance for s in scores))
        panels += [
            plots.Panel(f"{comparison.model} on real images, %", (accuracy, balanced)),
            plots.Panel(f"distance of {comparison.extractor} features", (distance,)),
        ]
    return panels


def _samples_of(found: Artefact) -> Path:
    """The samples that stand for a run; verified, as the run was.

    Raises:
        UsageError: there are none.
    """
    if found.kind == "samples":
        return found.path
    place = (found.path if found.path.is_dir() else found.path.parent) / "synth"
    if not is_sample_folder(place):
        raise UsageError(
            f"{found.path}: no samples to compare with real images",
            f"draw some: dpdm sample {found.path} -n 10000 --out {place}",
        )
    (samples,) = verify([place]).artefacts
    if samples.ledger != found.ledger:
        raise UsageError(
            f"{place} was not drawn from the model of {found.path}",
            "name the samples themselves instead of the run",
        )
    return place


def _risk_together(verified: Verification) -> AttackRisk | None:
    """The risk of all releases together, those of one run counted once."""
    if verified.together is None:
        return None
    steps_of: dict[tuple[float, float], int] = {}
    seen: list[PublishedLedger] = []
    for found in verified.artefacts:
        if found.ledger not in seen:
            seen.append(found.ledger)
            for q, sigma, steps in found.ledger.plan.parts():
                steps_of[q, sigma] = steps_of.get((q, sigma), 0) + steps
    parts: tuple[Part, ...] = tuple((q, sigma, n) for (q, sigma), n in sorted(steps_of.items()))
    try:
        return attack_risk(parts, verified.together.delta)
    except NotComputable:
        return risk_of_epsilon(verified.together.epsilon, verified.together.delta)
