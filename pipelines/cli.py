"""The `gfnet` command: finds the module of a command, runs it, and turns a user's error into one clear message."""

import importlib
import sys

from pipelines.errors import user_errors

# Modules are named as strings, so that a command imports only what it needs: torch alone takes seconds.
COMMANDS = {
    "quickstart": ("pipelines.quickstart", "train a small GFNet on handwritten digits from start to end"),
    "prepare": ("pipelines.data.prepare", "an image folder -> shuffled Parquet shards and a manifest"),
    "train": ("pipelines.train.command", "train a recipe on a data set with Ray Train; --resume goes on"),
    "evaluate": ("pipelines.evaluate.run", "accuracy of a checkpoint on a data set, every image counted once"),
    "predict": ("pipelines.predict", "the five likeliest classes of image files"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gfnet COMMAND ...",
            "",
            "Global Filter Networks, trained and tuned on Ray clusters.",
            "",
            *lines,
            "",
            "'gfnet COMMAND --help' explains a command. First steps: gfnet quickstart",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (without the program's name) and returns its exit status: 0, 1 (failed) or 2 (bad input)."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"gfnet: no command {command!r}. Allowed: {', '.join(COMMANDS)}.\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(COMMANDS[command][0]).main(rest) or 0)
    except KeyboardInterrupt:
        print(f"\ngfnet {command}: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, user_errors()):
            raise
        print(f"gfnet {command}: error:\n{error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
