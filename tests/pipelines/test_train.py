"""Training, from shards to a checkpoint: on Ray, in this process, killed and gone on with, and gone wrong."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from pipelines import cli
from pipelines.config import DataConfig, MixConfig, ModelConfig, OptimConfig, TrainConfig
from pipelines.errors import UsageError
from pipelines.journal import JournalReader
from pipelines.tracking import RUN_TAG, find_run, mlflow_client
from pipelines.train.checkpoint import load_model, read_card
from pipelines.train.run import Outcome, TrainingFailedError, train
from tests.made_images import CLASSES


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> TrainConfig:
    """Two epochs of a tiny network: 120 images, of which 112 fill the seven batches of 16."""
    return TrainConfig(
        recipe="gfnet_debug_digits",
        model=ModelConfig(name="gfnet_ti", img_size=16, patch_size=4, embed_dim=16, depth=2, drop_path_rate=0.1),
        data=DataConfig(path=str(shards), crop_scale=(0.5, 1.0), rand_augment=None, task_rows=32),
        mix=MixConfig(),
        optim=OptimConfig(lr=0.1, warmup_epochs=0, schedule="step"),
        epochs=2,
        batch_size=16,
        precision="fp32",
        workers=0,
        storage=str(tmp_path / "runs"),
        name="run",
        log_every=3,
    )


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.checkpoint / "model.safetensors")


def test_two_workers_on_ray(config: TrainConfig, local_ray: None) -> None:
    outcome = train(dataclasses.replace(config, workers=2))
    assert outcome.steps == 14
    assert outcome.metrics["validation/images"] == 31
    assert outcome.metrics["validation/bad_images"] == 0
    assert outcome.checkpoint.name == "checkpoint_00000014"
    card = read_card(outcome.checkpoint)
    assert (card.class_names, card.epoch, card.step) == (CLASSES, 2, 14)
    assert card.config["recipe"] == "gfnet_debug_digits"
    assert card.metrics == outcome.metrics
    model, _ = load_model(outcome.checkpoint)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)

    records = JournalReader(str(outcome.folder)).poll()
    epochs = [record.values for record in records if record.kind == "epoch"]
    assert [values["epoch/images"] for values in epochs] == [112, 112]
    assert all(0 <= values["epoch/data_wait_share"] <= 1 for values in epochs)
    assert [record.step for record in records if record.kind == "train"] == [3, 6, 9, 12]
    assert records[0].kind == "start"
    stages = [
        records[0].values[f"start/{s}_seconds"] for s in ("ray_ready", "worker_started", "first_batch", "first_step")
    ]
    assert stages == sorted(stages)


def test_mlflow_has_the_run(config: TrainConfig) -> None:
    outcome = train(config)
    assert outcome.tracking_error is None
    client = mlflow_client(outcome.tracking_uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "gfnet"]
    card = read_card(outcome.checkpoint)
    run = client.get_run(find_run(client, experiment.experiment_id, card.mlflow_run))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["optim.lr"] == "0.1"
    assert run.data.params["model.embed_dim"] == "16"
    assert run.data.tags[RUN_TAG] == card.mlflow_run
    assert len(run.data.tags["mlflow.source.git.commit"]) >= 40
    (dataset,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("made", card.dataset["digest"])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [3, 6, 9, 12]
    for name in ("epoch/loss", "train/lr", "epoch/images_per_second", "epoch/data_wait_share", "validation/acc1"):
        assert math.isfinite(run.data.metrics[name]), name
    path = client.download_artifacts(run.info.run_id, "checkpoint/card.json")
    assert json.loads(Path(path).read_text())["step"] == 14
    assert not Path("mlruns").exists()


def test_training_learns_the_colours(config: TrainConfig) -> None:
    outcome = train(dataclasses.replace(config, epochs=8, mix=MixConfig(mixup=0, cutmix=0), eval_every=8))
    assert outcome.metrics["validation/acc1"] > 95
    assert outcome.metrics["validation/acc5"] == 100


@pytest.mark.parametrize("stop_at", [7, 10])
def test_going_on_gives_the_same_weights_bit_for_bit(config: TrainConfig, stop_at: int) -> None:
    whole = train(config)
    stopped = dataclasses.replace(config, name="stopped", max_steps=stop_at)
    assert train(stopped).steps == stop_at
    outcome = train(dataclasses.replace(stopped, max_steps=None), resume=True)
    assert outcome.steps == 14
    resumed = weights(outcome)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, resumed[name]), name
    trained = [r.values["epoch/images"] for r in JournalReader(str(outcome.folder)).poll() if r.kind == "epoch"]
    assert sum(trained) == 224


def test_a_killed_driver_is_gone_on_with(config: TrainConfig, local_ray: None) -> None:
    """The driver joins a cluster by RAY_ADDRESS, as a job does, and gets SIGKILL after its first checkpoint."""
    folder = Path(config.storage, "killed")
    line = f"train gfnet_debug_digits --data {config.data.path} --storage {config.storage} --name killed --workers 1 "
    line += "--epochs 200 --batch-size 16 --eval-every 1 --model.img-size 16 --model.embed-dim 16 --model.depth 1"
    command = [sys.executable, "-m", "gfnet", *line.split()]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not list(folder.glob("checkpoint_0*/card.json")):
            assert process.poll() is None, "training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    done = max(read_card(path).step for path in folder.glob("checkpoint_0*"))
    notes = json.loads((folder / "run.json").read_text())
    assert not notes["finished"]
    status = cli.main(
        ["train", "gfnet_debug_digits", "--storage", config.storage, "--resume", "--max-steps", str(done + 7)]
    )
    assert status == 0
    card = read_card(folder / f"checkpoint_{done + 7:08d}")
    assert card.mlflow_run == notes["tag"]
    assert json.loads((folder / "run.json").read_text())["finished"]
    client = mlflow_client(f"sqlite:///{config.storage}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "gfnet"]
    (run,) = client.search_runs([experiment.experiment_id])
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "epoch/loss")]
    assert steps == sorted(set(steps))
    assert steps[-1] == done + 7


def test_a_loss_that_is_not_finite_stops_all_ranks(config: TrainConfig, local_ray: None) -> None:
    optim = OptimConfig(lr=1e12, warmup_epochs=0, clip_grad=None, schedule="step")
    with pytest.raises(TrainingFailedError) as error:
        train(dataclasses.replace(config, workers=2, optim=optim, epochs=4, log_every=20, eval_every=9))
    message = str(error.value)
    assert "was not finite at step" in message
    assert "learning rate 3.1" in message  # 1e12 * 16 / 512 = 3.1e10, falling
    assert "no checkpoint yet" in message


def test_all_in_this_process_equals_one_ray_worker(config: TrainConfig, local_ray: None) -> None:
    here = train(dataclasses.replace(config, max_steps=4))
    there = train(dataclasses.replace(config, max_steps=4, workers=1, name="ray"))
    theirs = weights(there)
    for name, tensor in weights(here).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


def test_starting_from_other_weights(config: TrainConfig) -> None:
    first = train(dataclasses.replace(config, max_steps=2))
    model = dataclasses.replace(config.model, img_size=32)
    tuned = dataclasses.replace(
        config,
        model=model,
        init_from=str(first.checkpoint),
        name="tuned",
        max_steps=1,
        optim=OptimConfig(lr=1e-9, warmup_epochs=0),
    )
    outcome = train(tuned)
    before, after = weights(first), weights(outcome)
    assert after["pos_embed"].shape == (1, 64, 16)
    assert torch.allclose(before["blocks.0.mlp.fc1.weight"], after["blocks.0.mlp.fc1.weight"], atol=1e-5)
    other = dataclasses.replace(tuned, model=dataclasses.replace(model, depth=3), name="other")
    with pytest.raises(UsageError, match="a checkpoint of another network"):
        train(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 121}, "has 120 images, fewer than one global batch of 121"),
        ({"model": ModelConfig(name="gfnet_xl")}, "No variant 'gfnet_xl'"),
        ({"model": ModelConfig(name="gfnet_ti", img_size=30)}, "multiples of 16 pixels"),
        ({"model": ModelConfig(name="gfnet_h_ti", img_size=32, depth=2)}, "None for gfnet_h_ti"),
        ({"init_from": "nowhere"}, "init_from is 'nowhere'"),
        ({"batch_size": 15}, "which is odd; mixup and cutmix pair images"),
        ({"data": DataConfig(path="SHARDS", train_split="all")}, "has no split 'all'; it has 'train', 'validation'"),
        ({"storage": "s3://bucket/runs"}, "allowed for now: a local folder"),
    ],
)
def test_what_cannot_be_trained_is_said(config: TrainConfig, changes: dict[str, object], message: str) -> None:
    if "data" in changes:
        changes = {"data": dataclasses.replace(changes["data"], path=config.data.path)}
    with pytest.raises(UsageError) as error:
        train(dataclasses.replace(config, **changes))
    assert message in str(error.value)
    assert not Path(config.storage, "run", "run.json").exists()


def test_a_cluster_that_is_too_small_is_refused(config: TrainConfig, local_ray: None) -> None:
    with pytest.raises(UsageError, match="The cluster has 4 CPUs; 4 workers"):
        train(dataclasses.replace(config, workers=4))
    with pytest.raises(UsageError, match="which 2 workers cannot share evenly"):
        train(dataclasses.replace(config, workers=2, batch_size=15))
    with pytest.raises(UsageError, match="but the cluster has 0"):
        train(dataclasses.replace(config, workers=2, use_gpu=True))
    assert not Path(config.storage, "run").exists()


def test_runs_are_not_overwritten(config: TrainConfig) -> None:
    outcome = train(dataclasses.replace(config, epochs=1))
    before = weights(outcome)["head.bias"]
    with pytest.raises(UsageError, match=r"exists in .* Go on with it by --resume"):
        train(config)
    with pytest.raises(UsageError, match="is finished: 1 of 1 epochs"):
        train(dataclasses.replace(config, epochs=1), resume=True)
    assert torch.equal(before, weights(outcome)["head.bias"])
