"""The page: what it says follows from what was verified, and no name from outside becomes part of its markup."""

from __future__ import annotations

import base64
import json
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.drawn import claimed, contents, draw, save

from dpdm_cli import report, verify
from dpdm_cli.checkpoint import load_model
from dpdm_cli.errors import DamagedFileError, DataError, DpdmError, PrivacyError, UsageError
from dpdm_cli.privacy.accounting.attack_risk import plan_risk
from dpdm_cli.privacy.accounting.claims import round_up
from dpdm_cli.privacy.public_inputs import PUBLISHED, PublicInputs
from dpdm_cli.privacy.statement import private_statement
from dpdm_cli.reporting.budget import budget_of
from dpdm_cli.training.folder.run_folder import RunFolder

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"
STATED = PublicInputs(
    **dict.fromkeys(("dataset_size", "classes", "image_size", "channels"), "stated")
)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}{% include 'report.css' %}",
    "</svg></style><h1>&amp;",
    "javascript:alert(1)//'\\",
    "ж" * 120,
)


class Outline(HTMLParser):
    """Elements and attributes of a page, its text, and whether what was opened is closed."""

    VOID = ("meta", "img", "rect", "line", "br", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def run_of(home: Path, classes: tuple[str, ...], dataset: str = "custom") -> Path:
    """A finished run of these classes with a claim that holds."""
    home.mkdir()
    ledger = load_model(PRETRAINED).statement.ledger
    public = replace(PUBLISHED, image_size="stated") if dataset == "mnist" else STATED
    statement = private_statement(ledger, public)
    save(home / "model.safetensors", classes, statement=statement, dataset=dataset)
    shutil.copy(PRETRAINED / "samples.png", home)
    folder = RunFolder(home)
    folder.write_statement(statement)
    folder.write_manifest(folder.samples)
    verify([home])
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, sets of samples of it, and what is wrong with others."""
    home = tmp_path_factory.mktemp("secret-ward-7")
    run_of(home / "run", ("cat", "dog", "eel"))
    draw(home / "run", home / "png", n=30)
    draw(home / "run", home / "npz", n=12, format="npz")
    run_of(home / "hostile", HOSTILE)
    draw(home / "hostile", home / "hostile-npz", n=12, format="npz", steps=1)
    run_of(home / "digits", tuple("0123456789"), "mnist")
    draw(home / "digits", home / "digits-png", n=40, steps=1)
    save(home / "claims-little.safetensors", statement=claimed(0.5))
    return home


def page_of(tmp_path: Path, *paths: Path, **options: Any) -> str:
    file = tmp_path / "page.html"
    result = report(paths[0], paths[1:], out=file, **options)
    content = file.read_text(encoding="utf-8")
    assert result.size == file.stat().st_size
    return content


def pictures(outline: Outline) -> list[Image.Image]:
    uris = [str(given["src"]) for tag, given in outline.elements if tag == "img"]
    assert all(uri.startswith("data:image/png;base64,") for uri in uris)
    return [Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


def test_the_page_says_what_the_accountants_say(home: Path, tmp_path: Path) -> None:
    outline = Outline(page_of(tmp_path, home / "run", home / "png"))
    assert not outline.open
    statement = load_model(home / "run" / "model.safetensors").statement
    risk = plan_risk(statement.plan)
    assert f"right in at most {round_up(100 * risk.guess, 1):.1f} % of them" in outline.words
    for _, bound in risk.true_positive_rates:
        assert f"{round_up(100 * bound, 1):.1f} %" in outline.words
    assert statement.text in outline.words
    for line in (*statement.not_covered, *verify([home / "run"]).artefacts[0].checked):
        assert line in outline.words
    for part in budget_of(statement.plan):
        assert part.name in outline.words
        assert f"{part.epsilon:.4g}" in outline.words


def test_the_budget_is_divided_as_it_was_calibrated() -> None:
    parts = budget_of(load_model(PRETRAINED).statement.plan)
    assert [part.releases for part in parts] == [2, 300]
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert parts[0].share == pytest.approx(0.5, abs=1e-3)  # --warm-share 0.5
    assert all(part.epsilon < 9.997 for part in parts)


def test_the_images_are_the_first_of_each_class_pixel_by_pixel(home: Path, tmp_path: Path) -> None:
    outline = Outline(page_of(tmp_path, home / "run", home / "png", home / "npz"))
    found = [np.asarray(picture.convert("RGBA")) for picture in pictures(outline)]
    assert len(found) == 6
    assert all("exif" not in picture.info for picture in pictures(outline))
    files = sorted((home / "png").rglob("dog/0*.png"))[:10]
    for place, file in enumerate(files):
        real = np.asarray(Image.open(file).convert("RGBA"))
        assert (found[1][:, place * 5 : place * 5 + 4] == real).all()
    arrays = np.load(home / "npz" / "samples.npz")
    first = arrays["images"][arrays["labels"] == 2][0]
    assert (found[5][:, :4, 0] == first).all()


def test_the_page_needs_no_network_and_no_script(home: Path, tmp_path: Path) -> None:
    content = page_of(tmp_path, home / "run", home / "png")
    outline = Outline(content)
    tags = {tag for tag, _ in outline.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
    for _, given in outline.elements:
        assert not [name for name in given if name.startswith("on") or name in ("href", "srcset")]
    assert "url(" not in content
    assert "@import" not in content
    policy = next(given["content"] for tag, given in outline.elements if "http-equiv" in given)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in content
    assert "@media print" in content


def test_the_same_files_make_the_same_page_and_tell_nothing_of_where_they_lie(
    home: Path, tmp_path: Path
) -> None:
    first = page_of(tmp_path, home / "run", home / "png")
    shutil.copytree(home / "run", tmp_path / "elsewhere")
    shutil.copytree(home / "png", tmp_path / "drawn")
    (tmp_path / "page.html").unlink()
    assert first == page_of(tmp_path, tmp_path / "elsewhere", tmp_path / "drawn")
    assert "secret-ward-7" not in first


@pytest.mark.parametrize("samples", [(), ("hostile-npz",)], ids=["drawn now", "samples"])
def test_names_from_outside_stay_text(home: Path, tmp_path: Path, samples: tuple[str, ...]) -> None:
    content = page_of(tmp_path, home / "hostile", *(home / name for name in samples))
    (tmp_path / "other").mkdir()
    harmless = page_of(tmp_path / "other", home / "run", *(home / "npz" for _ in samples))
    outline, plain = Outline(content), Outline(harmless)
    assert not outline.open
    assert {tag for tag, _ in outline.elements} == {tag for tag, _ in plain.elements}
    names = {name for _, given in outline.elements for name in given}
    assert names == {name for _, given in plain.elements for name in given}
    for name in HOSTILE:
        assert name in outline.text


@pytest.mark.parametrize("name", ["png", "npz"])
def test_the_lines_that_load_a_set_load_it(name: str, home: Path, tmp_path: Path) -> None:
    page_of(tmp_path, home / name)
    (lines,) = re.findall(r"<pre>(.*?)</pre>", (tmp_path / "page.html").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(unescape(lines).replace("FOLDER", str(home / name)), found)
    assert len(found["images"]) == {"png": 30, "npz": 12}[name]


def private(home: Path, tmp_path: Path, **options: Any) -> tuple[Any, str]:
    out = tmp_path / "private" / "report.html"
    result = report(
        home / "digits-png", out=out, private=True, models=["logreg"], epochs=1, **options
    )
    return result, out.read_text(encoding="utf-8")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder of real images of ten classes, with the names of the digits, of which the last has none to test on."""
    random = np.random.default_rng(0)
    for split, each in (("train", 3), ("test", 2)):
        for name in "0123456789":
            for index in range(each if (split, name) != ("test", "9") else 0):
                file = tmp_path / "<b>real" / split / name / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).save(file)
    return tmp_path / "<b>real"


