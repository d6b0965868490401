"""What images drawn by a program are made of: random numbers, lines, outlines and surfaces.

Coordinates run from -1/2 to 1/2, first down, then to the right. Masks and intensities are in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Dice:
    """Random numbers of one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def number(self, low: float, high: float) -> float:
        return float(self.uniform(low=low, high=high))

    def scale(self, low: float, high: float) -> float:
        """Uniform in its logarithm: as likely between 1 and 2 as between 2 and 4."""
        return math.exp(self.number(math.log(low), math.log(high)))

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self._generator))

    def chance(self, probability: float) -> bool:
        return self.number(0, 1) < probability

    def choice(self, weights: list[float] | Tensor, count: int = 1) -> Tensor:
        chances = torch.as_tensor(weights)
        return torch.multinomial(chances, count, replacement=True, generator=self._generator)


def curve(control: Tensor, closed: bool, samples: int) -> Tensor:
    """Catmull-Rom splines through control points [n, P, 2], as points [n, samples, 2]."""
    if closed:
        points = torch.cat([control[:, -1:], control, control[:, :2]], 1)
        segments = control.shape[1]
    else:
        before = 2 * control[:, :1] - control[:, 1:2]
        after = 2 * control[:, -1:] - control[:, -2:-1]
        points = torch.cat([before, control, after], 1)
        segments = control.shape[1] - 1
    along = torch.linspace(0, segments - 1e-4, samples)
    start = along.long()
    u = (along - start)[:, None]
    p0, p1, p2, p3 = (points[:, start + k] for k in range(4))
    return (
        p1
        + (p2 - p0) * u / 2
        + (p0 - 2.5 * p1 + 2 * p2 - p3 / 2) * u**2
        + (1.5 * (p1 - p2) + (p3 - p0) / 2) * u**3
    )


