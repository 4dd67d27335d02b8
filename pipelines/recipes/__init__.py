"""Recipes: functions that return a complete `TrainConfig`. Their docstrings are what `gfnet train --help` lists."""

import difflib
from collections.abc import Callable

from pipelines.config import TrainConfig
from pipelines.errors import UsageError
from pipelines.recipes import debug, imagenet, transfer

Recipe = Callable[[], TrainConfig]

RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe for module in (imagenet, transfer, debug) for recipe in module.RECIPES
}


def find(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UsageError: there is none; the message names the nearest ones.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(f"No recipe {name!r}.{hint} Allowed: {', '.join(RECIPES)}.")


def summary(recipe: Recipe) -> str:
    """The first line of a recipe's docstring."""
    return (recipe.__doc__ or "").strip().splitlines()[0]
