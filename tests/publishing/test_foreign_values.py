"""What dpdm does not write is found by `verify`, whoever put digests right behind it, and reaches no release."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from PIL import Image, PngImagePlugin
from support.drawn import draw, save

from dpdm_cli import checkpoint, release, verify
from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.errors import DamagedFileError, DpdmError, PrivacyError
from dpdm_cli.files import sha256_of
from dpdm_cli.privacy.public_inputs import PUBLISHED
from dpdm_cli.privacy.statement import Statement, private_statement
from dpdm_cli.sampling import sample_metadata
from dpdm_cli.sampling.album import Album
from dpdm_cli.sampling.png import PngEncoder, _chunk
from dpdm_cli.sampling.sample_metadata import Digests, SampleMetadata
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.sampling.writing import FORMATS, open_sink
from dpdm_cli.training.folder.run_folder import RunFolder

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"
MARK = "Ada Lovelace"
FOREIGN = (
    f"image 17 shows {MARK}",
    base64.b64encode(bytes(range(256)) * 132).decode(),
    12345.678,
    -1,
    True,
    [MARK],
    {"more": MARK},
    None,
)


def changed(value: object) -> list[object]:
    """What is foreign in the place of a value."""
    return [foreign for foreign in FOREIGN if json.dumps(foreign) != json.dumps(value)]


def refused(place: Path, name: str = "") -> None:
    """By both commands, as damage that is named; a false claim is told from damage."""
    for attempt in (lambda: verify([place]), lambda: release(place, place.parent / "out")):
        with pytest.raises((DamagedFileError, PrivacyError)) as caught:
            attempt()
        assert name in caught.value.message
        assert len(caught.value.message) < 1000
        assert not (place.parent / "out").exists()


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As somebody does who puts the digest of the description right, unless that is what is changed."""
    values = json.loads(path.read_text())
    seal = values.get(sample_metadata._SEAL)
    change(values)
    if seal is not None and values.get(sample_metadata._SEAL) == seal:
        values[sample_metadata._SEAL] = sample_metadata._seal_of(values)
    path.write_text(json.dumps(values, indent=2) + "\n")


def digest_again(folder: Path) -> None:
    """Enter the digests of what lies there by now, as somebody would who changes it on purpose."""

    def of_samples(values: dict[str, Any]) -> None:
        metadata = SampleMetadata.from_json(values)
        sink = open_sink(metadata.format, folder, metadata.album)
        images = sink.digest()
        sink.close()
        files = {name: sha256_of(folder / name) for name in metadata.sealed.files}
        values.update(replace(metadata, digests=Digests(images=images, files=files)).to_json())

    def of_run(values: dict[str, Any]) -> None:
        values["sha256"] = {name: sha256_of(folder / name) for name in values["sha256"]}

    if (folder / "metadata.json").is_file():
        edited(folder / "metadata.json", of_samples)
    else:
        edited(folder / "manifest.json", of_run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder as `release` leaves it: small, and with a claim that holds."""
    home = tmp_path_factory.mktemp("finished") / "run"
    home.mkdir()
    model = load_model(PRETRAINED)
    public = replace(PUBLISHED, image_size="stated")
    statement = private_statement(model.statement.ledger, public)
    save(home / "model.safetensors", model.classes, statement=statement, dataset="mnist")
    for name in ("samples.png", "README.md"):
        shutil.copy(PRETRAINED / name, home)
    folder = RunFolder(home)
    folder.write_statement(statement)
    folder.write_manifest(folder.samples, folder.card)
    verify([home])
    return home


@pytest.fixture(scope="module")
def drawn(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in each format, and a shard."""
    home = tmp_path_factory.mktemp("drawn")
    options: dict[str, Any] = {"n": 4, "batch_size": 2, "steps": 1}
    for format in FORMATS:
        draw(finished, home / format, format=format, **options)
    draw(finished, home / "shard", shard=(1, 2), **options)
    for name in (*FORMATS, "shard"):
        verify([home / name])
    return home


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def copied(drawn: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn / name, tmp_path / "synth"))