class Strokes:
    """One to four lines: loops, arcs, straight lines and walks, which may begin on one another or be absent."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._strokes = _arranged(dice)
        self._jitter = dice.scale(0.006, 0.06)
        self._each_bent = dice.chance(0.5)
        may_lack = len(self._strokes) > 1
        self._absent = [
            dice.number(0.1, 0.6) if may_lack and dice.chance(0.12) else 0.0 for _ in self._strokes
        ]

    def distance(self, grid: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
        """From every pixel to the nearest line, [n, pixels]."""
        n, normal = len(linear), self._dice.normal
        found = []
        for (control, closed), absent in zip(self._strokes, self._absent, strict=True):
            own = torch.eye(2).expand(n, 2, 2)
            if self._each_bent:
                own = own + 0.12 * normal(n, 2, 2)
            points = control @ own.mT + self._jitter * normal(n, len(control), 2)
            points = points + 0.5 * self._jitter * normal(n, 1, 2)
            points = points @ linear.mT + offset[:, None]
            line = curve(points, closed, 56 if len(control) > 3 else 36)
            square = line.square().sum(-1)[:, None] - 2 * grid @ line.mT  # less |pixel|^2
            distance = (square.amin(2) + grid.square().sum(-1)).clamp(min=0).sqrt()
            if absent:
                gone = self._dice.uniform(n, 1) < absent
                distance = distance.masked_fill(gone, 9.0)
            found.append(distance)
        return torch.stack(found).amin(0)


def _arranged(dice: Dice) -> list[tuple[Tensor, bool]]:
    """Control points [P, 2] of each stroke and whether it is closed, together around 0."""
    strokes: list[tuple[Tensor, bool]] = []
    for _ in range(dice.whole(1, 4) if dice.chance(0.6) else dice.whole(1, 2)):
        points, closed = _stroke(dice)
        if strokes and dice.chance(0.6):
            other = strokes[dice.whole(0, len(strokes) - 1)][0]
            points = points - points[0] + other[dice.whole(0, len(other) - 1)]
        elif strokes:
            points = points + 0.18 * dice.normal(2)
        strokes.append((points, closed))
    everything = torch.cat([points for points, _ in strokes])
    centre = (everything.amax(0) + everything.amin(0)) / 2
    reach = float((everything - centre).abs().amax().clamp(min=0.08))
    scale = dice.number(0.2, 0.36) / reach
    if dice.chance(0.15):
        scale = min(scale, 1.2)  # small ones stay small
    return [((points - centre) * scale, closed) for points, closed in strokes]


def _stroke(dice: Dice) -> tuple[Tensor, bool]:
    kind = dice.number(0, 1)
    if kind < 0.25:
        angle = torch.arange(6) / 6 * 2 * math.pi
        radius, aspect = dice.number(0.1, 0.3), dice.scale(0.5, 2) ** 0.5
        loop = torch.stack([angle.cos() * radius * aspect, angle.sin() * radius / aspect], -1)
        return loop + 0.02 * dice.normal(6, 2), True
    if kind < 0.5:
        angle = dice.number(0, 2 * math.pi) + torch.linspace(
            0, dice.number(0.6, 1.9) * math.pi, dice.whole(4, 6)
        )
        return torch.stack([angle.cos(), angle.sin()], -1) * dice.number(0.12, 0.34), False
    if kind < 0.65:
        direction, length = dice.number(0, 2 * math.pi), dice.number(0.15, 0.4)
        end = torch.tensor([math.cos(direction), math.sin(direction)]) * length
        return torch.linspace(-1, 1, 3)[:, None] * end, False
    steps = dice.whole(2, 5)
    bends = dice.number(0.5, 1.4) * dice.normal(steps)
    angle = dice.number(0, 2 * math.pi) + torch.cumsum(bends, 0)
    lengths = dice.uniform(steps, low=0.1, high=0.32)
    moves = torch.stack([angle.cos(), angle.sin()], -1) * lengths[:, None]
    walk = torch.cat([torch.zeros(1, 2), torch.cumsum(moves, 0)])
    return walk - walk.mean(0), False


class Blob:
    """An outline whose radius is a few harmonics of the angle."""

    def __init__(self, dice: Dice, radius: float) -> None:
        self._dice, self._radius = dice, radius
        count = dice.whole(1, 5)
        self._orders = torch.arange(1, count + 1)
        self._amounts = 0.1 * dice.normal(2, count) / self._orders
        if dice.chance(0.4):
            self._amounts[1] = 0  # mirrored
        self._spread, self._aspect = dice.scale(0.008, 0.05), dice.scale(0.5, 2.0) ** 0.5

    def depth(self, at: Tensor) -> Tensor:
        """How far inside the outline places [n, pixels, 2] are, [n, pixels]."""
        n = len(at)
        x, y = at[..., 1] / self._aspect, at[..., 0] * self._aspect
        angle = torch.atan2(y, x)[:, None] * self._orders[:, None]  # [n, orders, pixels]
        amounts = self._amounts + self._spread * self._dice.normal(n, 2, len(self._orders)) / (
            self._orders
        )
        waves = amounts[:, 0, :, None] * angle.cos() + amounts[:, 1, :, None] * angle.sin()
        return self._radius + waves.sum(1) - (x.square() + y.square()).sqrt()


class Profile:
    """A silhouette by its width at each height, mirrored: with a slit, limbs and a neckline, as some have."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        knots = dice.whole(3, 7)
        widths = dice.uniform(knots, low=0.06, high=0.32)
        self._widths = widths if dice.chance(0.6) else widths.sort().values
        self._spread = dice.scale(0.01, 0.05)
        self._top, self._bottom = -dice.number(0.2, 0.4), dice.number(0.2, 0.42)
        self._skew = 0.15 * float(dice.normal()) if dice.chance(0.3) else 0.0
        self._slit = (
            (dice.number(-0.25, 0.15), dice.scale(0.008, 0.06)) if dice.chance(0.2) else None
        )
        self._neck = dice.number(0.04, 0.14) if dice.chance(0.3) else None
        self._limbs = dice.chance(0.35)
        self._limb_angle, self._limb_length = dice.number(0.2, 1.4), dice.number(0.2, 0.5)
        self._limb_width, self._limb_start = dice.number(0.03, 0.1), dice.number(0, 0.12)
        self._without_limbs = dice.number(0, 0.5) if dice.chance(0.3) else 0.0

    def depth(self, at: Tensor) -> Tensor:
        """As `Blob.depth`."""
        n, dice = len(at), self._dice
        y, x = at[..., 0], at[..., 1] - self._skew * at[..., 0]
        top, bottom = (end + self._spread * dice.normal(n, 1) for end in (self._top, self._bottom))
        widths = (self._widths + self._spread * dice.normal(n, len(self._widths))).clamp(min=0.02)
        along = ((y - top) / (bottom - top)).clamp(0, 1 - 1e-4) * (widths.shape[1] - 1)
        knot = along.long()
        u = along - knot
        u = u * u * (3 - 2 * u)
        width = widths.gather(1, knot) * (1 - u) + widths.gather(1, knot + 1) * u
        depth = torch.minimum(torch.minimum(width - x.abs(), y - top), bottom - y)
        if self._slit:
            start, half = self._slit
            half = half * (1 + 0.2 * dice.normal(n, 1))
            beside = torch.maximum(x.abs() - half, start + self._spread * dice.normal(n, 1) - y)
            depth = torch.minimum(depth, beside)
        if self._neck:
            radius = self._neck * (1 + 0.2 * dice.normal(n, 1))
            depth = torch.minimum(depth, (x.square() + (y - top).square()).sqrt() - radius)
        if self._limbs:
            depth = torch.maximum(
                depth, self._limb(x.abs() - 0.1, y - self._top - self._limb_start)
            )
        return depth

    def _limb(self, x: Tensor, y: Tensor) -> Tensor:
        n, dice = len(x), self._dice
        angle = self._limb_angle + 0.12 * dice.normal(n, 1)
        length = self._limb_length * (1 + 0.12 * dice.normal(n, 1))
        right, down = length * angle.sin(), length * angle.cos()
        t = ((x * right + y * down) / length.square()).clamp(0, 1)
        depth = self._limb_width - ((x - t * right).square() + (y - t * down).square()).sqrt()
        return depth.masked_fill(dice.uniform(n, 1) < self._without_limbs, -9.0)


