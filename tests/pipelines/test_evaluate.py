"""Evaluation and prediction: every image counted once, and both see the same."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

import gfnet
from pipelines import cli
from pipelines.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, to_dict
from pipelines.data.manifest import RowReader, huggingface_schema, open_dataset
from pipelines.data.transforms import BadImageError, EvalTransform, decode
from pipelines.errors import UsageError
from pipelines.evaluate.metrics import Counts
from pipelines.evaluate.picture import draw_confusion
from pipelines.evaluate.run import EvaluateConfig, EvaluationResult, evaluate
from pipelines.predict import PredictConfig, predict
from pipelines.tracking import find_run, mlflow_client
from pipelines.train import checkpoint as checkpoints
from pipelines.train.optim import make_optimizer
from pipelines.train.progress import Progress
from pipelines.train.step import normalize
from tests.made_images import CLASSES, made_image

BAD_ROWS = (13, 77)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 test images of three classes in row groups of 10; rows 13 and 77 are damaged."""
    folder = tmp_path_factory.mktemp("data") / "tests"
    folder.mkdir()
    rows, labels = [], []
    for row in range(103):
        stream = io.BytesIO()
        label = (row * 7) % 3
        made_image(CLASSES[label], row).save(stream, "JPEG")
        rows.append({"bytes": stream.getvalue()[: 200 if row in BAD_ROWS else None], "path": f"{row}.jpg"})
        labels.append(label)
    table = pa.table({"image": rows, "label": labels}, schema=huggingface_schema(CLASSES))
    pq.write_table(table, folder / "test-0.parquet", row_group_size=10)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network's checkpoint in a folder of runs of its own."""
    return write_checkpoint(tmp_path_factory.mktemp("work") / "runs" / "made" / "checkpoint_00000003")


def write_checkpoint(folder: Path, *, seed: int = 0, class_names: tuple[str, ...] = CLASSES) -> Path:
    """Writes the checkpoint of an untrained network, over one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = TrainConfig(
        recipe="gfnet_debug_digits",
        model=ModelConfig(name="gfnet_ti", img_size=16, patch_size=4, embed_dim=8, depth=1),
        data=DataConfig(eval_crop=0.8),
    )
    model = checkpoints.build_model(to_dict(config)["model"], len(class_names))
    with torch.no_grad():
        model.get_classifier().weight.mul_(50)  # so that it prefers no single class
    card = checkpoints.Card(
        config=to_dict(config),
        class_names=class_names,
        dataset={"name": "made", "digest": "0", "source": "made"},
        epoch=1,
        step=3,
        metrics={},
        versions=checkpoints.versions(),
        mlflow_run="evaluated",
    )
    progress = Progress.start(rows=9)
    checkpoints.save(folder, model, card, make_optimizer(model, OptimConfig()), progress)
    return folder


def plain_loop(checkpoint: Path, dataset: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and rows of the good images, one by one, without Ray: what evaluation must come to."""
    model, _ = checkpoints.load_model(checkpoint)
    transform = EvalTransform(size=16, eval_crop=0.8)
    data, labels = RowReader(open_dataset(str(dataset)), "test").read(np.arange(103))
    logits, good = [], []
    for row, image in enumerate(data):
        try:
            pixels = transform(decode(image))
        except BadImageError:
            continue
        good.append(row)
        with torch.inference_mode():
            logits.append(model(normalize(torch.tensor(pixels)[None]))[0].numpy())
    return labels[good], np.stack(logits), np.array(good)


def test_counts_equal_a_plain_loops(checkpoint: Path, dataset: Path, local_ray: None) -> None:
    config = EvaluateConfig(checkpoint=str(checkpoint), data=str(dataset), workers=3, batch_size=16, precision="fp32")
    result = evaluate(config)
    labels, logits, _ = plain_loop(checkpoint, dataset)
    assert result.bad_rows == BAD_ROWS
    assert result.images == 101
    assert np.array_equal(result.confusion, confusion_matrix(labels, logits.argmax(axis=1), labels=range(3)))
    assert result.acc1 == pytest.approx(100 * (logits.argmax(axis=1) == labels).mean())
    assert 0 < result.acc1 < 100
    assert result.acc5 == 100
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert result.loss == pytest.approx(loss, abs=1e-5)
    in_mlflow(checkpoint, result)


