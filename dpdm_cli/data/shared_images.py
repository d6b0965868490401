"""Images that the first process reads for all: the others need neither the files nor memory for more than a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dpdm_cli.compute.distributed import Processes
from dpdm_cli.data import ImageSet


class SharedImages:
    """A set of images of which each process gets a batch in turn.

    Args:
        read: gives the images; called in the first process alone.
        describe: what every process should know of them; it must fit into JSON.

    Attributes:
        shape: (N, C, H, W).
        facts: what `describe` gave.

    Raises: what `read` and `describe` raise, in every process.
    """

    def __init__(
        self,
        processes: Processes,
        read: Callable[[], ImageSet],
        describe: Callable[[ImageSet], dict[str, str]] = lambda images: {},
    ) -> None:
        self._processes = processes
        self._images: ImageSet | None = None

        def described() -> tuple[list[int], dict[str, str]]:
            found = read()
            self._images = found
            return list(found.images.shape), describe(found)

        (count, *sides), self.facts = processes.broadcast(described)
        channels, height, width = sides
        self.shape = count, channels, height, width

    def __len__(self) -> int:
        return self.shape[0]

    def by_class(self) -> dict[str, Tensor]:
        """Indices of each class's images, ascending, by its name; none without labels. In the first process alone."""
        assert self._images is not None, "the others have no images"
        labels, classes = self._images.labels, self._images.classes
        if labels is None:
            return {}
        return {name: (labels == label).nonzero().flatten() for label, name in enumerate(classes)}

    def rounds(self, size: int, indices: Tensor) -> Iterator[Tensor]:
        """In each round this process's batch, uint8 [R, C, H, W], R at most `size` and 0 when there is none left.

        Args:
            indices: int64 [M], the images to read, in this order.
        """
        count, here = self._processes.size, self._processes.rank
        for start in range(0, len(indices), count * size):
            given = None
            if self._images is not None:
                rows = self._images.rows(indices[start : start + count * size])
                given = rows
                if len(rows) < count * size:
                    given = torch.zeros(count * size, *self.shape[1:], dtype=torch.uint8)
                    given[: len(rows)] = rows
                given = given.view(count, size, *self.shape[1:])
            mine = self._processes.scatter(given, (size, *self.shape[1:]), torch.uint8)
            yield mine[: max(0, min(size, len(indices) - start - here * size))]
