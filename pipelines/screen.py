"""Tables for people: rows of whatever length are never cut, so that a path can be copied from them."""

from rich import box
from rich.console import Console
from rich.table import Table


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the one look of all commands; without columns it has no header."""
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE, show_header=bool(columns))


def show(made: Table) -> None:
    """Prints a table at its own width; the terminal wraps what is wider than it."""
    Console(width=1000).print(made)


def warn(text: str) -> None:
    """Prints a line in yellow."""
    Console(soft_wrap=True).print(text, style="yellow", markup=False, highlight=False)
