"""A set drawn in shards: whose images are whose, how folders are merged, and what is not taken for a whole set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.drawn import Listener, contents, draw, save
from support.shards import draw_shards, interrupt, merge, overwrite

from dpdm_cli import errors
from dpdm_cli.publishing.releasing import release
from dpdm_cli.publishing.verifying import verify
from dpdm_cli.sampling import drawing
from dpdm_cli.sampling.run import sample
from dpdm_cli.sampling.shards import Shard

PRETRAINED = Path(__file__).parents[2] / "examples" / "pretrained" / "mnist-eps10"


@pytest.mark.parametrize(("n", "size", "of"), [(30, 8, 3), (30, 8, 9), (5, 8, 2), (64, 8, 1)])
def test_every_image_belongs_to_one_shard_and_batches_are_not_divided(
    n: int, size: int, of: int
) -> None:
    shards = [Shard(number, of) for number in range(1, of + 1)]
    starts = [start for shard in shards for start in shard.starts(n, size)]
    assert sorted(starts) == list(range(0, n, size))
    assert sorted(i for shard in shards for i in shard.indices(n, size)) == list(range(n))
    for shard in shards:
        assert all(i // size % of == shard.number - 1 for i in shard.indices(n, size))
        assert shard.count(n, size) == len(shard.indices(n, size))


def test_a_shard_is_read_from_what_a_user_types() -> None:
    assert Shard.parse("3/16") == Shard.parse(" 3 / 16 ") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "x", "", "3", "1/0", "-1/4", "1.5/4", "1/4/2", "٣/٤"]
)
def test_what_is_no_shard_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(errors.UsageError, match="there is no shard") as caught:
        Shard.parse(text)
    assert "3/16" in caught.value.hint


@pytest.mark.parametrize(
    ("of", "changes"),
    [
        (1, {}),
        (3, {"n": 31}),
        (3, {"n": 3}),
        (2, {"n": 12, "labels": ["eel", "cat"], "batch_size": 3}),
        (2, {"steps": 2, "sampler": "stochastic-ddim"}),
    ],
    ids=str,
)
def test_merged_shards_are_sealed_to_the_bytes_of_one_process(
    checkpoint: Path, tmp_path: Path, of: int, changes: dict[str, Any]
) -> None:
    whole = draw(checkpoint, tmp_path / "whole", **changes)
    parts = draw_shards(checkpoint, tmp_path, of, **changes)
    assert sum(part.n for part in parts) == sum(part.drawn for part in parts) == whole.n
    merged = merge(tmp_path, tmp_path / "all")
    sealed = draw(checkpoint, merged, **changes)
    assert (sealed.drawn, sealed.metadata) == (0, whole.metadata)
    assert contents(merged) == contents(tmp_path / "whole")


def test_unconditional_shards_lie_in_one_folder_and_merge(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "m.safetensors", classes=())
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 2)
    draw(checkpoint, merge(tmp_path, tmp_path / "all"))
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


def test_a_shard_says_which_it_is_and_holds_its_images_under_their_final_names(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = draw(checkpoint, tmp_path / "out", shard=(2, 3))
    stored = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert stored == result.metadata.to_json()
    assert stored["shard"] == {"number": 2, "of": 3, "whole_n": 30}
    assert stored["n"] == result.n == result.drawn == 8
    assert result.to_dict()["shard"] == stored["shard"]
    classes = ("cat", "dog", "eel")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/train/*/*.png")}
    assert found == {f"train/{classes[i % 3]}/{i:06d}.png" for i in range(8, 16)}


def test_what_is_missing_in_a_merged_folder_is_drawn(checkpoint: Path, tmp_path: Path) -> None:
    draw(checkpoint, tmp_path / "whole")
    draw_shards(checkpoint, tmp_path, 4)
    shutil.rmtree(tmp_path / "shard-2")
    (tmp_path / "shard-3" / "train" / "dog" / "000016.png").unlink()
    with pytest.raises(errors.DamagedFileError):
        draw(checkpoint, tmp_path / "shard-3", shard=(3, 4))
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == 8 + 8
    assert contents(merged) == contents(tmp_path / "whole")


@pytest.mark.slow
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    states=st.lists(
        st.sampled_from(["complete", "begun", "absent", "unnamed", "partly"]),
        min_size=2,
        max_size=3,
    ),
    stop_after=st.integers(0, 2),
)
def test_whatever_is_merged_ends_as_one_process_would_have_left_it(
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    states: list[str],
    stop_after: int,
) -> None:
    tmp = tmp_path_factory.mktemp("merged")
    draw(checkpoint, tmp / "whole", n=38)
    expected = 38
    for number, state in enumerate(states, 1):
        folder, shard = tmp / f"shard-{number}", (number, len(states))
        images = Shard(*shard).indices(38, 8)
        if state == "begun" and len(images) > 8:
            interrupt(checkpoint, folder, shard, n=38)
            expected -= 8
        elif state != "absent":
            draw(checkpoint, folder, n=38, shard=shard)
            if state == "unnamed":
                for file in folder.glob(".*"):
                    file.unlink()
                overwrite(folder, images)
            elif state == "partly":
                overwrite(folder, images[1:])
                next(folder.rglob(f"{images[0]:06d}.png")).unlink()
            else:
                expected -= len(images)
    merged = merge(tmp, tmp / "all")
    if 0 < stop_after * 8 < expected:
        with pytest.raises(errors.InterruptedRunError):
            draw(checkpoint, merged, n=38, reporter=Listener(stop_after=stop_after))
        # At most the batch of six is among those that were drawn.
        drawn = draw(checkpoint, merged, n=38).drawn
        assert expected - drawn in (stop_after * 8, stop_after * 8 - 2)
    else:
        assert draw(checkpoint, merged, n=38).drawn == expected
    assert contents(merged) == contents(tmp / "whole")


def test_a_complete_shard_is_checked_and_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(checkpoint, tmp_path / "out", shard=(1, 2))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(drawing, "generate", None)
    listener = Listener()
    again = draw(checkpoint, tmp_path / "out", shard=(1, 2), reporter=listener)
    assert (again.drawn, again.metadata) == (0, first.metadata)
    assert any("is complete: 16 images" in note for note in listener.notes)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("there", [(1, 2), (1, 3), None])
def test_a_folder_of_another_shard_or_a_whole_set_is_refused_and_untouched(
    checkpoint: Path, tmp_path: Path, there: tuple[int, int] | None
) -> None:
    draw(checkpoint, tmp_path / "out", shard=there)
    before = contents(tmp_path / "out")
    with pytest.raises(errors.UsageError, match="not shard 2/3"):
        draw(checkpoint, tmp_path / "out", shard=(2, 3))
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 1}, "seed"), ({"n": 31}, "n is 31 there"), ({"batch_size": 4}, "batch")],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_shard_of_another_run_is_found_in_the_merged_folder(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], named: str, last: bool
) -> None:
    other = {"shard": (2, 2), **({} if last else changes)}
    draw(checkpoint, tmp_path / "shard-1", **{"shard": (1, 2), **(changes if last else {})})
    draw(checkpoint, tmp_path / "shard-2", **other)
    merged = merge(tmp_path, tmp_path / "all")
    before = contents(merged)
    with pytest.raises(errors.UsageError, match=named):
        draw(checkpoint, merged, batch_size=8)
    assert contents(merged) == before


def test_an_image_that_was_changed_on_the_way_is_found_and_its_shard_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    draw_shards(checkpoint, tmp_path, 2)
    merged = merge(tmp_path, tmp_path / "all")
    shutil.copyfile(
        merged / "train" / "cat" / "000003.png", merged / "train" / "cat" / "000000.png"
    )
    with pytest.raises(errors.DamagedFileError, match="shard 1/2"):
        draw(checkpoint, merged)


def test_more_shards_than_batches_leave_some_empty_which_is_said_and_merges(
    checkpoint: Path, tmp_path: Path
) -> None:
    listener = Listener()
    empty = draw(checkpoint, tmp_path / "shard-6", shard=(6, 6), reporter=listener)
    assert (empty.n, empty.drawn) == (0, 0)
    assert any(
        "shard 6/6 holds no image: 30 images are 4 batches of 8" in w for w in listener.warnings
    )
    assert draw(checkpoint, tmp_path / "shard-6", shard=(6, 6)).n == 0
    draw(checkpoint, tmp_path / "whole")
    merged = merge(tmp_path, tmp_path / "all")
    assert draw(checkpoint, merged).drawn == 30
    assert contents(merged) == contents(tmp_path / "whole")


def test_without_a_folder_a_shard_lies_beside_the_model_under_its_number(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "model.safetensors")
    result = sample(checkpoint, n=9, batch_size=4, shard=(3, 16), steps=2, device="cpu")
    assert result.folder == tmp_path / "synth-3-of-16"


@pytest.mark.parametrize("format", ["npz", "zip", "parquet"])
def test_one_file_can_be_no_shard(checkpoint: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(errors.UsageError, match="one file of all images") as caught:
        draw(checkpoint, tmp_path / "out", shard=(1, 2), format=format)
    assert "--format" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_several_processes_draw_no_shard(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(errors.UsageError, match="torchrun") as caught:
        draw(checkpoint, tmp_path / "out", shard=(1, 2))
    assert "leave out --shard" in caught.value.hint


def test_a_shard_is_verified_and_released_and_merged_ones_are_not_before_they_are_sealed(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"n": 12, "batch_size": 4, "steps": 1}
    draw_shards(PRETRAINED, tmp_path, 2, **options)
    (found,) = verify([tmp_path / "shard-2"]).artefacts
    assert "4 images are those that were drawn for shard 2/2 of 12" in found.checked[0]
    release(tmp_path / "shard-1", tmp_path / "published")
    assert "shard 1 of 2 of a set of 12" in (tmp_path / "published" / "README.md").read_text()
    merged = merge(tmp_path, tmp_path / "all")
    with pytest.raises(errors.DamagedFileError) as caught:
        verify([merged])
    assert "without --shard" in caught.value.hint
    draw(PRETRAINED, merged, **options)
    assert "12 images are those" in verify([merged]).artefacts[0].checked[0]