def test_a_private_page_is_closed_and_says_what_proves_nothing(
    home: Path, real: Path, tmp_path: Path
) -> None:
    result, content = private(home, tmp_path, against=str(real))
    outline = Outline(content)
    assert result.is_private
    assert stat.S_IMODE(result.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(result.file.parent.stat().st_mode) == 0o700
    assert "Do not publish this page." in outline.words
    assert "This proves nothing about privacy." in outline.words
    assert f"real images of {real}" in outline.words
    (figures,) = result.figures.values()
    (score,) = figures.accuracies
    assert figures.majority == pytest.approx(100 / 9)
    assert set(score.recalls) == set("012345678")
    assert score.balanced == pytest.approx(sum(score.recalls.values()) / 9)
    assert f"{score.accuracy:.2f} %" in outline.words
    assert [each.name for each in figures.by_class] == list("0123456789")
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_nearest_real_image_is_the_nearest(home: Path, tmp_path: Path, real: Path) -> None:
    for file in (home / "digits-png").rglob("3/0*.png"):
        shutil.copy(file, real / "train" / "5" / f"copy-{file.name}")
    result, _ = private(home, tmp_path, against=str(real))
    (figures,) = result.figures.values()
    pair = figures.neighbours[3]
    assert (pair.sample == pair.real).all()
    assert pair.distance == 0
    assert all(other.distance > 0 for other in figures.neighbours if other is not pair)


def test_what_may_be_published_holds_nothing_of_real_images(home: Path, tmp_path: Path) -> None:
    content = page_of(tmp_path, home / "digits-png")
    for word in ("nearest", "accuracy", "confusion", "recall"):
        assert word not in content.casefold()


CASES: dict[str, tuple[type[DpdmError], Callable[[Path, Path], Any]]] = {
    "figures of real images outside of private/": (
        PrivacyError,
        lambda home, out: report(home / "digits-png", out=out / "page.html", private=True),
    ),
    "real images without --private": (
        UsageError,
        lambda home, out: report(home / "digits-png", out=out / "page.html", against="mnist"),
    ),
    "private without samples": (
        UsageError,
        lambda home, out: report(home / "run", out=out / "private" / "x.html", private=True),
    ),
    "private with images nobody knows": (
        UsageError,
        lambda home, out: report(home / "png", out=out / "private" / "x.html", private=True),
    ),
    "samples of another run": (
        UsageError,
        lambda home, out: report(home / "run", [_other(home, out)], out=out / "page.html"),
    ),
    "a run in the place of samples": (
        UsageError,
        lambda home, out: report(home / "run", [home / "run"], out=out / "page.html"),
    ),
    "a page in the run": (
        UsageError,
        lambda home, out: report(home / "run", out=home / "run" / "page.html"),
    ),
    "a private page in a set of samples": (
        UsageError,
        lambda home, out: report(
            home / "digits-png", out=home / "digits-png" / "private" / "x.html", private=True
        ),
    ),
    "a page that exists": (
        UsageError,
        lambda home, out: report(home / "run", out=_written(out / "page.html")),
    ),
    "a page in no folder": (
        DataError,
        lambda home, out: report(home / "run", out=out / "nowhere" / "page.html"),
    ),
    "a claim that does not hold": (
        PrivacyError,
        lambda home, out: report(home / "claims-little.safetensors", out=out / "page.html"),
    ),
    "a file beside the manifest's": (
        DamagedFileError,
        lambda home, out: report(_with_stranger(home, out), out=out / "page.html"),
    ),
    "nothing": (
        DataError,
        lambda home, out: report(home / "nothing", out=out / "page.html"),
    ),
}


def _other(home: Path, out: Path) -> Path:
    from support.drawn import PLAN

    from dpdm_cli.privacy.ledger import Ledger

    ledger = Ledger(replace(PLAN, sigma=3.0))
    for _ in range(PLAN.releases):
        ledger.record()
    save(out / "model.safetensors", statement=private_statement(ledger, STATED))
    draw(out / "model.safetensors", out / "other", n=3, steps=1)
    return out / "other"


def _written(file: Path) -> Path:
    file.write_text("mine")
    return file


def _with_stranger(home: Path, out: Path) -> Path:
    run = Path(shutil.copytree(home / "run", out / "run"))
    (run / "<script>.html").write_text("x")
    return run


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_reported_is_refused_and_leaves_nothing(
    case: str, home: Path, tmp_path: Path
) -> None:
    kind, attempt = CASES[case]
    before = contents(home)
    with pytest.raises(kind) as caught:
        attempt(home, tmp_path)
    assert caught.value.hint
    assert contents(home) == before
    left = [f for f in tmp_path.rglob("*.html") if f.name != "<script>.html"]
    assert [f.read_text() for f in left] == (["mine"] if case == "a page that exists" else [])