METADATA = (
    *("kind", "private", "headline", "statement", "dataset", "classes", "n", "format"),
    *(
        "digital_source_type",
        "marked",
        "image_shape",
        "drawn",
        "proportions",
        "seed",
        "batch_size",
        "sampler",
        "sampler_from",
    ),
    *("checkpoint_sha256", "written_by", "images_sha256", "files_sha256", "description_sha256"),
)


def test_every_key_of_a_description_is_among_those_that_are_changed_here(drawn: Path) -> None:
    assert tuple(json.loads((drawn / "png" / "metadata.json").read_text())) == METADATA


@pytest.mark.parametrize("key", [*METADATA, "shard", "losses"])
def test_a_foreign_value_in_the_description_of_samples_is_damage(
    drawn: Path, tmp_path: Path, key: str
) -> None:
    synth = copied(drawn, "shard" if key == "shard" else "png", tmp_path)
    text = (synth / "metadata.json").read_text()
    named = "" if key in ("kind", "statement", "shard", "classes") else key
    for foreign in changed(json.loads(text).get(key, "absent")):
        edited(synth / "metadata.json", lambda values, f=foreign: values.update({key: f}))
        if (key, foreign) == ("shard", None):  # as if it were a whole set
            with pytest.raises(DamagedFileError):
                verify([synth])
        else:
            refused(synth, named)
        (synth / "metadata.json").write_text(text)
    if key in json.loads(text):
        edited(synth / "metadata.json", lambda values: values.pop(key))
        refused(synth, named)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("sampler", {"steps": 3}),
        ("sampler", {"churn": {"amount": 1.0, "lowest": 0.0, "highest": None, "scale": 1.0}}),
        ("sampler", {"note": MARK}),
        ("sampler", {"steps": True}),
        ("sampler", {"steps": 10**12}),
        ("files_sha256", {MARK: "0" * 64}),
        ("statement", {"reason": MARK}),
    ],
)
def test_a_foreign_value_deeper_in_a_description_is_damage(
    drawn: Path, tmp_path: Path, key: str, change: dict[str, Any]
) -> None:
    synth = copied(drawn, "npz", tmp_path)
    edited(synth / "metadata.json", lambda values: values[key].update(change))
    refused(synth)


@pytest.mark.parametrize(
    ("format", "change"),
    [
        ("png", {"n": 10**8}),
        ("zip", {"n": 10**8}),
        ("npz", {"n": 10**8}),
        ("png", {"image_shape": [1, 1 << 16, 1 << 16]}),
        ("shard", {"n": 10**8, "shard": {"number": 1, "of": 10, "whole_n": 10**9}}),
        ("shard", {"n": 2, "shard": {"number": 1, "of": 2, "whole_n": 10**12}}),
        ("npz", {"n": 10**8, "shard": {"number": 1, "of": 10, "whole_n": 10**9}}),
    ],
)
def test_numbers_of_images_are_compared_with_what_is_there_before_one_is_named(
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    change: dict[str, Any],
) -> None:
    synth = copied(drawn, format, tmp_path)
    edited(
        synth / "metadata.json",
        lambda values: values.update({"batch_size": 10**8 if "shard" in change else 2, **change}),
    )
    (synth / ".shard-1-of-2.json").unlink(missing_ok=True)
    named = 0
    member, indices = Album.member, Shard.indices

    def counted(album: Album, index: int) -> str:
        nonlocal named
        named += 1
        assert named < 100
        return member(album, index)

    def counted_of_shard(shard: Shard, n: int, size: int) -> list[int]:
        assert n < 100
        return indices(shard, n, size)

    monkeypatch.setattr(Album, "member", counted)
    monkeypatch.setattr(Shard, "indices", counted_of_shard)
    refused(synth)


@pytest.mark.parametrize(
    "text",
    [
        lambda text: text.replace("{", '{"headline": "' + MARK + '", ', 1),
        lambda text: text + "\n" * 50,
        lambda text: text.replace("\n", "\n\t \t"),
        lambda text: text + MARK,
    ],
    ids=["a key twice", "blanks behind", "blanks within", "words behind"],
)
@pytest.mark.parametrize("name", ["metadata.json", "manifest.json", "statement.json"])
def test_a_json_file_holds_its_object_and_nothing_else(
    drawn: Path, run: Path, tmp_path: Path, name: str, text: Callable[[str], str]
) -> None:
    place = copied(drawn, "png", tmp_path) if name == "metadata.json" else run
    (place / name).write_text(text((place / name).read_text()))
    if name == "statement.json":
        digest_again(place)
    refused(place, name)


