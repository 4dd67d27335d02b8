"""Runs the training loop: on the workers of a Ray Train run, or in this process."""

from pathlib import Path
from typing import Any

from pipelines.errors import user_errors
from pipelines.train.job import Job
from pipelines.train.resources import Resources
from pipelines.train.session import LocalSession, RaySession, Session


def fit_on_ray(job: Job, resources: Resources) -> dict[str, Any]:
    """Runs the loop on Ray Train workers; returns what it returns on rank 0, or {"error": why it failed}."""
    import ray.train
    import ray.train.torch

    config = job.config
    trainer = ray.train.torch.TorchTrainer(
        _on_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=resources.workers, use_gpu=resources.use_gpu),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=config.storage,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures, controller_failure_limit=3),
        ),
    )
    job.clock.mark("trainer_called")
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        return {"error": f"{error}\nGo on with: gfnet train {config.recipe} --name {config.name} --resume"}
    return dict(result.return_value)


def run_here(job: Job, resources: Resources) -> dict[str, Any]:
    """Runs the loop in this process, without Ray."""
    session = LocalSession(Path(job.run_uri), use_gpu=resources.use_gpu, keep=job.config.keep_checkpoints)
    return _run(job, session)


def _on_worker(loop_config: dict[str, Any]) -> dict[str, Any]:
    return _run(loop_config["job"], RaySession())


def _run(job: Job, session: Session) -> dict[str, Any]:
    job.clock.mark("worker_started")
    from pipelines.train.loop import Training
    from pipelines.train.meter import NonFiniteLossError

    job.clock.mark("worker_imported")
    # What a restart would only repeat is returned, not raised: Ray Train retries what is raised.
    try:
        return Training(job, session).run()
    except NonFiniteLossError as error:
        return {"error": str(error)}
    except user_errors() as error:
        return {"usage_error": str(error)}
