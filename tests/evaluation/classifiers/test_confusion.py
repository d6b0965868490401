from __future__ import annotations

import torch

from dpdm_cli.evaluation.classifiers.confusion import Panel, draw_confusions


def darkness(counts: list[list[int]], classes: tuple[str, ...] = ("a", "b")) -> torch.Tensor:
    """Mean darkness of each cell's corner, where no number is drawn."""
    picture = draw_confusions([[Panel("title", torch.tensor(counts))]], classes).convert("L")
    k, cell = len(classes), 36
    left, top = picture.width - 16 - k * cell, picture.height - 16 - k * cell
    # The origin of the grid is found from the far corner: margins are the same on both sides.
    values = [
        [255 - picture.getpixel((left + j * cell + 3, top + i * cell + 3)) for j in range(k)]
        for i in range(k)
    ]
    return torch.tensor(values)


def test_a_cell_is_darker_the_larger_its_share_of_the_true_class() -> None:
    cells = darkness([[90, 10], [0, 5]])
    assert cells[1, 1] > cells[0, 0] > cells[0, 1] > cells[1, 0]


def test_a_class_without_test_images_is_an_empty_row() -> None:
    cells = darkness([[3, 0], [0, 0]])
    assert cells[1].tolist() == [cells[0, 1]] * 2


def test_counts_change_the_picture() -> None:
    classes = ("a", "b")
    one, two = (
        draw_confusions([[Panel("t", torch.tensor([[n, 0], [0, n]]))]], classes) for n in (3, 4)
    )
    assert one.tobytes() != two.tobytes()


def test_many_classes_get_smaller_cells() -> None:
    few, many = (
        draw_confusions([[Panel("t", torch.eye(k, dtype=torch.int64))]], [str(i) for i in range(k)])
        for k in (20, 40)
    )
    assert many.width < few.width


def test_long_names_are_cut_where_the_grid_begins() -> None:
    short, long = (
        draw_confusions([[Panel("t", torch.eye(2, dtype=torch.int64))]], [name] * 2).convert("L")
        for name in ("w", "w" * 200)
    )
    assert short.size == long.size
    grid = (short.width - 16 - 2 * 36, short.height - 16 - 2 * 36, short.width, short.height)
    assert short.crop(grid).tobytes() == long.crop(grid).tobytes()
