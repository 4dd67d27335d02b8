"""A training run as its driver sees it: from a configuration to an outcome."""

import contextlib
import dataclasses
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from pipelines.config import TrainConfig, check, flatten, to_dict
from pipelines.data.manifest import Manifest, open_dataset
from pipelines.errors import UsageError, raise_together
from pipelines.ray_session import ray_session
from pipelines.tracking import Tracker, tracking_uri
from pipelines.train.display import Display
from pipelines.train.job import Job, StartClock
from pipelines.train.resources import Resources, plan_resources

RUN_FILE = "run.json"
STARTED = time.time()


class TrainingFailedError(RuntimeError):
    """Training ended without a result. The message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished run.

    Attributes:
        folder: of the run.
        checkpoint: folder of the last checkpoint.
        metrics: the last evaluation.
        images_per_second: training alone, all workers together.
        tracking_uri: where MLflow has the results.
        tracking_error: why it does not have them all, or None.
    """

    folder: Path
    checkpoint: Path
    metrics: dict[str, float]
    images_per_second: float
    steps: int
    seconds: float
    tracking_uri: str
    tracking_error: str | None


def train(config: TrainConfig, *, resume: bool = False, verbose: bool = False, started: float | None = None) -> Outcome:
    """Trains a run from start to end, or goes on with it.

    Args:
        config: checked here.
        resume: go on with the run `config.name` in `config.storage`.
        verbose: show what Ray and the workers print.
        started: when the command began, seconds since 1970; now if None.

    Raises:
        UsageError: the configuration, the data set or the run's name cannot be used.
        TrainingFailedError: the loss was not finite, or workers failed too often.
    """
    clock = StartClock(started or time.time())
    check(config)
    manifest = open_dataset(_absolute(config.data.path))
    config = dataclasses.replace(config, storage=_absolute(config.storage), name=config.name or new_name(config.recipe))
    folder = Path(config.storage, str(config.name))
    uri = tracking_uri(config.tracking.uri, Path(config.storage))
    _check_against(config, manifest)
    _check_run(folder, config, resume)
    ray = ray_session(_local_cpus(config), verbose=verbose) if config.workers != 0 else contextlib.nullcontext()
    with ray:
        clock.mark("ray_ready")
        resources = plan_resources(config)
        _check_batch(config, resources)
        job = Job(
            config=config,
            manifest=manifest,
            run_uri=str(folder),
            run_tag=_open_folder(folder, config),
            decode_tasks=resources.decode_tasks,
            decode_cpus=resources.decode_cpus,
            clock=clock,
        )
        result, tracking_error = _train(job, resources, uri)
    _mark_finished(folder)
    return Outcome(
        folder=folder,
        checkpoint=newest_checkpoint(folder),
        metrics=result["metrics"],
        images_per_second=result["images_per_second"],
        steps=result["steps"],
        seconds=time.time() - clock.began,
        tracking_uri=uri,
        tracking_error=tracking_error,
    )


def _train(job: Job, resources: Resources, uri: str) -> tuple[dict[str, Any], str | None]:
    """Runs the loop with the display and the tracker beside it; returns its result and MLflow's trouble, if any."""
    folder, manifest = Path(job.run_uri), job.manifest
    tracker = Tracker(
        uri,
        experiment=job.config.tracking.experiment,
        folder=folder,
        run=job.run_tag,
        params=flatten(job.config),
        dataset={"name": manifest.name, "digest": manifest.digest, "source": manifest.uri},
    )
    display = Display(folder, job.config, manifest, resources)
    tracker.start()
    display.start()
    status = "FAILED"
    try:
        result = _fit(job, resources)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except UsageError:
        if not any(folder.glob("checkpoint_*")):
            (folder / RUN_FILE).unlink()  # nothing began: the name is free again
        raise
    finally:
        display.finish()
        tracker.finish(status, lambda client, run: _log_card(client, run, folder))
    return result, tracker.error


def new_name(recipe: str) -> str:
    return f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"


