"""Images drawn by a program, in random classes: strokes, closed curves, silhouettes with panels, holes and textures.

A `Family` is a class that nobody has seen: up to five templates, and how far its images depart from them. Families
differ in everything that real classes differ in (shapes and their number, slant, thickness, intensity, texture),
so that what a network learns from very many of them is how images go on, and not what any class looks like. They hold
no data: a seed gives them.

    python examples/pretraining/families.py families.png     # a family a row
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch
from shapes import Blob, Dice, Profile, Strokes, Surface
from torch import Tensor

MOST_TEMPLATES = 5


@dataclass
class Pose:
    """How the images of a template are turned, stretched, slanted and moved: the spread of each."""

    dice: Dice
    turn: float = field(init=False)
    size: float = field(init=False)
    aspect: float = field(init=False)
    slant: float = field(init=False)
    place: float = field(init=False)

    def __post_init__(self) -> None:
        dice = self.dice
        self.turn, self.size = dice.scale(0.03, 0.3), dice.scale(0.03, 0.22)
        self.aspect, self.slant = dice.scale(0.03, 0.2), dice.scale(0.03, 0.4)
        self.place = dice.scale(0.01, 0.05)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Linear maps [n, 2, 2] and offsets [n, 2]."""
        normal = self.dice.normal
        angle = self.turn * normal(n)
        size = (self.size * normal(n)).clamp(-0.6, 0.4).exp()
        aspect = (self.aspect * normal(n)).clamp(-0.5, 0.5).exp()
        slant, zero = self.slant * normal(n), torch.zeros(n)
        turn = _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        return turn @ _matrix(size * aspect, slant, zero, size / aspect), self.place * normal(n, 2)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)


class Template:
    """One kind of image of a family: strokes alone, or a filled shape with what is on it."""

    def __init__(self, dice: Dice, filled: bool) -> None:
        self._dice = dice
        self._pose = Pose(dice)
        self._softness = dice.scale(0.008, 0.03)
        self._thickness, self._thickness_spread = dice.scale(0.018, 0.07), dice.scale(0.05, 0.35)
        self._level = dice.number(0.75, 1.0) if dice.chance(0.8) else dice.number(0.3, 0.9)
        self._level_spread = dice.scale(0.01, 0.15)
        self._shape: Blob | Profile | None = None
        self._strokes = Strokes(dice) if not filled or dice.chance(0.45) else None
        if filled:
            self._shape = Profile(dice) if dice.chance(0.65) else Blob(dice, dice.number(0.2, 0.4))
            self._surface = Surface(dice)
            self._hole = Blob(dice, dice.number(0.08, 0.16)) if dice.chance(0.15) else None
            self._panel = Surface(dice) if dice.chance(0.35) else None
            self._edge, self._axis = dice.number(-0.2, 0.2), dice.whole(0, 1)
            self._mark = dice.number(0, 1)
            self._handle = Strokes(dice) if dice.chance(0.12) else None

    def draw(self, grid: Tensor, n: int) -> Tensor:
        """Intensities [n, pixels]."""
        dice = self._dice
        linear, offset = self._pose.draw(n)
        soft = self._softness * (1 + 0.2 * dice.normal(n, 1)).clamp(0.5, 1.6)
        thick = self._thickness * (1 + self._thickness_spread * dice.normal(n, 1)).clamp(0.4, 1.9)

        def covered(depth: Tensor) -> Tensor:
            return torch.sigmoid(2.2 * depth / soft)

        def drawn(strokes: Strokes, thickness: Tensor) -> Tensor:
            return covered(thickness - strokes.distance(grid, linear, offset))

        if self._shape is None:
            assert self._strokes is not None
            level = (self._level + self._level_spread * dice.normal(n, 1)).clamp(0.2, 1.15)
            return (level * drawn(self._strokes, thick)).clamp(max=1)
        at = torch.linalg.solve(linear[:, None], (grid - offset[:, None])[..., None]).squeeze(-1)
        body = self._surface.draw(at)
        if self._panel is not None:
            beyond = covered(at[..., self._axis] - self._edge - 0.03 * dice.normal(n, 1))
            body = torch.lerp(body, self._panel.draw(at), beyond)
        if self._strokes is not None:
            body = torch.lerp(body, torch.tensor(self._mark), drawn(self._strokes, 0.5 * thick))
        mask = covered(self._shape.depth(at))
        if self._hole is not None:
            mask = mask * (1 - covered(self._hole.depth(at)))
        image = mask * body
        if self._handle is not None:
            handle = drawn(self._handle, 0.7 * thick) * self._surface.level
            image = torch.maximum(image, handle)
        return image


class Family:
    """A random class of grey images.

    Args:
        seed: any whole number; another seed is another class.
        size: side in pixels.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._dice = dice = Dice(seed)
        self.size = size
        place = (torch.arange(size) + 0.5) / size - 0.5
        self._grid = torch.stack(torch.meshgrid(place, place, indexing="ij"), -1).view(-1, 2)
        filled = dice.chance(0.45)
        self._templates = [Template(dice, filled) for _ in range(dice.whole(1, MOST_TEMPLATES))]
        self._shares = 0.15 + dice.uniform(len(self._templates))
        self._ground = Surface(dice) if dice.chance(0.2) else None
        self._inverted = self._ground is not None and dice.chance(0.3)

    def draw(self, n: int) -> Tensor:
        """The next n images, [n, 1, size, size] in [-1, 1]."""
        which = self._dice.choice(self._shares, n)
        images = torch.zeros(n, self.size**2)
        for number, template in enumerate(self._templates):
            chosen = (which == number).nonzero().flatten()
            if len(chosen):
                images[chosen] = template.draw(self._grid, len(chosen))
        if self._inverted:
            images = 1 - images
        if self._ground is not None:
            ground = self._ground.draw(self._grid.expand(n, -1, -1))
            images = images * ground if self._inverted else torch.maximum(images, 0.8 * ground)
        return (2 * images.clamp(0, 1) - 1).view(n, 1, self.size, self.size)


def main() -> None:
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    rows = torch.cat([Family(seed, 28).draw(16) for seed in range(30)])
    to_pil_image(make_grid((rows + 1) / 2, nrow=16, padding=1)).save(sys.argv[1])


if __name__ == "__main__":
    main()
