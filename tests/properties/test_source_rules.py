"""Nothing that follows the plan is divided by, or drawn at a rate of, a number of records: found in the source.

Two data sets that differ in one record would run two mechanisms otherwise (arXiv 2605.15648). What cannot be told from
the source alone is shown by `test_neighbours`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpdm_cli

PACKAGE = Path(dpdm_cli.__file__).parent

RECORDS = {
    *("data", "dataset", "example", "examples", "image", "images", "labels", "record", "records"),
    *(
        "batch",
        "batches",
        "chosen",
        "everyone",
        "gradients",
        "indices",
        "members",
        "rows",
    ),
    *("share", "span"),
}
"""What names of records are made of, those of one step too."""

PUBLIC = {"dataset_size", "expected_batch_size", "micro_batch", "classes"}
"""Names that contain such a word and hold what the plan, the settings or the user say."""

OTHERS = {
    **{
        path.relative_to(PACKAGE).as_posix(): "records that the audit makes up"
        for path in (PACKAGE / "privacy" / "audit").rglob("*.py")
    },
    "privacy/gradients/tuning.py": "grey images, which the tuning makes up",
    "training/probe_records.py": "records that the audit makes up",
    "sampling/grids.py": "drawn images, in a picture",
    "sampling/png.py": "drawn images, in files",
}
"""Files that hold no private records, and what they count instead."""

NO_PLAN = ("data/", "diffusion/", "evaluation/classifiers/", "evaluation/features/")
"""Rooms that know no plan, in which images are counted as images. `data/sources` tells a plan its N."""

COUNTED = {
    (
        "privacy/gradients/convolution.py",
        "side_by_side",
        "rows.shape",
    ): "dimensions beside the first",
    (
        "privacy/gradients/layer_rules.py",
        "_sum_copies",
        "rows.shape",
    ): "dimensions beside the first",
    (
        "privacy/gradients/per_example.py",
        "backward",
        "len(this_pass.gradients)",
    ): "to tell copies apart",
    ("privacy/gradients/per_example.py", "place_of", "len(self.gradients)"): "a shape of memory",
    ("privacy/clipping.py", "row_norms", "gradients.shape"): "in how many parts a norm is summed",
    ("privacy/poisson.py", "draw", "records"): "how many coins, not how they are weighted",
    ("privacy/step.py", "__init__", "records"): "for the sampler alone",
    ("privacy/step.py", "__call__", "self._records"): "for the sampler alone",
    ("privacy/gradients/per_example.py", "__call__", "len(indices)"): "how many to expect",
    ("compute/threads.py", "micro_batches", "len(batch)"): "how a sum is cut into parts",
    (
        "training/plain_step.py",
        "plain_step",
        "len(share)",
    ): "the ordinary step, which claims nothing",
    (
        "evaluation/private_classifiers/private_descent.py",
        "descend",
        "len(labels)",
    ): "for the sampler alone",
    (
        "training/config/public_facts.py",
        "public_facts",
        "len(images.images if people is None else people)",
    ): "N, if that is declared public",
    (
        "evaluation/private_classifiers/scattering_classifier.py",
        "train_privately",
        "len(images)",
    ): "a row for each",
    (
        "evaluation/private_classifiers/scattering_classifier.py",
        "train_privately",
        "len(indices)",
    ): "how far it has come",
    (
        "evaluation/private_classifiers/scattering_classifier.py",
        "train_privately",
        "images.shape",
    ): "beside the first",
    (
        "training/config/run_spec.py",
        "resolve",
        "len(images.images)",
    ): "N of a run that claims nothing",
    (
        "data/sources.py",
        "size_of",
        "len(list_images(source, fit=Fit(), reading=reading, reporter=reporter))",
    ): "N, if that is declared public",
    (
        "training/trainer.py",
        "__init__",
        "len(images.images if self._people is None else self._people)",
    ): "for the sampler alone",
    ("training/records.py", "__len__", "len(self.images_of)"): "persons, for the two lines above",
    (
        "training/forecast/found.py",
        "found_in",
        "images.images.shape",
    ): "for the eyes of whoever has the images",
    ("training/trainer.py", "_drawn", "len(self._set.images)"): "a step that claims nothing",
    ("training/warm_start.py", "coefficients", "len(images.images)"): "which images are gone over",
    (
        "training/warm_start.py",
        "counted",
        "len(rows)",
    ): "a one for each, to be summed with its vector",
}
"""Where records are counted after the plan is made, and why that is harmless. Not one line more."""

DIVIDED = {
    ("training/plain_step.py", "whole[-1].clamp(min=1)"): "the ordinary step, which claims nothing",
}
"""Divisors and rates that do depend on such a count."""

SUMMED = (
    *("class_sums", "clipping", "noise", "poisson", "step"),
    *("gradients/convolution", "gradients/layer_rules", "gradients/per_example"),
)
"""Where gradients and vectors are added up and never averaged."""


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def after_the_plan() -> dict[str, ast.Module]:
    """The whole privacy room, and what a training run or a private classifier is made of."""
    waiting = [*(PACKAGE / "privacy").rglob("*.py"), PACKAGE / "training" / "run.py"]
    waiting += (PACKAGE / "evaluation" / "private_classifiers").glob("*.py")
    found: dict[str, ast.Module] = {}
    while waiting:
        path = waiting.pop()
        name = path.relative_to(PACKAGE).as_posix()
        if path.is_file() and name not in found:
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
            parts = (module.split(".") for module in imported(found[name]))
            waiting += [PACKAGE.joinpath(*p[1:]).with_suffix(".py") for p in parts if p[1:]]
    assert set(OTHERS) <= set(found)
    return {
        name: tree
        for name, tree in found.items()
        if name not in OTHERS and (name == "data/sources.py" or not name.startswith(NO_PLAN))
    }


FILES = after_the_plan()


def names_in(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr


def of_records(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in PUBLIC:
        return False
    return any(
        RECORDS & set(name.lower().split("_")) for name in names_in(node) if name not in PUBLIC
    )


def is_count(node: ast.AST) -> bool:
    """Whether an expression is a number of records: a length, a shape, or a variable that is called so."""
    if isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Name) and function.id == "len":
            return of_records(node.args[0])
        if isinstance(function, ast.Attribute) and function.attr in ("size", "numel", "nelement"):
            return of_records(function.value)
    if isinstance(node, ast.Attribute) and node.attr == "shape":
        return of_records(node.value)
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return name in ("records", "_records") and isinstance(node.ctx, ast.Load)


def with_places(node: ast.AST, place: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Everything in a file, with the name of the innermost function around it."""
    for child in ast.iter_child_nodes(node):
        yield child, place
        yield from with_places(child, child.name if isinstance(child, ast.FunctionDef) else place)


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda))


