"""Ray Data as every command here uses it: without its bars and messages, which would flood the screen and job logs."""

import logging
from types import ModuleType


def ray_data() -> ModuleType:
    """Imports Ray Data and makes it quiet in this process."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data
