"""`gfnet prepare`: exact counts, the same bytes, bad images by name, and never something half done."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.data.manifest import open_dataset
from pipelines.data.prepare import PrepareConfig, prepare
from pipelines.errors import UsageError
from tests.made_images import CLASSES, write_image_folder


def run(images: Path, target: Path, **options: object) -> None:
    prepare(PrepareConfig(images=str(images), target=str(target), **options))


def rows_of(folder: Path, split: str) -> list[dict[str, object]]:
    tables = [pq.read_table(path) for path in sorted((folder / "data").glob(f"{split}-*.parquet"))]
    return [{**row["image"], "label": row["label"]} for table in tables for row in table.to_pylist()]


def test_all_images_arrive_as_they_are(shards: Path, image_folder: Path) -> None:
    manifest = open_dataset(str(shards))
    assert manifest.class_names == CLASSES
    assert {name: split.rows for name, split in manifest.splits.items()} == {"train": 120, "validation": 31}
    for split, folder, count in (("train", "train", 120), ("validation", "val", 31)):
        rows = rows_of(shards, split)
        assert len({row["path"] for row in rows}) == count
        for row in rows:
            path = image_folder / str(row["path"])
            assert row["bytes"] == path.read_bytes()
            assert path.parts[-3] == folder
            assert CLASSES[int(row["label"])] == path.parts[-2]


def test_shuffled_by_the_seed(image_folder: Path, tmp_path: Path, local_ray: None) -> None:
    for target, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(image_folder, tmp_path / target, seed=seed)
    order = {name: [row["path"] for row in rows_of(tmp_path / name, "train")] for name in "abc"}
    assert order["a"] == order["b"]
    assert sorted(order["a"]) == sorted(order["c"])
    assert order["a"] not in (order["c"], sorted(order["a"]))
    digests = {name: open_dataset(str(tmp_path / name)).digest for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


def test_sizes_are_as_asked(shards: Path) -> None:
    split = open_dataset(str(shards)).split("train")
    assert len(split.shards) > 2
    for shard in split.shards:
        assert all(rows == 16 for rows in shard.row_groups[:-1])
        file = shards / shard.path
        assert file.stat().st_size == shard.bytes
        assert [pq.ParquetFile(file).metadata.row_group(i).num_rows for i in range(len(shard.row_groups))] == list(
            shard.row_groups
        )


def test_one_tree_is_split_by_a_fraction_of_each_class(image_folder: Path, tmp_path: Path, local_ray: None) -> None:
    run(image_folder / "train", tmp_path / "made", val_fraction=0.25)
    train, held_out = (rows_of(tmp_path / "made", split) for split in ("train", "validation"))
    assert np.bincount([row["label"] for row in held_out]).tolist() == [10, 10, 10]
    paths = [row["path"] for row in train + held_out]
    assert len(set(paths)) == len(paths) == 120


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Nine good images, an empty class, and four files that are no images."""
    root = tmp_path / "spoilt"
    write_image_folder(root, per_class=3)
    (root / "empty").mkdir()
    good = (root / "red" / "0000.jpg").read_bytes()
    (root / "red" / "cut.jpg").write_bytes(good[: len(good) * 2 // 3])
    (root / "red" / "words.jpg").write_text("not an image at all")
    (root / "red" / "nothing.jpg").touch()
    (root / "red" / "dangling.jpg").symlink_to(root / "gone.jpg")
    (root / "red" / ".DS_Store").write_text("hidden files do not count")
    return root


def test_bad_images_are_left_out_by_name(
    spoilt: Path, tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(spoilt, tmp_path / "made")
    split = open_dataset(str(tmp_path / "made")).split("train")
    assert split.rows == 9
    reasons = {bad.path: bad.reason for bad in split.bad_images}
    assert set(reasons) == {f"red/{name}.jpg" for name in ("cut", "words", "nothing", "dangling")}
    assert "truncated" in reasons["red/cut.jpg"]
    assert reasons["red/words.jpg"] == "not an image"
    assert "empty" in reasons["red/nothing.jpg"]
    assert "No such file" in reasons["red/dangling.jpg"]
    said = capsys.readouterr().err
    assert "red/cut.jpg" in said
    assert "train/empty" in said
    assert open_dataset(str(tmp_path / "made")).class_names == ("blue", "empty", "green", "red")


def test_strict_refuses_and_leaves_nothing(spoilt: Path, tmp_path: Path, local_ray: None) -> None:
    with pytest.raises(UsageError, match="train/empty"):
        run(spoilt, tmp_path / "made", strict=True)
    (spoilt / "empty").rmdir()
    with pytest.raises(UsageError, match=r"4 files are not images(.|\n)*red/cut\.jpg"):
        run(spoilt, tmp_path / "made", strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt"]


def test_a_finished_target_is_only_replaced_when_told(image_folder: Path, tmp_path: Path, local_ray: None) -> None:
    target = tmp_path / "made"
    run(image_folder / "val", target)
    with pytest.raises(UsageError, match="holds a finished data set"):
        run(image_folder / "train", target)
    assert open_dataset(str(target)).split("train").rows == 31
    run(image_folder / "train", target, replace=True)
    assert open_dataset(str(target)).split("train").rows == 120
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_foreign_files_are_never_replaced(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="did not make"):
        run(image_folder, tmp_path, replace=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("images", "target", "flags", "message"),
    [
        ("nowhere", "made", [], "which is missing"),
        ("tree", "tree/made", [], "lies in IMAGES"),
        ("tree", "s3://bucket/made", [], "a local folder"),
        ("tree", "made", ["--val-fraction", "1.5", "--row-group-rows", "0"], "--row-group-rows is 0; allowed"),
        ("splits", "made", ["--val-fraction", "0.5"], "has splits of its own: train, validation"),
        ("strange", "made", [], "classes that train has not: yellow"),
        ("hollow", "made", [], "No images under"),
        ("flat", "made", [], "images outside of class folders, such as 1.jpg"),
        ("single", "made", ["--val-fraction", "0.5"], "none can be held out"),
    ],
)
def test_bad_input(
    images: str,
    target: str,
    flags: list[str],
    message: str,
    tmp_path: Path,
    local_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image_folder(Path("tree"), per_class=1)
    for split in ("train", "val"):
        write_image_folder(Path("splits", split), per_class=1)
        write_image_folder(Path("strange", split), per_class=1)
    Path("strange/val/yellow").mkdir()
    Path("hollow/cat").mkdir(parents=True)
    shutil.copytree("tree", "flat")
    shutil.copy("tree/red/0000.jpg", "flat/1.jpg")
    write_image_folder(Path("single"), per_class=1)
    assert cli.main(["prepare", images, target, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not Path("made").exists()


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, image_folder: Path, local_ray: None) -> None:
    images, target = tmp_path / "images", tmp_path / "made"
    write_image_folder(images, per_class=150, side=64)
    command = [sys.executable, "-m", "gfnet", "prepare", str(images), str(target), "--shard-mb", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 50
    while not list(tmp_path.glob(".made.partial-*/data/*.parquet")):
        assert process.poll() is None, "prepare ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert list(tmp_path.glob(".made.partial-*"))
    run(images, target)
    assert open_dataset(str(target)).split("train").rows == 450
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "made"]


def test_a_damaged_data_set_is_found_before_training(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    shard = copy / open_dataset(str(copy)).split("train").shards[0].path
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UsageError, match="but the manifest says"):
        open_dataset(str(copy))
    shard.unlink()
    with pytest.raises(UsageError, match="is missing"):
        open_dataset(str(copy))
    note = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**note, "format": 99}))
    with pytest.raises(UsageError, match="another format"):
        open_dataset(str(copy))
