"""`dpdm classify`: how well classifiers trained on synthetic images recognise real ones. Files in, figures out.

The protocol keeps the real test images out of every decision: the epoch is chosen on synthetic images, and the test
images are used once for each classifier, after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dpdm_cli.choices import BaselineKind, Split
from dpdm_cli.compute.device import resolve_device
from dpdm_cli.data import NAMED, ImageSet, load_images
from dpdm_cli.data.sources import (
    classes_of,
    held_out_beside,
    sample_metadata,
    samples_in,
    splits_of,
)
from dpdm_cli.errors import DataError, UsageError
from dpdm_cli.evaluation.class_scores import (
    SCATTERING,
    Baseline,
    ClassifyResult,
    Score,
    Spent,
    warn_of_rare,
    write_picture,
)
from dpdm_cli.evaluation.classifiers.networks import (
    CLASSIFIERS,
    EPOCHS,
    accuracy,
    build_classifier,
    confusion_matrix,
    fit,
    predict,
    to_inputs,
)
from dpdm_cli.evaluation.private_classifiers import private_classifier, scattering_classifier
from dpdm_cli.privacy.accounting.claims import claim
from dpdm_cli.privacy.ledger import Ledger
from dpdm_cli.privacy.plan import PrivacyPlan
from dpdm_cli.reporter import Progress, Reporter, heard
from dpdm_cli.stored import Json

PICTURE = "confusion.png"
_PRIVATE_BASELINES = ("dp-sgd", "scattering")


def classify(
    synth: str | Path | None,
    *,
    test: str | Path | None = None,
    models: Sequence[str] | None = None,
    baseline: BaselineKind | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    dataset_size: int | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    download: bool = True,
    limit: int | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> ClassifyResult:
    """Train classifiers on synthetic images and test them on real ones (DPDM, arXiv 2210.09929,
    section 5).

    Each is trained on 90 % of the synthetic images with Adam (3e-4, batches of 128), the epoch is
    chosen by the other 10 %, and the real test images are classified once. Accuracies are computed
    from real images and no privacy claim covers them.

    Args:
        synth: labelled images, as for `dpdm_cli.data.load_images`; None for a baseline alone.
        test: real images: a named set, or a folder or zip with `train` and `test` (one that is not
            divided is all test), or the file that `prepare` held out. By default the data set named
            in the samples' `metadata.json`.
            They are brought to the size and channels of the synthetic images.
        models: some of `logreg`, `mlp`, `cnn`; by default all. `scattering` is not one of them.
        baseline: `real` trains the same classifiers by the same protocol on the real training
            images, without privacy; `dp-sgd` trains them there with this package's private step,
            each with the whole `epsilon`, and tests the model after the last step; `scattering`
            trains one linear classifier of wavelet scattering features there, privately too.
        epsilon, delta: for a private baseline; by default what the samples' statement claims, delta
            otherwise 1e-5 or less than 1/N.
        dataset_size: the public number of real training images, for a private baseline on images of
            the user's own.
        epochs: of the protocol; a private baseline has its own number.
        seed: of initialisation, split, order and dropout; the privacy noise is never seeded.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        data_dir, download: for named sets.
        limit: train on that many images, drawn at random; a private baseline takes all of them,
            which its claim is about.
        out: folder in which `confusion.png` is written; None writes nothing.
        reporter: gets remarks and progress; by default warnings are Python's, and a notebook shows progress.

    Raises:
        UsageError: options that do not go together, or nothing to test on.
        DataError: images that cannot be used, without classes, of other classes than the test
            images, or below 8x8 pixels for `scattering`.
        PrivacyError: a claim that cannot be made.
        ResourceError: data that are not here, or a picture that cannot be written.
    """
    reporter = heard(reporter)
    _check_options(synth, models, baseline, epsilon, delta, epochs, limit)
    metadata = {} if synth is None else sample_metadata(synth)
    source = _test_source(test, metadata)
    where = resolve_device(device)
    if (apart := held_out_beside(source)) is not None:
        reporter.warn(
            f"{source} is what a model may have been trained on; to test on, {apart} was held out"
        )
    splits = splits_of(source)
    test_split: Split = "test" if splits else "train"
    classes = classes_of(source, test_split)
    if not classes:
        raise DataError(
            f"{source} has no classes to distinguish", "classify needs a data set with labels"
        )
    # A model may know classes that no test image is of: those that were stated, whatever the images are.
    drawn = metadata.get("classes")
    if isinstance(drawn, list) and set(classes) < set(map(str, drawn)):
        classes = tuple(map(str, drawn))
    if baseline and "train" not in splits:
        raise UsageError(
            f"--baseline {baseline} needs real training images, but {source} is not divided",
            "lay it out as train/ and test/",
        )
    privacy = None
    if baseline is not None and baseline in _PRIVATE_BASELINES:
        privacy = _privacy(source, baseline, epsilon, delta, dataset_size, metadata)

    synthetic = None
    if synth is not None:
        synthetic = load_images(
            samples_in(synth), data_dir=data_dir, download=download, classes=classes
        ).in_memory()
        synthetic = _limited(synthetic, limit, seed)

    def real(split: Split) -> ImageSet:
        size = synthetic.size if synthetic else (0, 1)
        return load_images(
            source,
            split=split,
            data_dir=data_dir,
            download=download,
            image_size=size[0] if size[0] == size[1] else None,
            channels=synthetic.channels if synthetic else None,
            classes=classes,
        ).in_memory()

    if synthetic is not None:
        _name_rare(reporter, "synthetic", synthetic)
    bench = _Bench(real(test_split), models or tuple(CLASSIFIERS), seed, where, reporter)
    scores = {} if synthetic is None else bench.by_protocol(synthetic, epochs, "synthetic images")
    compared = None
    if baseline == "real":
        reporter.warn("the baseline on real images is NOT PRIVATE")
        trained_on = _limited(real("train"), limit, seed)
        _name_rare(reporter, "real training", trained_on)
        on_real = bench.by_protocol(trained_on, epochs, "real images")
        compared = Baseline("real", len(trained_on.images), on_real)
    elif privacy is not None and baseline == "scattering":
        compared = bench.by_scattering(real("train"), privacy)
    elif privacy is not None:
        compared = bench.by_private_step(real("train"), privacy)
    result = ClassifyResult(
        test=str(source),
        test_n=len(bench.images),
        classes=classes,
        n=None if synthetic is None else len(synthetic.images),
        scores=scores,
        baseline=compared,
    )
    warn_of_rare(reporter, "test", classes, result.test_counts)
    reporter.warn(
        "accuracies on real images are not covered by the samples' privacy claim; "
        "keep them with your private files unless the test images are public"
    )
    if out is not None:
        write_picture(result, out / PICTURE)
        reporter.note(f"confusion matrices: {out / PICTURE}")
    return result


class _Bench:
    """Classifiers to train, and the real test images that each of them sees once."""

    def __init__(
        self,
        test: ImageSet,
        models: Sequence[str],
        seed: int,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self._test, self._models, self._seed = test, models, seed
        self._device, self._reporter = device, reporter

    @property
    def images(self) -> Tensor:
        return self._test.images

    def by_protocol(self, data: ImageSet, epochs: int, what: str) -> dict[str, Score]:
        """Train on 90 % of `data`, choose the epoch by the rest, test."""
        scores = {}
        images, labels = self._on_device(data)
        for name in self._models:
            model, generator = self._fresh(name, data)
            title = f"{CLASSIFIERS[name]} on {what}"
            with self._reporter.progress(title, epochs, "epochs") as progress:

                def advance(epoch: int, task: Progress = progress) -> None:
                    task.advance()

                chosen = fit(
                    model,
                    images,
                    labels,
                    generator=generator,
                    epochs=epochs,
                    after_epoch=advance,
                )
            scores[name] = self._test_once(model, chosen.epoch, chosen.validation_accuracy)
        return scores

    def by_private_step(self, data: ImageSet, privacy: _Privacy) -> Baseline:
        """Train on all of `data` under one plan for each classifier, test the last model."""
        plan = private_classifier.plan_for(privacy.epsilon, privacy.delta, privacy.dataset_size)
        statement = self._stated("DP-SGD on real images: each classifier on its own", plan)
        scores = {}
        images, labels = self._on_device(data)
        for name in self._models:
            model, _ = self._fresh(name, data)
            title = f"{CLASSIFIERS[name]} by DP-SGD"
            with self._reporter.progress(title, plan.steps, "steps") as progress:
                private_classifier.train_privately(model, images, labels, plan, progress)
            scores[name] = self._test_once(model)
        return Baseline("dp-sgd", privacy.dataset_size, scores, statement)

    def by_scattering(self, data: ImageSet, privacy: _Privacy) -> Baseline:
        """Train a linear classifier of scattering features on all of `data`, test it."""
        plan = scattering_classifier.plan_for(privacy.epsilon, privacy.delta, privacy.dataset_size)
        statement = self._stated("scattering features of real images: the classifier", plan)
        model = scattering_classifier.train_privately(
            *self._on_device(data), len(data.classes), Ledger(plan), self._reporter
        )
        scores = {SCATTERING: self._test_once(model, inputs=lambda images: images)}
        return Baseline("scattering", privacy.dataset_size, scores, statement)

    def _stated(self, who: str, plan: PrivacyPlan) -> Spent:
        """Report what one classifier spends, before it does."""
        spent = claim(plan)
        self._reporter.note(
            f"{who} spends epsilon {spent.epsilon_text} at delta {plan.delta:g}: {plan.steps} "
            f"steps, {plan.expected_batch_size:g} images expected in each, sigma {plan.sigma:.4g}"
        )
        return Spent(plan, spent)

    def _fresh(self, name: str, data: ImageSet) -> tuple[nn.Module, torch.Generator]:
        # Each starts from the seed, so that no score depends on which others were asked for.
        generator = torch.Generator().manual_seed(self._seed)
        shape = (data.channels, *data.size)
        model = build_classifier(name, shape, len(data.classes), generator)
        return model.to(self._device), generator

    def _test_once(
        self,
        model: nn.Module,
        epoch: int | None = None,
        validation: float | None = None,
        inputs: Callable[[Tensor], Tensor] = to_inputs,
    ) -> Score:
        images, labels = self._on_device(self._test)
        predictions = predict(model, images, inputs=inputs)
        counts = confusion_matrix(predictions, labels, len(self._test.classes))
        return Score(accuracy(predictions, labels), counts.tolist(), epoch, validation)

    def _on_device(self, data: ImageSet) -> tuple[Tensor, Tensor]:
        if data.labels is None:
            raise DataError(
                f"{data.name} has no labels",
                "classify needs images in one subfolder for each class",
            )
        return data.images.to(self._device), data.labels.to(self._device)


@dataclass(frozen=True)
class _Privacy:
    epsilon: float
    delta: float
    dataset_size: int


def _check_options(
    synth: str | Path | None,
    models: Sequence[str] | None,
    baseline: str | None,
    epsilon: float | None,
    delta: float | None,
    epochs: int,
    limit: int | None,
) -> None:
    if synth is None and baseline is None:
        raise UsageError(
            "there is nothing to train on", "name the synthetic images, or ask for --baseline real"
        )
    if baseline not in (None, "real", *_PRIVATE_BASELINES):
        raise UsageError(f"unknown baseline {baseline!r}", "choose real, dp-sgd or scattering")
    if baseline not in _PRIVATE_BASELINES and (epsilon is not None or delta is not None):
        raise UsageError(
            "epsilon and delta are given, but nothing is trained privately",
            "add --baseline dp-sgd or --baseline scattering, or leave them out",
        )
    if synth is None and baseline in _PRIVATE_BASELINES and limit is not None:
        raise UsageError(
            f"--limit is not for --baseline {baseline}, whose claim is about all images",
            "leave it out",
        )
    if synth is None and baseline == "scattering" and models is not None:
        raise UsageError(
            "--model is not for --baseline scattering, which is a classifier of its own",
            "leave it out, or choose --baseline dp-sgd",
        )
    unknown = [name for name in models or () if name not in CLASSIFIERS]
    if unknown or (models is not None and not models):
        raise UsageError(
            f"unknown classifiers: {', '.join(map(repr, unknown)) or 'none named'}",
            f"choose from {', '.join(CLASSIFIERS)}",
        )
    if epochs < 1 or (limit is not None and limit < 1):
        raise UsageError(f"epochs and limit must be at least 1, found {epochs} and {limit}")


def _test_source(test: str | Path | None, metadata: Json) -> str | Path:
    if test is not None:
        return test
    named = metadata.get("dataset")
    if isinstance(named, str) and named in NAMED:
        return named
    raise UsageError(
        "the samples do not say which real images to test on",
        "name them with --test: mnist, fashion-mnist, digits, cifar10, a folder or a zip",
    )


def _privacy(
    source: str | Path,
    baseline: str,
    epsilon: float | None,
    delta: float | None,
    dataset_size: int | None,
    metadata: Json,
) -> _Privacy:
    facts = NAMED.get(str(source))
    size = dataset_size or (facts.train_size if facts else None)
    if size is None:
        raise UsageError(
            f"--baseline {baseline} needs the public number of training images in {source}",
            "state it with --dataset-size; counting them would make it a figure of the private data",
        )
    statement = metadata.get("statement")
    claimed = statement if isinstance(statement, dict) else {}

    def stated(name: str) -> float | None:
        value = claimed.get(name)
        return float(value) if isinstance(value, int | float) else None

    epsilon = stated("epsilon") if epsilon is None else epsilon
    if epsilon is None:
        raise UsageError(
            f"--baseline {baseline} needs an epsilon", "add --eps, for example --eps 10"
        )
    if delta is None:
        delta = stated("delta") or min(1e-5, 10.0 ** -len(str(size)))
    return _Privacy(epsilon, delta, size)


def _name_rare(reporter: Reporter, what: str, data: ImageSet) -> None:
    if data.labels is not None:
        counts = torch.bincount(data.labels, minlength=len(data.classes))
        warn_of_rare(reporter, what, data.classes, counts.tolist())


def _limited(data: ImageSet, limit: int | None, seed: int) -> ImageSet:
    if limit is None or limit >= len(data.images):
        return data
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.images), generator=generator)[:limit]
    labels = None if data.labels is None else data.labels[chosen]
    return ImageSet(data.name, data.images[chosen], labels, data.classes)
