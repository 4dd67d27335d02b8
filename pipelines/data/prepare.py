"""`gfnet prepare IMAGES TARGET`: an image folder becomes shuffled Parquet shards and a manifest, by Ray Data tasks."""

import dataclasses
import hashlib
import io
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image, UnidentifiedImageError

from pipelines.data.image_folder import ImageFile, ImageFolder, scan
from pipelines.data.manifest import (
    MANIFEST_NAME,
    BadImage,
    Manifest,
    Shard,
    Split,
    huggingface_schema,
    write_manifest,
)
from pipelines.data.ray_data import ray_data
from pipelines.data.transforms import DECODING_ERRORS
from pipelines.errors import UsageError, raise_together
from pipelines.ray_session import ray_session

_NAMED = 10  # bad images that a message names; the manifest names all


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """What to prepare, where to, and how."""

    images: Annotated[str, tyro.conf.Positional]
    """Folder of images: train/CLASS/… and val/CLASS/… (and test/CLASS/…), or CLASS/… alone."""
    target: Annotated[str, tyro.conf.Positional]
    """Folder to make, with the shards and their manifest."""
    val_fraction: float = 0.0
    """Share of each class to hold out as the validation split, where IMAGES has no splits of its own."""
    seed: int = 0
    """Of the shuffle and of the held-out choice."""
    row_group_rows: int = 128
    """Images of a row group: the least that is read at once."""
    shard_mb: float = 128.0
    """Size of a shard in megabytes, at most about."""
    strict: bool = False
    """Refuse bad images and empty classes instead of leaving them out."""
    replace: bool = False
    """Replace a data set that stands at TARGET already."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _ShardJob:
    split: str
    path: str
    files: tuple[ImageFile, ...]


def prepare(config: PrepareConfig) -> Manifest:
    """Prepares a data set, in the Ray that this process is connected to.

    Returns:
        The manifest, which is written last; nothing stands at the target before all is done.

    Raises:
        UsageError: an argument, the folder or (with `strict`) an image cannot be used; the target is as it was.
    """
    target = _check(config)
    folder = scan(Path(config.images), val_fraction=config.val_fraction, seed=config.seed)
    if folder.empty_classes:
        _complain(f"{len(folder.empty_classes)} class folders hold no file", folder.empty_classes, config.strict)
    staging = target.with_name(f".{target.name}.partial-{os.getpid()}")
    _remove_stale(target)
    try:
        (staging / "data").mkdir(parents=True)
        manifest = _write_shards(config, folder, staging)
        bad = [f"{image.path}: {image.reason}" for split in manifest.splits.values() for image in split.bad_images]
        if bad:
            _complain(f"{len(bad)} files are not images that can be decoded and are left out", bad, config.strict)
        write_manifest(manifest)
        _swap(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return dataclasses.replace(manifest, uri=str(target))


def _check(config: PrepareConfig) -> Path:
    if "://" in config.target:
        raise UsageError(f"TARGET is {config.target!r}; allowed for now: a local folder. Copy the shards to the store.")
    images, target = Path(config.images).resolve(), Path(config.target).absolute()
    problems = []
    if not 0 <= config.val_fraction < 1:
        problems.append(f"--val-fraction is {config.val_fraction}; allowed: 0 up to below 1.")
    if config.row_group_rows < 1:
        problems.append(f"--row-group-rows is {config.row_group_rows}; allowed: at least 1.")
    if config.shard_mb <= 0:
        problems.append(f"--shard-mb is {config.shard_mb}; allowed: above 0.")
    if target.resolve().is_relative_to(images):
        problems.append(f"TARGET {config.target!r} lies in IMAGES {config.images!r}. Give a folder outside of it.")
    if target.is_file():
        problems.append(f"TARGET is {config.target!r}, which is a file. Give a folder to make.")
    elif (target / MANIFEST_NAME).exists() and not config.replace:
        problems.append(f"{config.target!r} holds a finished data set. Give another TARGET, or --replace.")
    elif target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_NAME).exists():
        problems.append(f"{config.target!r} holds files that 'gfnet prepare' did not make. Give another TARGET.")
    raise_together(problems)
    return target


def _complain(what: str, names: list[str] | tuple[str, ...], strict: bool) -> None:
    listed = "\n".join(f"  {name}" for name in names[:_NAMED])
    more = f"\n  and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    if strict:
        raise UsageError(f"{what}:\n{listed}{more}\nMend or remove them, or leave out --strict.")
    print(f"warning: {what}; they are left out:\n{listed}{more}", file=sys.stderr)


def _write_shards(config: PrepareConfig, folder: ImageFolder, staging: Path) -> Manifest:
    from tqdm import tqdm

    jobs = list(_plan_shards(config, folder))
    root, schema = str(folder.root.absolute()), huggingface_schema(folder.class_names)

    def run(block: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        for index in block["id"]:
            shard, bad = write_shard(jobs[index], root, staging, schema, config.row_group_rows)
            yield {"index": [index], "shard": [shard], "bad": [bad], "files": [len(jobs[index].files)]}

    dataset = ray_data().range(len(jobs), override_num_blocks=len(jobs)).map_batches(run, batch_size=None)
    done: dict[int, tuple[Shard, list[BadImage]]] = {}
    total = sum(len(job.files) for job in jobs)
    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        for row in dataset.iter_rows():
            done[row["index"]] = (row["shard"], row["bad"])
            bar.update(row["files"])
    splits = {}
    for split in folder.splits:
        parts = [done[i] for i, job in enumerate(jobs) if job.split == split]
        # A shard of which no image was good has no file.
        shards = tuple(shard for shard, _ in parts if shard.rows)
        if not shards:
            raise UsageError(
                f"The split {split!r} has no image that can be decoded, of {len(folder.splits[split])} files."
            )
        splits[split] = Split(shards=shards, bad_images=tuple(image for _, bad in parts for image in bad))
    return Manifest(uri=str(staging), class_names=folder.class_names, splits=splits)


def _plan_shards(config: PrepareConfig, folder: ImageFolder) -> Iterator[_ShardJob]:
    """Shuffles each split as a whole and cuts it into shards of about the asked size."""
    for number, (split, files) in enumerate(folder.splits.items()):
        order = np.random.default_rng([config.seed, number]).permutation(len(files))
        shuffled = [files[i] for i in order]
        size = sum(file.bytes for file in shuffled)
        count = min(max(1, round(size / (config.shard_mb * 1e6) + 0.5)), max(1, len(files)))
        for i, part in enumerate(np.array_split(np.arange(len(shuffled)), count)):
            path = f"data/{split}-{i:05d}-of-{count:05d}.parquet"
            yield _ShardJob(split=split, path=path, files=tuple(shuffled[j] for j in part))


def write_shard(
    job: _ShardJob, root: str, staging: Path, schema: pa.Schema, row_group_rows: int
) -> tuple[Shard, list[BadImage]]:
    """Checks the images of a shard and writes the good ones, one row group at a time."""
    path = staging / job.path
    bad: list[BadImage] = []
    groups: list[int] = []
    rows: list[dict[str, Any]] = []
    # JPEG does not compress; Parquet would only spend time on trying.
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:

        def flush() -> None:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                groups.append(len(rows))
                rows.clear()

        for file in job.files:
            try:
                data = Path(root, file.path).read_bytes()
                check_image(data)
            except DECODING_ERRORS as error:
                bad.append(BadImage(path=file.path, reason=_reason(error)))
                continue
            rows.append({"image": {"bytes": data, "path": file.path}, "label": file.label})
            if len(rows) == row_group_rows:
                flush()
        flush()
    if not groups:
        path.unlink()
        return Shard(path=job.path, row_groups=(), bytes=0), bad
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Shard(path=job.path, row_groups=tuple(groups), bytes=len(content), sha256=digest), bad


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def check_image(data: bytes) -> None:
    """Decodes an image, JPEGs at an eighth of their size, which finds missing data at a fraction of the cost.

    Raises:
        OSError: it is not an image, or not a whole one.
    """
    if not data:
        raise OSError("the file is empty")
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (1, 1))
    image.load()


def _remove_stale(target: Path) -> None:
    """Removes what killed runs for the same target have left."""
    for old in target.parent.glob(f".{target.name}.partial-*"):
        pid = old.name.rsplit("-", 1)[1]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(old, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _swap(staging: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.partial-{os.getpid()}-old")
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def print_summary(manifest: Manifest, seconds: float | None = None) -> None:
    """The table that ends a preparation, with the command to type next."""
    from pipelines.screen import show, table

    splits = table("split", "images", "left out", "shards", "MB", title=f"Data set {manifest.name}")
    for name, split in manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        splits.add_row(name, f"{split.rows:,}", f"{len(split.bad_images):,}", str(len(split.shards)), f"{size:,.1f}")
    show(splits)
    rows = sum(split.rows for split in manifest.splits.values())
    speed = f", {rows / seconds:,.0f} images/s" if seconds else ""
    print(f"{len(manifest.class_names)} classes{speed}, digest {manifest.digest}")
    print(f"Next: gfnet train RECIPE --data {manifest.uri}   ('gfnet train --help' lists the recipes)")


def main(argv: list[str]) -> int:
    description = (
        "Writes an image folder as shuffled Parquet shards in Hugging Face's layout; their bytes stay as they are."
        "\n\nExample: gfnet prepare ILSVRC2012 shards/imagenet"
        "\n         gfnet prepare flowers shards/flowers --val-fraction 0.1"
    )
    config = tyro.cli(PrepareConfig, args=argv, prog="gfnet prepare", description=description)
    _check(config)
    with ray_session():
        began = time.time()
        manifest = prepare(config)
        print_summary(manifest, time.time() - began)
    return 0
