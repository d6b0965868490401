"""What dpdm does not write is found by `verify`, whoever put digests right behind it, and reaches no release."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.foreign import MARK, copied, digest_again, edited, refused

from dpdm_cli import checkpoint, verify
from dpdm_cli.checkpoint import load_model, read_tensors
from dpdm_cli.errors import DamagedFileError, DpdmError, PrivacyError
from dpdm_cli.privacy.statement import Statement
from dpdm_cli.sampling.shards import Shard
from dpdm_cli.sampling.writing import FORMATS, Album

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
