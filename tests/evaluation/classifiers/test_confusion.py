from __future__ import annotations

from itertools import combinations

import pytest
import torch
from matplotlib.figure import Figure

from dpdm_cli.evaluation.classifiers.confusion import Panel, draw_confusions


def drawn(counts: list[list[int]] | torch.Tensor, classes: tuple[str, ...] = ("a", "b")) -> Figure:
    return draw_confusions([[Panel("title", torch.as_tensor(counts))]], classes)


def darkness(counts: list[list[int]]) -> torch.Tensor:
    (image,) = drawn(counts).axes[0].get_images()
    red, green, blue, _ = image.to_rgba(image.get_array()).transpose(2, 0, 1)
    return torch.tensor(3 - red - green - blue)


def test_a_cell_is_darker_the_larger_its_share_of_the_true_class() -> None:
    cells = darkness([[90, 10], [0, 5]])
    assert cells[1, 1] > cells[0, 0] > cells[0, 1] > cells[1, 0]


def test_a_class_without_test_images_is_an_empty_row() -> None:
    cells = darkness([[3, 0], [0, 0]])
    assert cells[1].tolist() == [cells[0, 1]] * 2


def test_a_cell_shows_its_count_unless_there_are_many_classes() -> None:
    texts = [(t.get_text(), t.get_position()) for t in drawn([[12345, 3], [0, 7]]).axes[0].texts]
    assert texts == [("12k", (0, 0)), ("3", (1, 0)), ("7", (1, 1))]
    many = drawn(torch.eye(40, dtype=torch.int64), tuple(map(str, range(40))))
    assert not many.axes[0].texts


@pytest.mark.parametrize("count", [2, 10, 40])
@pytest.mark.parametrize("name", ["w", "w" * 200])
def test_nothing_is_printed_over_anything_else(count: int, name: str) -> None:
    panel = Panel(
        "logistic regression\nscattering: 100.0 %\nbalanced: 100.0 %", 100 * torch.eye(count).long()
    )
    figure = draw_confusions([[panel] * 3, [panel]], [name] * count)
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    boxes = []
    for axes in figure.axes:
        if axes.axison:
            words = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()]
            boxes += [word.get_window_extent() for word in words]
            boxes.append(axes.get_window_extent())
    assert len(boxes) >= 4 * 5
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
