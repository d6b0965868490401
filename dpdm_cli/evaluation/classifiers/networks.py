"""Three small classifiers and their training, by which data sets are compared.

The downstream protocol of DPDM (arXiv 2210.09929, section 5): logistic regression, a multilayer
perceptron and a convolutional network, trained with Adam, the best epoch chosen on held-out images
of the training set itself. Knows tensors only: neither where images come from, nor what is real and
what is synthetic.

Symbols: N images of C channels, H rows and W columns, as uint8 [N, C, H, W]; labels int64 [N].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdm_cli.compute.pixels import to_floats
from dpdm_cli.errors import DataError, UsageError

CLASSIFIERS = {"logreg": "logistic regression", "mlp": "MLP", "cnn": "CNN"}
"""Names in options and JSON, with display names."""

LEARNING_RATE = 3e-4
BATCH_SIZE = 128
EPOCHS = 50
VALIDATION_FRACTION = 0.1
_LARGEST_MAP = 6


class Dropout(nn.Module):
    """Dropout with masks from a generator of its own; every value is drawn independently."""

    def __init__(self, probability: float, seed: int) -> None:
        super().__init__()
        self.keep = 1.0 - probability
        self._seed = seed
        self._generator: torch.Generator | None = None
        self._entropy: Callable[[int], bytes] | None = None

    def draw_from(self, entropy: Callable[[int], bytes]) -> None:
        """Take masks from `entropy`, which gives n fresh bytes, instead of from the seed."""
        self._entropy = entropy

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self._entropy is not None:
            drawn = torch.frombuffer(bytearray(self._entropy(x.numel())), dtype=torch.uint8)
            kept = drawn < round(256 * self.keep)
            return x * kept.view(x.shape).to(x).div_(self.keep)
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        mask = torch.empty_like(x).bernoulli_(self.keep, generator=self._generator)
        return x * mask.div_(self.keep)


def build_classifier(
    name: str, shape: tuple[int, int, int], classes: int, generator: torch.Generator
) -> nn.Module:
    """One of `CLASSIFIERS`, freshly initialised on the CPU.

    Args:
        name: `logreg` (one affine map), `mlp` (100 hidden units, ReLU) or `cnn`.
        shape: (C, H, W) of an image; any size of at least 1x1.
        classes: number of outputs, at least 2.
        generator: a CPU generator; gives the initial weights and the seeds of the dropout masks.

    Returns:
        A module from float images in [-1, 1], [B, C, H, W], to logits [B, classes].

    Raises:
        UsageError: an unknown name.
        DataError: fewer than two classes.
    """
    require_two_classes(classes)
    pixels = math.prod(shape)
    if name == "logreg":
        model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    elif name == "mlp":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 100), nn.ReLU(), nn.Linear(100, classes)
        )
    elif name == "cnn":
        model = _convolutional(shape, classes, generator)
    else:
        raise UsageError(f"unknown classifier {name!r}", f"choose from {', '.join(CLASSIFIERS)}")
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _initialise(layer, generator)
    # A third faster on a CPU, and the layout for tensor cores.
    return model.to(memory_format=torch.channels_last)


def require_two_classes(classes: int) -> None:
    """Raise `DataError` for fewer classes than two."""
    if classes < 2:
        raise DataError(
            f"a classifier needs at least 2 classes, found {classes}",
            "use images in one subfolder for each class",
        )


def _convolutional(
    shape: tuple[int, int, int], classes: int, generator: torch.Generator
) -> nn.Sequential:
    """The paper's CNN (241,546 parameters on 28x28x1 with 10 classes), which adapts to other sizes.

    Without padding three convolutions and two poolings need 18 pixels; smaller images keep their
    size in each convolution. The map that reaches the affine layers is averaged to at most
    6x6, so that their weights don't grow with the image (up to 38 pixels nothing is averaged).
    """
    channels, height, width = shape
    padding = 0 if min(height, width) >= 18 else 1

    def last_map(side: int) -> int:
        for _ in range(2):
            side = -(-(side - 2 + 2 * padding) // 2) if padding else (side - 2) // 2
        return min(side - 2 + 2 * padding, _LARGEST_MAP)

    def dropout() -> Dropout:
        return Dropout(0.5, int(torch.randint(2**62, (), generator=generator)))

    rows, columns = last_map(height), last_map(width)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=padding),
        nn.MaxPool2d(2, ceil_mode=bool(padding)),
        nn.ReLU(),
        dropout(),
        nn.Conv2d(32, 64, 3, padding=padding),
        nn.MaxPool2d(2, ceil_mode=bool(padding)),
        nn.ReLU(),
        dropout(),
        nn.Conv2d(64, 128, 3, padding=padding),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((rows, columns)),
        nn.Flatten(),
        nn.Linear(128 * rows * columns, 128),
        nn.ReLU(),
        dropout(),
        nn.Linear(128, classes),
    )


def _initialise(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """PyTorch's own default for both kinds of layer: uniform within 1/sqrt(fan-in)."""
    bound = 1.0 / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def to_inputs(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] to float32 in [-1, 1], channels last in memory."""
    return to_floats(images.to(memory_format=torch.channels_last))


def hold_out(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split `count` indices at random into 90 % to train on and 10 % (at least one) to validate on.

    Raises:
        DataError: fewer than ten images.
    """
    if count < 10:
        raise DataError(
            f"{count} images cannot be split into 90 % training and 10 % validation",
            "give at least 10 images",
        )
    order = torch.randperm(count, generator=generator)
    held = round(count * VALIDATION_FRACTION)
    return order[held:], order[:held]