def counts(node: ast.AST, known: set[str]) -> bool:
    """Whether a count, or a variable that was made of one, has a part in an expression."""
    return any(
        is_count(part) or (isinstance(part, ast.Name) and part.id in known)
        for part in ast.walk(node)
    )


def made_of_counts(function: ast.AST) -> set[str]:
    """Variables that a count has gone into, by assignments and what is added to them."""
    known: set[str] = set()
    while True:
        before = len(known)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if node.value is not None and counts(node.value, known):
                    for target in targets:
                        known |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        if len(known) == before:
            return known


def divisors_and_rates(node: ast.AST) -> Iterator[ast.AST]:
    """What something is divided by, and what is taken for a probability or a figure of the mechanism."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div | ast.FloorDiv):
        yield node.right if isinstance(node, ast.BinOp) else node.value
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func).split(".")[-1].strip("_")
        if called in ("div", "divide", "true_divide", "floor_divide", "reciprocal", "bernoulli"):
            yield from node.args[: 1 if called == "bernoulli" else None]
            if called == "reciprocal":
                yield node.func
        figures = ("rate", "sample_rate", "probability", "sigma", "scale", "clip_norm", "divisor")
        yield from (word.value for word in node.keywords if word.arg in figures)
    if isinstance(node, ast.Assign) and any(
        ast.unparse(target).split(".")[-1].strip("_") in ("rate", "sample_rate", "divisor", "scale")
        for target in node.targets
    ):
        yield node.value


def test_records_are_counted_where_that_is_harmless_and_nowhere_else() -> None:
    found = {
        (name, place, ast.unparse(node))
        for name, tree in FILES.items()
        for node, place in with_places(tree)
        if is_count(node)
    }
    assert found == set(COUNTED)


def test_no_count_of_records_becomes_a_divisor_or_a_rate() -> None:
    found = set()
    for name, tree in FILES.items():
        for function in functions(tree):
            known = made_of_counts(function)
            for node in ast.walk(function):
                for figure in divisors_and_rates(node):
                    if counts(figure, known):
                        found.add((name, ast.unparse(figure)))
    assert found == set(DIVIDED)


@pytest.mark.parametrize("module", SUMMED)
def test_what_is_released_is_a_sum_and_no_mean(module: str) -> None:
    called = {
        ast.unparse(node.func).split(".")[-1]
        for node in ast.walk(FILES[f"privacy/{module}.py"])
        if isinstance(node, ast.Call)
    }
    assert not called & {"mean", "nanmean", "average", "median", "normalize", "softmax"}


@pytest.mark.parametrize(
    "text",
    [
        "def f(images): return total / len(images)",
        "def f(batch):\n    n = max(1, len(batch))\n    total /= n",
        "def f(micro_batches):\n    n = 0\n    for rows in micro_batches: n += len(rows)\n    g = total / n",
        "def f(rows): return total.div_(rows.shape[0])",
        "def f(self): return bernoulli(batch / self._records, self._records)",
        "def f(self, records):\n    self._rate = self.plan.expected_batch_size / records",
        "def f(images): return Step(sample_rate=64 / len(images.images))",
    ],
)
def test_the_search_finds_the_usual_ways(text: str) -> None:
    (function,) = functions(ast.parse(text))
    known = made_of_counts(function)
    figures = [f for node in ast.walk(function) for f in divisors_and_rates(node)]
    assert any(counts(figure, known) for figure in figures)