def newest_checkpoint(folder: Path) -> Path:
    """The last checkpoint of a run.

    Raises:
        UsageError: the run has none.
    """
    found = max(folder.glob("checkpoint_[0-9]*"), default=None)
    if found is None:
        raise UsageError(f"{folder} has no checkpoint yet.")
    return found


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _check_against(config: TrainConfig, manifest: Manifest) -> None:
    split = manifest.split(config.data.train_split)
    if config.data.eval_split:
        manifest.split(config.data.eval_split)
    if "://" in config.storage:
        raise UsageError(f"storage is {config.storage!r}; allowed for now: a local folder (one that all nodes see).")
    problems = []
    if split.rows < config.batch_size:
        problems.append(
            f"The split {config.data.train_split!r} has {split.rows} images, fewer than one global batch of "
            f"{config.batch_size}. Give a --batch-size of at most {split.rows}."
        )
    if config.init_from and not Path(config.init_from, "card.json").exists():
        problems.append(f"init_from is {config.init_from!r}, which is no checkpoint folder: it has no card.json.")
    raise_together(problems)


def _check_batch(config: TrainConfig, resources: Resources) -> None:
    ranks = max(resources.workers, 1)
    if config.batch_size % ranks:
        raise UsageError(
            f"batch_size is {config.batch_size}, which {ranks} workers cannot share evenly. Allowed: a multiple of "
            f"{ranks}, such as {max(1, config.batch_size // ranks) * ranks}."
        )
    if (config.mix.mixup > 0 or config.mix.cutmix > 0) and config.batch_size // ranks % 2:
        raise UsageError(
            f"A worker's batch is {config.batch_size} / {ranks} = {config.batch_size // ranks}, which is odd; "
            "mixup and cutmix pair images. Give another --batch-size, or --mix.mixup 0 --mix.cutmix 0."
        )


def _check_run(folder: Path, config: TrainConfig, resume: bool) -> None:
    if not resume and (folder / RUN_FILE).exists():
        raise UsageError(
            f"The run {config.name!r} exists in {config.storage}. Go on with it by --resume, or give another --name."
        )
    done = _epochs_done(folder)
    if resume and done >= config.epochs:
        raise UsageError(
            f"The run {config.name!r} is finished: {done} of {config.epochs} epochs. Nothing to go on with."
        )


def _epochs_done(folder: Path) -> int:
    done = 0
    for path in folder.glob("checkpoint_[0-9]*/card.json"):
        with contextlib.suppress(ValueError):  # a killed run may have left half a file
            done = max(done, json.loads(path.read_text())["epoch"])
    return done


def _open_folder(folder: Path, config: TrainConfig) -> str:
    """Notes the run and its configuration in its folder; returns the tag that finds it in MLflow."""
    note = folder / RUN_FILE
    folder.mkdir(parents=True, exist_ok=True)
    tag = json.loads(note.read_text())["tag"] if note.exists() else uuid.uuid4().hex
    _write_json(note, {"tag": tag, "finished": False, "config": to_dict(config)})
    return str(tag)


def _mark_finished(folder: Path) -> None:
    note = folder / RUN_FILE
    _write_json(note, {**json.loads(note.read_text()), "finished": True})


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


def _local_cpus(config: TrainConfig) -> int:
    """Logical CPUs of a Ray of our own: all, and on a small machine enough that every worker has a decoding task."""
    workers = 1 if config.workers is None else config.workers
    return max(os.cpu_count() or 1, workers * (1 + max(1, config.data.decode_cpus)))


def _fit(job: Job, resources: Resources) -> dict[str, Any]:
    from pipelines.train.worker import fit_on_ray, run_here

    outcome = run_here(job, resources) if resources.workers == 0 else fit_on_ray(job, resources)
    if "usage_error" in outcome:
        raise UsageError(outcome["usage_error"])
    if "error" in outcome:
        raise TrainingFailedError(outcome["error"])
    return outcome


def _log_card(client: Any, run_id: str, folder: Path) -> None:
    checkpoint = max(folder.glob("checkpoint_[0-9]*"), default=None)
    if checkpoint is not None:
        client.log_artifact(run_id, str(checkpoint / "card.json"), "checkpoint")
        client.set_tag(run_id, "gfnet.checkpoint", str(checkpoint))
