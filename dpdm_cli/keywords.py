"""Keywords that a function takes as one typed dictionary, shown one by one to whoever asks what it takes."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def keywords_shown(function: Callable[P, R]) -> Callable[P, R]:
    """Give `function` a signature with the keywords of `Options` for `**options: Unpack[Options]`, all None by default.

    Type checkers read them off the annotation; `help()`, and completion in a running Python, off the signature.
    """
    signature = inspect.signature(function)
    *parameters, options = signature.parameters.values()
    (keywords,) = typing.get_args(typing.get_type_hints(function)[options.name])
    shown = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in typing.get_type_hints(keywords).items()
    ]
    function.__signature__ = signature.replace(parameters=[*parameters, *shown])  # type: ignore[attr-defined]
    return function