class Surface:
    """Intensities: plain, striped, shaded, checked or clouded."""

    _KINDS = ("plain", "stripes", "shading", "checks", "clouds")

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._kind = self._KINDS[int(dice.choice([0.35, 0.2, 0.15, 0.08, 0.22]))]
        self._angle, self._frequency = dice.number(0, math.pi), dice.scale(12, 70)
        self._contrast, self._soft = dice.number(0.1, 0.6), dice.chance(0.5)
        self._grain = dice.whole(3, 14)
        self.level, self._spread = dice.number(0.3, 0.9), dice.scale(0.02, 0.3)

    def draw(self, at: Tensor) -> Tensor:
        """At places [n, pixels, 2] of a square of pixels, [n, pixels]."""
        level = (self.level + self._spread * self._dice.normal(len(at), 1)).clamp(0.12, 1.0)
        return (self._texture(at) * level).clamp(0, 1)

    def _texture(self, at: Tensor) -> Tensor:
        n, dice = len(at), self._dice
        y, x = at[..., 0], at[..., 1]
        if self._kind == "plain":
            return torch.ones_like(x)
        if self._kind == "shading":
            return (
                1 + self._contrast * (x * math.cos(self._angle) + y * math.sin(self._angle)) / 0.3
            )

        def phase() -> Tensor:
            return 2 * math.pi * dice.uniform(n, 1)

        if self._kind == "stripes":
            angle = self._angle + 0.1 * dice.normal(n, 1)
            frequency = self._frequency * (1 + 0.15 * dice.normal(n, 1))
            waves = torch.sin(frequency * (x * angle.cos() + y * angle.sin()) + phase())
            return 1 + self._contrast * (waves if self._soft else torch.tanh(4 * waves))
        if self._kind == "checks":
            rows, columns = (torch.sin(self._frequency * c + phase()) for c in (y, x))
            return 1 + self._contrast / 2 * (torch.tanh(3 * rows) + torch.tanh(3 * columns))
        side = math.isqrt(x.shape[1])
        coarse = dice.normal(n, 1, self._grain, self._grain)
        clouds = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
        return 1 + 0.6 * self._contrast * clouds.view(n, -1)
