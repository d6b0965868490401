"""The words that options choose from, for the command line, Python and type checkers alike. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

Preset = Literal["small", "paper"]
"""Settings that come with the package."""

WarmStart = Literal["none", "means", "moments"]
"""What is released of each class before the first step."""

Unit = Literal["image", "person"]
"""What a record is, and so what a claim protects."""

Init = Literal["none", "procedural"]
"""What the weights start from."""

Parameterisation = Literal["edm", "v", "vp", "ve"]
"""How the network's output becomes a denoised image."""

Schedule = Literal["constant", "cosine"]
"""Of the learning rate."""

Precision = Literal["auto", "float32", "tf32", "bf16"]
"""How products of forward and backward passes are rounded."""

Profile = Literal["exact", "paper"]
"""How q and sigma are chosen."""

SamplerName = Literal["ddim", "stochastic-ddim", "euler", "heun"]
"""How noise becomes an image."""

Purpose = Literal["fid", "accuracy"]
"""What the paper chose its samplers for."""

ImageFormat = Literal["png", "npz", "zip", "parquet"]
"""How drawn images are stored."""

Split = Literal["train", "test"]
"""Which images of a set that is divided."""

FolderLayout = Literal["class/image", "class/person/image", "person/class/image", "person/image"]
"""What the names of nested folders stand for, from the outermost on."""

Reference = Literal["both", "train", "test"]
"""Which of them are compared."""

Resize = Literal["clean", "legacy_tensorflow"]
"""How Inception's input is resized; clean-fid's names."""

BaselineKind = Literal["real", "dp-sgd", "scattering"]
"""What is trained on real images for comparison."""

ChosenBy = Literal[
    "only-run", "before", "random", "public-images", "samples", "private-images", "other"
]
"""How a published run was chosen among those on the same images."""

SeenBy = Literal["holder", "operator", "others"]
"""Who saw the private images."""

Adjacency = Literal["add-or-remove-one", "replace-one"]
"""Which data sets are neighbours."""