@pytest.mark.parametrize("name", ["manifest.json", "samples.png", MARK, "../drawn"])
def test_a_manifest_names_the_files_of_a_run_by_digests_alone(run: Path, name: str) -> None:
    text = (run / "manifest.json").read_text()
    for foreign in (*FOREIGN, "0" * 64):
        edited(run / "manifest.json", lambda values, f=foreign: values["sha256"].update({name: f}))
        refused(run, "manifest" if name != "samples.png" else "")
        edited(run / "manifest.json", lambda values, f=foreign: values.update({name: f}))
        refused(run, "manifest" if name != "samples.png" else "")
        (run / "manifest.json").write_text(text)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], **beside: str) -> None:
    """A model file that describes itself otherwise, under digests that fit."""
    tensors, facts = read_tensors(path, "model")
    change(facts)
    header = {"format": checkpoint.FORMAT, "kind": "model", **facts}
    text = json.dumps({**header, "sha256": checkpoint._digest(tensors, header)}, sort_keys=True)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"dpdm": text, **beside}))
    digest_again(path.parent)


@pytest.mark.parametrize(
    "key", ["network", "parameterisation", "classes", "dataset", "statement", "prior", "losses"]
)
def test_a_foreign_value_in_the_description_of_a_model_is_damage(run: Path, key: str) -> None:
    path = run / "model.safetensors"
    content = path.read_bytes()
    for foreign in changed(read_tensors(path, "model")[1].get(key, "absent")):
        rewritten(path, lambda facts, foreign=foreign: facts.update({key: foreign}))
        refused(run)
        path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["network"].update(note=MARK),
        lambda facts: facts["network"].update(channels=float(facts["network"]["channels"])),
        lambda facts: facts.update(prior={"coefficients": 2, "directions": 2, "note": MARK}),
        lambda facts: facts.update(classes=[*facts["classes"][:9], "x" * 45_000]),
        lambda facts: facts.update(classes=[*facts["classes"][:9], "two\nlines"]),
        lambda facts: facts.update(classes=[*facts["classes"][:9], facts["classes"][0]]),
        lambda facts: facts.update(classes=[*facts["classes"][:9], MARK]),
    ],
    ids=["network", "float", "prior", "a long class", "lines", "one class twice", "none of MNIST"],
)
def test_a_foreign_value_deeper_in_the_description_of_a_model_is_damage(
    run: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewritten(run / "model.safetensors", change)
    refused(run, str(run))


def test_words_beside_the_description_of_a_model_are_damage(run: Path) -> None:
    rewritten(run / "model.safetensors", lambda facts: None, note=MARK)
    refused(run, "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head[:-1] + b" \t" * 40 + b"}",
        lambda head: head + b" " * 8,
        lambda head: head.replace(b'{"dtype":', b'{"note":"Ada Lovelace","dtype":', 1),
        lambda head: head[:-1] + b"," + re.findall(rb'"classes.weight":{.*?}', head)[0] + b"}",
        lambda head: json.dumps(dict(reversed(json.loads(head).items()))).encode(),
    ],
    ids=["blanks", "blanks behind", "a key", "a tensor twice", "another order"],
)
def test_what_safetensors_ignores_in_the_head_of_a_model_is_damage(
    run: Path, change: Callable[[bytes], bytes]
) -> None:
    path = run / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    head = change(content[8:end].rstrip())
    assert len(head) > end - 8
    path.write_bytes(len(head).to_bytes(8, "little") + head + content[end:])
    safetensors.torch.load_file(path)  # it is one
    digest_again(run)
    refused(run, "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_weights_of_another_type_hold_more_than_weights(run: Path, dtype: torch.dtype) -> None:
    path = run / "model.safetensors"
    tensors, facts = read_tensors(path, "model")
    wider = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    checkpoint.write_tensors(path, wider, "model", facts)
    digest_again(run)
    refused(run, "model.safetensors")


def test_what_was_rewritten_without_a_change_is_what_was_written(run: Path, drawn: Path) -> None:
    """Else the tests above would show nothing."""
    content = (run / "model.safetensors").read_bytes()
    rewritten(run / "model.safetensors", lambda facts: None)
    assert (run / "model.safetensors").read_bytes() == content
    verify([run])
    for format in FORMATS:
        text = (drawn / format / "metadata.json").read_text()
        digest_again(drawn / format)
        assert (drawn / format / "metadata.json").read_text() == text


PLANTED = {
    "a file": lambda home: (home / "notes.txt").write_text(MARK),
    "a hidden file": lambda home: (home / ".notes").write_text(MARK),
    "a folder": lambda home: (home / "notes").mkdir(),
    "a card": lambda home: (home / "README.md").write_text(MARK),
    "a link": lambda home: (home / "link").symlink_to(home.parent / "nowhere"),
    "a link to a folder": lambda home: (home / "link").symlink_to(home),
    "a picture": lambda home: Image.new("L", (4, 4)).save(home / "000009.png"),
    "a left-over": lambda home: (home / ".grid.png.7.part").write_text(MARK),
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("name", [*FORMATS, "run"])
def test_what_is_in_no_manifest_is_refused_by_name(
    drawn: Path, run: Path, tmp_path: Path, name: str, planted: str
) -> None:
    place = run if name == "run" else copied(drawn, name, tmp_path)
    if name == "run":
        (run / "README.md").unlink()
        edited(run / "manifest.json", lambda values: values["sha256"].pop("README.md"))
        verify([run])
    PLANTED[planted](place)
    refused(place, "link" if "link" in planted else "1 entry is ")


def test_a_file_in_a_class_folder_is_refused_by_name(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "png", tmp_path)
    (synth / "train" / "0" / "notes.txt").write_text(MARK)
    refused(synth, "train/0/notes.txt")


def test_sets_of_samples_and_private_files_lie_beside_a_run(run: Path, drawn: Path) -> None:
    shutil.copytree(drawn / "npz", run / "synth")
    (run / "README.md").unlink()  # a card is written by `release`, which leaves no private/
    RunFolder(run).write_manifest()
    (run / "private").mkdir()
    (run / "private" / "scores.json").write_text("{}")
    verify([run, run / "synth"])
    (run / "synth" / "metadata.json").unlink()
    refused(run, "synth")


@pytest.mark.parametrize("name", ["grid.png", "samples.png", "README.md"])
def test_a_foreign_picture_or_card_is_damage(
    drawn: Path, run: Path, tmp_path: Path, name: str
) -> None:
    if name == "grid.png":
        for number, format in enumerate((*FORMATS, "shard")):
            place = copied(drawn, format, tmp_path / str(number))
            Image.new("RGB", (40, 40), (1, 77, 3)).save(place / name)
            refused(place, name)
            (place / name).unlink()
            refused(place, name)
    else:
        (run / name).write_bytes((PRETRAINED / "statement.json").read_bytes())
        refused(run, name)


def test_samples_without_their_picture_are_damaged(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "png", tmp_path)
    (synth / "grid.png").unlink()
    edited(synth / "metadata.json", lambda values: values.update(files_sha256={}))
    refused(synth, "grid.png")


def test_a_folder_of_a_model_without_a_manifest_is_none_that_was_finished(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(Exception, match="no manifest"):
        verify([run])


def with_comment(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = MARK.encode()


def with_member(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.npy", MARK)


def with_other_metadata(path: Path) -> None:
    name = "metadata.json" if path.suffix == ".zip" else "metadata.npy"
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members[name] = members[name].replace(b"d\0\0\0e\0\0\0f\0", b"A\0\0\0d\0\0\0a\0")
    members[name] = members[name].replace(b"default", b"Ada was")
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def with_words_in_front(path: Path) -> None:
    path.write_bytes(MARK.encode() + path.read_bytes())


def with_words_before_the_directory(path: Path) -> None:
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    end = content.rindex(b"PK\5\6")
    moved = (start + len(MARK)).to_bytes(4, "little")
    path.write_bytes(
        content[:start] + MARK.encode() + content[start : end + 16] + moved + content[end + 20 :]
    )


def with_words_in_a_member(
    path: Path, *, extra: bytes = b"\x99\x99\x0c\0" + MARK.encode(), **about: Any
) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for old, content in members:
            info = zipfile.ZipInfo(old.filename, **about)
            info.external_attr, info.compress_type = old.external_attr, old.compress_type
            info.extra = extra
            archive.writestr(info, content)


def with_dates(path: Path) -> None:
    with_words_in_a_member(path, extra=b"", date_time=(2015, 12, 10, 0, 0, 0))


@pytest.mark.parametrize(
    "change",
    [
        with_comment,
        with_member,
        with_other_metadata,
        with_words_in_front,
        with_words_before_the_directory,
        with_words_in_a_member,
        with_dates,
    ],
)
@pytest.mark.parametrize("format", ["npz", "zip"])
def test_an_archive_holds_its_images_and_their_description_and_nothing_else(
    drawn: Path, tmp_path: Path, format: str, change: Callable[[Path], None]
) -> None:
    synth = copied(drawn, format, tmp_path)
    before = (synth / f"samples.{format}").read_bytes()
    change(synth / f"samples.{format}")
    assert (synth / f"samples.{format}").read_bytes() != before
    digest_again(synth)
    refused(synth, f"samples.{format}")


def test_the_labels_in_a_zip_are_those_of_its_images(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "zip", tmp_path)
    path = synth / "samples.zip"
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            archive.writestr(info, content.replace(b'"label": 3', b'"label": 4'))
    digest_again(synth)
    refused(synth, "metadata.jsonl")


def in_front_of_the_description(path: Path) -> None:
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:end] + MARK.encode() + content[end:])


def columns_changed(path: Path, change: Callable[[Any], Any], **options: Any) -> None:
    written = {"compression": "none", "use_dictionary": False, "write_statistics": False, **options}
    pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path, **written)


def with_a_note(table: Any) -> Any:
    return table.replace_schema_metadata({**table.schema.metadata, b"note": MARK.encode()})


def with_other_names(table: Any) -> Any:
    told = table.schema.metadata
    told[b"huggingface"] = told[b"huggingface"].replace(b'"names": ["0"', b'"names": ["Ada"')
    return table.replace_schema_metadata(told)


def with_another_label(table: Any) -> Any:
    labels = pyarrow.array([3, *table["label"].to_pylist()[1:]], pyarrow.int64())
    return table.set_column(1, "label", labels)


def with_a_text_in_an_image(table: Any) -> Any:
    rows = table.to_pylist()
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", MARK)
    content = io.BytesIO()
    Image.open(io.BytesIO(rows[0]["image"]["bytes"])).save(content, "PNG", pnginfo=notes)
    rows[0]["image"]["bytes"] = content.getvalue()
    return pyarrow.Table.from_pylist(rows, table.schema)


@pytest.mark.parametrize(
    "change",
    [
        in_front_of_the_description,
        lambda path: columns_changed(path, with_a_note),
        lambda path: columns_changed(path, with_other_names),
        lambda path: columns_changed(path, with_another_label),
        lambda path: columns_changed(path, with_a_text_in_an_image),
        lambda path: columns_changed(path, lambda table: table.slice(1)),
        lambda path: columns_changed(path, lambda table: table, use_dictionary=True),
        lambda path: columns_changed(path, lambda table: table, compression="gzip"),
        lambda path: columns_changed(path, lambda table: table, write_statistics=True),
        lambda path: columns_changed(
            path, lambda table: table.append_column("note", [[MARK] * len(table)])
        ),
    ],
    ids=[
        *("between columns and description", "a note", "other names", "another label"),
        *("text in an image", "one less", "dictionaries", "compressed", "statistics", "a column"),
    ],
)
def test_a_table_holds_its_images_and_their_description_and_nothing_else(
    drawn: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    synth = copied(drawn, "parquet", tmp_path)
    path = synth / "samples.parquet"
    before = path.read_bytes()
    change(path)
    assert path.read_bytes() != before
    digest_again(synth)
    refused(synth, "samples.parquet")


def test_what_another_pyarrow_wrote_is_read_and_said_not_to_be_checked_to_the_byte(
    drawn: Path, tmp_path: Path
) -> None:
    synth = copied(drawn, "parquet", tmp_path)
    assert not any("not checked" in line for line in verify([synth]).artefacts[0].checked)
    path = synth / "samples.parquet"
    content = path.read_bytes()
    other = re.sub(
        rb"(parquet-cpp-arrow version )\d+", lambda m: m[1] + b"9" * (len(m[0]) - 26), content
    )
    assert other != content
    path.write_bytes(other)
    digest_again(synth)
    assert any("another pyarrow" in line for line in verify([synth]).artefacts[0].checked)
    release(synth, tmp_path / "out")
    assert (tmp_path / "out" / "samples.parquet").read_bytes() == content


def with_a_text(path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", MARK)
    with Image.open(path) as picture:
        picture.save(path, pnginfo=notes)


def with_words_behind_the_pixels(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"IDAT") + 4
    packed = content[at:-16] + zlib.compress(MARK.encode())
    path.write_bytes(content[: at - 8] + _chunk(b"IDAT", packed) + content[-12:])


def of_another_size(path: Path) -> None:
    path.write_bytes(PngEncoder((1, 5, 5)).encode(np.zeros((1, 1, 5, 5), np.uint8))[0])


@pytest.mark.parametrize(
    "change",
    [
        with_a_text,
        with_words_behind_the_pixels,
        of_another_size,
        lambda path: path.write_bytes(path.read_bytes() + MARK.encode()),
    ],
    ids=["text", "behind the pixels", "size", "behind the file"],
)
def test_an_image_file_holds_its_pixels_and_nothing_else(
    drawn: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    synth = copied(drawn, "png", tmp_path)
    image = synth / "train" / "2" / "000002.png"
    change(image)
    digest_again(synth)
    refused(synth, "000002.png")


def test_other_bytes_of_the_same_pixels_are_written_anew(drawn: Path, tmp_path: Path) -> None:
    """Compressed otherwise: by another zlib, or by somebody who hides something in the choice."""
    synth = copied(drawn, "png", tmp_path)
    image = synth / "train" / "2" / "000002.png"
    content = image.read_bytes()
    at = content.index(b"IDAT") + 4
    packed = zlib.compress(zlib.decompress(content[at:-16]), 1)
    image.write_bytes(content[: at - 8] + _chunk(b"IDAT", packed) + content[-12:])
    assert image.read_bytes() != content
    digest_again(synth)
    release(synth, tmp_path / "out")
    assert (tmp_path / "out" / "train" / "2" / "000002.png").read_bytes() == content


def test_the_record_of_a_shard_is_a_copy_of_its_description(drawn: Path, tmp_path: Path) -> None:
    synth = copied(drawn, "shard", tmp_path)
    edited(synth / ".shard-1-of-2.json", lambda values: values.update(sampler_from=MARK))
    refused(synth, ".shard-1-of-2.json")


def test_a_flipped_bit_in_a_description_is_damage_whatever_it_says_then(
    drawn: Path, tmp_path: Path
) -> None:
    """Of the seed, of a word of the claim, of its delta: damage, and neither a false claim nor nothing."""
    synth = copied(drawn, "npz", tmp_path)
    content = (synth / "metadata.json").read_bytes()
    chosen = np.random.default_rng(5)
    places = [
        content.index(b'"seed": ') + 8,
        content.index(b"one image"),
        content.index(b"e-05") + 3,
    ]
    for place in (*places, *chosen.integers(len(content), size=60)):
        changed = bytearray(content)
        changed[place] ^= 1 << int(chosen.integers(3))
        (synth / "metadata.json").write_bytes(changed)
        with pytest.raises(DpdmError) as caught:
            verify([synth])
        assert caught.value.exit_code == 4


def test_a_false_claim_is_told_from_damage(run: Path) -> None:
    statement = load_model(run).statement
    assert isinstance(statement, Statement)
    less = dict.fromkeys(statement.epsilon_by, 1.0)
    lower = replace(statement, epsilon_by=less).to_json()
    rewritten(run / "model.safetensors", lambda facts: facts.update(statement=lower))
    (run / "statement.json").write_text(json.dumps(lower))
    digest_again(run)
    with pytest.raises(PrivacyError, match="its plan costs"):
        verify([run])
