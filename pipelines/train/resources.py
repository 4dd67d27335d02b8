"""How a run shares the cluster's CPUs and GPUs between training workers and decoding tasks."""

import dataclasses

from pipelines.config import TrainConfig
from pipelines.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Attributes:
    workers: training workers; 0: all in this process.
    use_gpu: one GPU for each of them.
    decode_tasks: decoding tasks at a time for each worker.
    decode_cpus: logical CPUs that a decoding task reserves.
    """

    workers: int
    use_gpu: bool
    decode_tasks: int
    decode_cpus: float


def plan_resources(config: TrainConfig) -> Resources:
    """Chooses workers, devices and decoding tasks for the cluster that this process is connected to.

    Raises:
        UsageError: the cluster is too small; the message has the numbers.
    """
    if config.workers == 0:
        import torch

        return Resources(workers=0, use_gpu=torch.cuda.is_available(), decode_tasks=0, decode_cpus=0)
    import ray

    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    use_gpu = gpus > 0 if config.use_gpu is None else config.use_gpu
    workers = config.workers or (max(gpus, 1) if use_gpu else 1)
    if use_gpu and workers > gpus:
        raise UsageError(
            f"{workers} workers with a GPU each, but the cluster has {gpus}. "
            f"Give --workers {max(gpus, 1)} or --use-gpu False."
        )
    # A stream that waits keeps its CPU: every worker needs one of its own for decoding, or they wait for each other.
    free = cpus - workers
    tasks = config.data.decode_cpus or max(1, free // workers)
    if free < workers * tasks:
        raise UsageError(
            f"The cluster has {cpus} CPUs; {workers} workers with {tasks} decoding tasks each need "
            f"{workers * (1 + tasks)}. Give fewer --workers or add nodes."
        )
    return Resources(workers=workers, use_gpu=use_gpu, decode_tasks=tasks, decode_cpus=1.0)
