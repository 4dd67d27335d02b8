"""What the driver hands to every rank."""

import dataclasses

from pipelines.config import TrainConfig
from pipelines.data.manifest import Manifest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run, as a rank needs to know it.

    Attributes:
        run_uri: the run's folder.
        run_tag: finds the run in MLflow.
        decode_tasks: decoding tasks at a time for each rank; 0: decode in the rank's own process.
        decode_cpus: logical CPUs that one of them reserves.
        started: when the command started, seconds since 1970.
    """

    config: TrainConfig
    manifest: Manifest
    run_uri: str
    run_tag: str
    decode_tasks: int
    decode_cpus: float
    started: float
