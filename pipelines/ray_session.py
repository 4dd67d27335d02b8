"""The Ray that a command runs on: the cluster that RAY_ADDRESS names, or one started here for the command's life."""

import contextlib
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def ray_session(num_cpus: int | None = None, *, verbose: bool = False) -> Iterator[None]:
    """Connects to the cluster that `RAY_ADDRESS` names, or starts a local Ray that ends with the block.

    A Ray that this process is connected to already is used as it is and left running.

    Args:
        num_cpus: logical CPUs of a local Ray; None takes the machine's. May exceed them on a small machine.
        verbose: show the workers' own output too.
    """
    # Without bytecode every Ray process compiles torch, numpy and ray again: 25 s instead of 5.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, object] = {"log_to_driver": verbose}
    if not verbose:
        options["logging_level"] = logging.ERROR
        for library in ("ray.data", "ray.train"):
            logging.getLogger(library).setLevel(logging.ERROR)
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()