@dataclass(frozen=True)
class Fit:
    """The epoch that `fit` chose, from 1, and its accuracy in percent on the validation images."""

    epoch: int
    validation_accuracy: float


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> Fit:
    """Train with Adam and cross-entropy; leave the model as it was after its best epoch.

    90 % of the images are trained on, in an order drawn anew for each epoch (the paper's code keeps
    one order; class folders would then give batches of one class). The epoch with the best accuracy
    on the other 10 % wins, the earliest of equals.

    Args:
        model: logits [B, classes] from float images; images, labels and model are on one device.
        images: uint8 [N, C, H, W], N >= 10.
        labels: int64 [N].
        generator: a CPU generator, for the split and the order.
        epochs: at least 1.
        after_epoch: called with each epoch's number.

    Raises:
        DataError: fewer than ten images.
    """
    kept, held = hold_out(len(images), generator)
    kept, held = kept.to(images.device), held.to(images.device)
    validation_images, validation_labels = images[held], labels[held]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    best, best_weights = Fit(0, -1.0), dict[str, Tensor]()
    for epoch in range(1, epochs + 1):
        model.train()
        order = torch.randperm(len(kept), generator=generator).to(images.device)
        for batch in torch.split(kept[order], batch_size):
            loss = F.cross_entropy(model(to_inputs(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        score = accuracy(predict(model, validation_images), validation_labels)
        if score > best.validation_accuracy:
            best = Fit(epoch, score)
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        after_epoch(epoch)
    model.load_state_dict(best_weights)
    return best


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    batch_size: int = 500,
    inputs: Callable[[Tensor], Tensor] = to_inputs,
) -> Tensor:
    """Most likely class of each image [N, C, H, W] uint8, as int64 [N] on the images' device.

    Args:
        inputs: from uint8 images to what the model takes.
    """
    model.eval()
    parts = [model(inputs(part)).argmax(dim=1) for part in torch.split(images, batch_size)]
    return torch.cat(parts)


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Percentage of equal entries."""
    return 100.0 * int((predictions == labels).sum()) / len(labels)


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts int64 [classes, classes] on the CPU: row = true class, column = predicted class."""
    cells = (labels * classes + predictions).cpu()
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)
