from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dpdm_cli.sampling.grids import first_rows, grid_picture, write_grid


def grey(value: int, count: int, size: int = 28) -> torch.Tensor:
    return torch.full((count, 1, size, size), value, dtype=torch.uint8)


def values(picture: Image.Image) -> dict[int, int]:
    """How many pixels have each grey value."""
    return {value: count for value, count in enumerate(picture.convert("L").histogram()) if count}


def test_every_image_is_in_the_picture_enlarged_by_a_whole_number() -> None:
    picture = grid_picture([("", grey(90, 3)), ("", grey(160, 2))])
    counts = values(picture)
    assert (counts[90], counts[160]) == (3 * 56 * 56, 2 * 56 * 56)
    large = values(grid_picture([("", grey(90, 2, size=100))]))
    assert large[90] == 2 * 100 * 100


def test_colours_stay_what_they_are() -> None:
    image = torch.tensor([10, 200, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 60, 60)
    picture = grid_picture([("", image)])
    assert picture.mode == "RGB"
    assert (
        sum(n for n, colour in picture.getcolors(1 << 16) or [] if colour == (10, 200, 30)) == 3600
    )


def test_names_and_caption_take_room_and_leave_ink() -> None:
    plain, named = grid_picture([("", grey(255, 10))]), grid_picture([("shirt", grey(255, 10))])
    assert named.width > plain.width
    captioned = grid_picture([("", grey(255, 10))], "a caption " * 30)
    assert captioned.height > plain.height
    for picture in (named, captioned):
        assert min(values(picture)) < 50
    assert set(values(plain)) == {255}


@pytest.mark.parametrize("name", ["日本", "\N{SNOWMAN}", "x" * 500])
def test_any_name_can_be_drawn(name: str) -> None:
    assert grid_picture([(name, grey(0, 1))], name).width < 1000


def test_the_caption_stands_in_the_files_description_too(tmp_path: Path) -> None:
    write_grid(tmp_path / "g.png", [("a", grey(3, 2))], "NOT PRIVATE. Äpfel")
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.text["Description"] == "NOT PRIVATE. Äpfel"  # type: ignore[attr-defined]


def test_the_first_images_of_each_class_are_shown_in_the_order_classes_appear() -> None:
    assert first_rows([2, 0, 2, 0, 0]) == [(2, [0, 2]), (0, [1, 3, 4])]
    many = first_rows(i % 12 for i in range(500))
    assert [label for label, _ in many] == list(range(10))
    assert many[3][1] == [3 + 12 * k for k in range(10)]


def test_images_without_classes_fill_rows_of_ten() -> None:
    rows = first_rows([None] * 105)
    assert [row for _, row in rows] == [list(range(k, k + 10)) for k in range(0, 100, 10)]
    assert first_rows([None] * 3) == [(None, [0, 1, 2])]