def test_new_weights_in_the_same_folder_are_seen(dataset: Path, tmp_path: Path, local_ray: None) -> None:
    folder, losses = tmp_path / "runs" / "made" / "checkpoint_00000003", []
    for seed in (1, 2):
        config = EvaluateConfig(checkpoint=str(write_checkpoint(folder, seed=seed)), data=str(dataset), workers=1)
        losses.append(evaluate(dataclasses.replace(config, precision="fp32")).loss)
        labels, logits, _ = plain_loop(folder, dataset)
        expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
        assert losses[-1] == pytest.approx(expected, abs=1e-5)
    assert losses[0] != pytest.approx(losses[1], abs=1e-2)


def test_evaluation_leaves_ray_data_as_it_was(
    checkpoint: Path, dataset: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.data import DataContext

    monkeypatch.setattr(DataContext.get_current(), "target_max_block_size", 12_345_678)
    evaluate(EvaluateConfig(checkpoint=str(checkpoint), data=str(dataset), workers=1))
    assert DataContext.get_current().target_max_block_size == 12_345_678


@pytest.mark.parametrize(
    ("rows", "message"),
    [(12, "Row 0 of .* has the label -1; allowed: 0 to 2"), (0, "Split 'test' of .* has no images")],
)
def test_splits_that_cannot_be_evaluated(
    rows: int, message: str, checkpoint: Path, dataset: Path, tmp_path: Path, local_ray: None
) -> None:
    table = pq.read_table(dataset / "test-0.parquet").slice(0, rows)
    unlabelled = table.set_column(1, table.schema.field("label"), pa.array([-1] * rows, pa.int64()))
    pq.write_table(unlabelled.replace_schema_metadata(table.schema.metadata), tmp_path / "test-0.parquet")
    with pytest.raises(UsageError, match=message):
        evaluate(EvaluateConfig(checkpoint=str(checkpoint), data=str(tmp_path), workers=1))


@pytest.mark.parametrize("classes", [3, 450])
def test_any_class_names_can_be_drawn(classes: int, tmp_path: Path) -> None:
    names = ("a$\\x$", "猫", "very " * 30, *map(str, range(classes - 3)))
    draw_confusion(np.eye(classes, dtype=np.int64), names, "made_$\\x$ test", tmp_path / "made.png")
    with Image.open(tmp_path / "made.png") as picture:
        assert min(picture.size) > 2 * classes


def in_mlflow(checkpoint: Path, result: EvaluationResult) -> None:
    """A run that MLflow does not know yet is made and tagged; it has the figures, the table and the picture."""
    assert result.tracking_error is None
    client = mlflow_client(f"sqlite:///{checkpoint.parent.parent}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "gfnet"]
    run = client.get_run(find_run(client, experiment.experiment_id, "evaluated"))
    assert run.data.metrics["evaluate/test/acc1"] == pytest.approx(result.acc1)
    assert run.data.metrics["evaluate/test/images"] == 101
    assert run.data.metrics["evaluate/test/bad_images"] == 2
    files = {f.path for f in client.list_artifacts(run.info.run_id, "evaluate/test")}
    assert files == {"evaluate/test/confusion_matrix.png", "evaluate/test/classes.csv"}
    table = Path(client.download_artifacts(run.info.run_id, "evaluate/test/classes.csv")).read_text().splitlines()
    assert table[0] == "class,images,correct,accuracy"
    assert [line.split(",")[0] for line in table[1:]] == list(CLASSES)


def test_the_commands_agree(
    checkpoint: Path, dataset: Path, tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(checkpoint), "--data", str(dataset), "--json", "--precision", "fp32"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["split"], figures["images"], figures["bad_rows"]) == ("test", 101, list(BAD_ROWS))

    data, labels = RowReader(open_dataset(str(dataset)), "test").read(np.arange(103))
    for row, image in enumerate(data):
        (tmp_path / f"{row:03d}.jpg").write_bytes(image)
    assert cli.main(["predict", str(checkpoint), str(tmp_path), "--json", "--top", "2"]) == 1
    out, err = capsys.readouterr()
    answers = json.loads(out)
    assert [answer["path"] for answer in answers] == [str(tmp_path / f"{row:03d}.jpg") for row in range(103)]
    assert {i for i, answer in enumerate(answers) if "error" in answer} == set(BAD_ROWS)
    assert all(f"{row:03d}.jpg cannot be read" in err for row in BAD_ROWS)
    right = [a["predictions"][0]["label"] == labels[i] for i, a in enumerate(answers) if i not in BAD_ROWS]
    assert 100 * np.mean(right) == pytest.approx(figures["acc1"])
    assert all(len(a["predictions"]) == 2 for i, a in enumerate(answers) if i not in BAD_ROWS)


def test_predictions_are_probabilities_in_order(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    made_image("red", 1).save(path)
    (prediction,) = predict(PredictConfig(checkpoint=str(checkpoint), images=(str(path),)))
    probabilities = [guess.probability for guess in prediction.guesses]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    assert {guess.name for guess in prediction.guesses} == set(CLASSES)


def test_a_table_names_the_classes(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    made_image("red", 1).save(path)
    assert cli.main(["predict", str(checkpoint), str(path), str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("a.png") == 2, out
    assert all(name in out for name in CLASSES)


def test_rows_cannot_be_counted_twice() -> None:
    counts = Counts.empty(classes=2, rows=4)
    batch = np.array([1, 0]), np.array([[1, 0], [1, 0]]), np.array([0.5, 1.5]), np.array([False, True])
    counts.add(np.array([0, 1]), *batch)
    assert (counts.images, counts.acc1, counts.acc5, counts.mean_loss, counts.bad_rows) == (1, 100, 100, 0.5, [1])
    assert np.isnan(counts.class_accuracy()[0])
    with pytest.raises(ValueError, match=r"counted twice: \[1\]"):
        counts.add(np.array([1, 2]), *batch)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "CHECKPOINT", "--data", "OTHER"], "Class 2 of OTHER is 'yellow', the checkpoint's is 'red'"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--split", "val"], "has no split 'val'; it has 'test'"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--workers", "4"], "need 5 CPUs; the cluster has 4"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--use-gpu", "True"], "a GPU each, but the cluster has 0"),
        (["evaluate", "DATA", "--data", "DATA"], "is not a checkpoint"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--batch-size", "0"], "allowed: at least 1"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--tracking-uri", "nonsense"], "The tracking URI is 'nonsense'"),
        (["predict", "CHECKPOINT", "nowhere.jpg"], "No such file or folder: nowhere.jpg"),
        (["predict", "CHECKPOINT", "EMPTY"], "No files in EMPTY"),
        (["predict", "CHECKPOINT", "DATA"], "None of the 1 files is a readable image"),
        (["predict", "DATA", "DATA"], "is not a checkpoint"),
    ],
)
def test_bad_input(
    argv: list[str],
    message: str,
    checkpoint: Path,
    dataset: Path,
    tmp_path: Path,
    local_ray: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, empty = tmp_path / "other", tmp_path / "empty"
    other.mkdir()
    empty.mkdir()
    table = pq.read_table(dataset / "test-0.parquet").cast(huggingface_schema(("blue", "green", "yellow")))
    pq.write_table(table, other / "test-0.parquet")
    names = {"CHECKPOINT": checkpoint, "DATA": dataset, "OTHER": other, "EMPTY": empty}
    filled = [str(names.get(word, word)) for word in argv]
    for word, path in names.items():
        message = message.replace(word, str(path))
    assert cli.main(filled) == 2
    assert message in capsys.readouterr().err


def test_damaged_checkpoints_are_said(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("card.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        checkpoints.load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    card = json.loads((tmp_path / "card.json").read_text())
    card["config"]["model"]["depth"] = 2
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match=r"do not fit its card\.json"):
        checkpoints.load_model(tmp_path)


def test_mlflow_that_is_down_does_not_cost_the_result(checkpoint: Path, dataset: Path, local_ray: None) -> None:
    config = EvaluateConfig(checkpoint=str(checkpoint), data=str(dataset), tracking_uri="http://127.0.0.1:9")
    result = evaluate(dataclasses.replace(config, workers=1))
    assert result.images == 101
    assert result.tracking_error is not None


def test_the_networks_of_checkpoints_are_the_librarys(checkpoint: Path) -> None:
    model, _ = checkpoints.load_model(checkpoint)
    assert isinstance(model, gfnet.GFNet)
    assert not model.training
