"""`gfnet train RECIPE`: the command line of a training run."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from pipelines import recipes
from pipelines.config import TrainConfig, from_dict, to_dict
from pipelines.errors import UsageError
from pipelines.train.display import print_summary
from pipelines.train.run import RUN_FILE, STARTED, TrainingFailedError, train


def parse(argv: list[str]) -> tuple[TrainConfig, dict[str, bool]]:
    """Splits `RECIPE --flags` into the configuration and what only concerns the command."""
    recipe, *rest = argv
    make = recipes.find(recipe)
    default = make()
    if "--resume" in rest:
        default = _saved_config(recipe, rest)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments:
        config: Annotated[TrainConfig, tyro.conf.arg(name="")]
        resume: bool = False
        """Go on with the run --name, or with the newest unfinished one of this recipe."""
        verbose: bool = False
        """Show what Ray and the workers print, too."""
        print_config: bool = False
        """Print the resolved configuration as JSON and stop."""

    description = f"{make.__doc__}\n\nExample: gfnet train {recipe} --data SHARDS --workers 2 --epochs 10"
    parsed = tyro.cli(
        Arguments,
        default=Arguments(config=default),
        args=rest,
        prog=f"gfnet train {recipe}",
        description=description,
    )
    return parsed.config, {"resume": parsed.resume, "verbose": parsed.verbose, "print_config": parsed.print_config}


def _flag(rest: list[str], name: str) -> str | None:
    for i, word in enumerate(rest):
        if word == name and i + 1 < len(rest):
            return rest[i + 1]
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
    return None


def _saved_config(recipe: str, rest: list[str]) -> TrainConfig:
    """The configuration of the run to resume: by its name, or the newest unfinished one of the recipe.

    Raises:
        UsageError: there is no such run, or it is of another recipe.
    """
    storage = Path(_flag(rest, "--storage") or "runs")
    name = _flag(rest, "--name")
    notes = {path.parent.name: json.loads(path.read_text()) for path in storage.glob(f"*/{RUN_FILE}")}
    if name is None:
        open_runs = [n for n, note in notes.items() if note["config"]["recipe"] == recipe and not note["finished"]]
        if not open_runs:
            raise UsageError(
                f"No unfinished run of {recipe} in {storage}. Runs there: {', '.join(sorted(notes)) or 'none'}."
            )
        name = max(open_runs, key=lambda n: (storage / n / RUN_FILE).stat().st_mtime)
    if name not in notes:
        raise UsageError(f"No run {name!r} in {storage}. Runs there: {', '.join(sorted(notes)) or 'none'}.")
    config = from_dict(notes[name]["config"])
    if config.recipe != recipe:
        raise UsageError(f"The run {name!r} is of the recipe {config.recipe}, not {recipe}.")
    return config


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    config, only = parse(argv)
    if only["print_config"]:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    try:
        outcome = train(config, resume=only["resume"], verbose=only["verbose"], started=STARTED)
    except KeyboardInterrupt:
        print(
            f"\nStopped. Go on with: gfnet train {config.recipe} --storage {config.storage} --resume", file=sys.stderr
        )
        return 130
    except TrainingFailedError as error:
        print(f"gfnet train: failed:\n{error}", file=sys.stderr)
        return 1
    print_summary(outcome, data=config.data.path)
    return 0


def _help() -> str:
    width = max(map(len, recipes.RECIPES))
    lines = [f"  {name:{width}}  {recipes.summary(recipe)}" for name, recipe in recipes.RECIPES.items()]
    return "\n".join(
        [
            "usage: gfnet train RECIPE --data SHARDS [--workers N] [--any.field VALUE] [--resume] [--print-config]",
            "",
            "Trains a recipe with Ray Train on Parquet shards streamed by Ray Data.",
            "'gfnet train RECIPE --help' explains every field and shows the recipe's values.",
            "",
            "recipes:",
            *lines,
        ]
    )
