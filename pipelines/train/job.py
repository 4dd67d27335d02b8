"""What the driver hands to every rank."""

import dataclasses
import time

from pipelines.config import TrainConfig
from pipelines.data.manifest import Manifest


class StartClock:
    """Seconds from the command to each stage of the start, on the driver and then on a worker.

    Args:
        began: when the command started, seconds since 1970.
    """

    def __init__(self, began: float):
        self.began = began
        self.seconds: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        self.seconds[stage] = time.time() - self.began


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run, as a rank needs to know it.

    Attributes:
        run_uri: the run's folder.
        run_tag: finds the run in MLflow.
        decode_tasks: decoding tasks at a time for each rank; 0: decode in the rank's own process.
        decode_cpus: logical CPUs that one of them reserves.
        clock: what the time to the first step is made of.
    """

    config: TrainConfig
    manifest: Manifest
    run_uri: str
    run_tag: str
    decode_tasks: int
    decode_cpus: float
    clock: StartClock
