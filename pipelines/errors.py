"""The one kind of error that a person can cause; `gfnet` prints it without a traceback and exits with status 2."""

import sys
from collections.abc import Sequence


class UsageError(ValueError):
    """Something the user gave cannot be used. The message says what, the value, what is allowed and what to do."""


def raise_together(problems: Sequence[str]) -> None:
    """Raises one `UsageError` naming every problem, so that a person fixes them all in one go."""
    if problems:
        raise UsageError("\n".join(f"- {problem}" for problem in problems) if len(problems) > 1 else problems[0])


def user_errors() -> tuple[type[Exception], ...]:
    """The error classes of a person's mistakes. The model library's count only where something has imported it."""
    library = sys.modules.get("gfnet.errors")
    return (UsageError, library.GFNetError) if library else (UsageError,)
