"""What a data set of Parquet shards holds: splits, shards, row groups and class names.

The layout of a shard is Hugging Face's: an image column `struct<bytes, path>` and an integer label column whose class
names stand in the schema's metadata. Shards written by `gfnet prepare` come with `manifest.json`; for others the same
facts are read from the Parquet footers.
"""

import dataclasses
import functools
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.errors import UsageError

MANIFEST_NAME = "manifest.json"
FORMAT = 1
SPLITS = ("train", "validation", "test")
_SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Parquet file: its path relative to the data set's root and the rows of each of its row groups."""

    path: str
    row_groups: tuple[int, ...]
    bytes: int
    sha256: str | None = None

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadImage:
    """An image that was left out, and why."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The shards of one split in row order: row ids run from 0 to `rows - 1` through them."""

    shards: tuple[Shard, ...]
    bad_images: tuple[BadImage, ...] = ()

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def row_groups(self) -> np.ndarray:
        """Rows of every row group in row order, int64 of shape (row groups,)."""
        return np.array([rows for shard in self.shards for rows in shard.row_groups], dtype=np.int64)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A data set: where it is, its classes, its columns and its splits."""

    uri: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    image_column: str = "image"
    label_column: str = "label"

    @property
    def name(self) -> str:
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def digest(self) -> str:
        """Names the data set's content: changes with any shard, its size or the class names. 8 hexadecimal digits."""
        return hashlib.sha256(json.dumps(_to_json(self), sort_keys=True).encode()).hexdigest()[:8]

    def split(self, name: str) -> Split:
        """The split called `name`.

        Raises:
            UsageError: there is no such split.
        """
        if name not in self.splits:
            raise UsageError(f"{self.uri} has no split {name!r}; it has {', '.join(map(repr, self.splits))}.")
        return self.splits[name]

    def evaluation_split(self) -> str | None:
        """The split to evaluate on when none is named: validation, else test, else none."""
        return next((name for name in ("validation", "test") if name in self.splits), None)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system that holds `uri` (local path, s3://, gs://, file://) and the path in it.

    Raises:
        UsageError: pyarrow does not know the scheme.
    """
    try:
        if "://" in uri:
            return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"Cannot open {uri!r}: {error}. Allowed: a local path, s3://, gs:// or file://.") from error
    return pafs.LocalFileSystem(), uri.rstrip("/") or "/"


def write_manifest(manifest: Manifest) -> None:
    """Writes `manifest.json` into the data set's folder. Written last: a folder that has it is complete."""
    fs, root = filesystem(manifest.uri)
    with fs.open_output_stream(f"{root}/{MANIFEST_NAME}.partial") as stream:
        stream.write(json.dumps({"format": FORMAT, **_to_json(manifest)}, indent=1).encode())
    fs.move(f"{root}/{MANIFEST_NAME}.partial", f"{root}/{MANIFEST_NAME}")


def open_dataset(uri: str) -> Manifest:
    """Reads a data set's manifest, or makes one from the footers of its Parquet files.

    Args:
        uri: folder of the shards: a local path or a URI that pyarrow knows.

    Raises:
        UsageError: nothing is there, or it is not an image-classification data set.
    """
    fs, root = filesystem(uri)
    try:
        infos = fs.get_file_info(pafs.FileSelector(root, recursive=True))
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(
            f"No data set at {uri!r}: {error}. Give a folder of Parquet shards, for example one that "
            "'gfnet prepare IMAGES TARGET' made."
        ) from error
    paths = {info.path for info in infos}
    if f"{root}/{MANIFEST_NAME}" in paths:
        with fs.open_input_stream(f"{root}/{MANIFEST_NAME}") as stream:
            manifest = _from_json(uri, json.loads(stream.read()))
        _check_sizes(manifest, {info.path.removeprefix(f"{root}/"): info.size for info in infos})
        return manifest
    files = sorted(path for path in paths if path.endswith(".parquet"))
    if not files:
        raise UsageError(
            f"No Parquet files under {uri!r}. If it is a folder of images, make shards of it first: "
            f"gfnet prepare {uri} TARGET"
        )
    return _from_footers(uri, fs, root, files)


def _check_sizes(manifest: Manifest, sizes: dict[str, int]) -> None:
    for split in manifest.splits.values():
        for shard in split.shards:
            if sizes.get(shard.path) != shard.bytes:
                found = f"has {sizes[shard.path]} bytes" if shard.path in sizes else "is missing"
                raise UsageError(
                    f"{manifest.uri}/{shard.path} {found}, but the manifest says {shard.bytes} bytes. "
                    "Copy the data set again, or prepare it again with --replace."
                )


def _from_footers(uri: str, fs: pafs.FileSystem, root: str, files: list[str]) -> Manifest:
    def footer(path: str) -> tuple[pa.Schema, Shard]:
        try:
            file = pq.ParquetFile(path, filesystem=fs)
        except (pa.ArrowInvalid, OSError) as error:
            raise UsageError(f"{path} is not a readable Parquet file: {error}. Fetch it again.") from error
        groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        size = fs.get_file_info(path).size
        return file.schema_arrow, Shard(path=path.removeprefix(f"{root}/"), row_groups=groups, bytes=size)

    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(footer, files))
    schema = footers[0][0]
    for path, (other, _) in zip(files, footers, strict=True):
        if other.names != schema.names:
            raise UsageError(f"{path} has columns {other.names}, {files[0]} has {schema.names}; they must agree.")
    image_column, label_column, class_names = _columns(uri, schema)
    splits: dict[str, list[Shard]] = {}
    for _, shard in footers:
        splits.setdefault(_split_of(shard.path), []).append(shard)
    ordered = sorted(splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    return Manifest(
        uri=uri,
        class_names=class_names,
        splits={name: Split(shards=tuple(splits[name])) for name in ordered},
        image_column=image_column,
        label_column=label_column,
    )


def split_name(folder: str) -> str | None:
    """The split that a folder or the start of a file's name stands for; None: no split."""
    name = _SPLIT_ALIASES.get(folder, folder)
    return name if name in SPLITS else None


def _split_of(path: str) -> str:
    """Hugging Face's rule: the split stands at the start of the file's name or is the name of a folder."""
    *folders, name = path.split("/")
    words = [re.split(r"[-_.]", name)[0], *reversed(folders)]
    return next((split for word in words if (split := split_name(word))), "train")


def _columns(uri: str, schema: pa.Schema) -> tuple[str, str, tuple[str, ...]]:
    images = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = metadata.get("info", {}).get("features", {})
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    # CIFAR-100 has both coarse_label and fine_label: the finer one is what papers report.
    labels.sort(key=lambda name: ("fine" not in name, name))
    if not images or not labels:
        raise UsageError(
            f"{uri} is not an image-classification data set: its columns are {schema.names}. Needed: an image column "
            "of type struct<bytes, path> and a ClassLabel column, as on the Hugging Face Hub."
        )
    return images[0], labels[0], tuple(features[labels[0]]["names"])


def huggingface_schema(class_names: tuple[str, ...]) -> pa.Schema:
    """The Arrow schema of a shard, with the class names where the `datasets` library looks for them."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    fields = dataclasses.asdict(manifest)
    del fields["uri"]
    return fields


def _from_json(uri: str, fields: dict[str, Any]) -> Manifest:
    if fields.pop("format", None) != FORMAT:
        raise UsageError(f"{uri}/{MANIFEST_NAME} is of another format than {FORMAT}. Prepare the data set again.")
    splits = {
        name: Split(
            shards=tuple(Shard(**{**s, "row_groups": tuple(s["row_groups"])}) for s in split["shards"]),
            bad_images=tuple(BadImage(**bad) for bad in split["bad_images"]),
        )
        for name, split in fields.pop("splits").items()
    }
    return Manifest(uri=uri, splits=splits, class_names=tuple(fields.pop("class_names")), **fields)


class RowReader:
    """Reads rows of a split by row id, opening each file and reading each row group once per call.

    Row groups are read whole: a call should ask for rows that lie in few of them (see `plan_epoch`).
    """

    def __init__(self, manifest: Manifest, split: str):
        self._fs, self._root = filesystem(manifest.uri)
        self._columns = [manifest.image_column, manifest.label_column]
        self._split = manifest.split(split)
        groups = self._split.row_groups()
        self._group_ends = np.cumsum(groups)
        self._group_starts = self._group_ends - groups
        self._locations = [(s.path, g) for s in self._split.shards for g in range(len(s.row_groups))]

    def read(self, rows: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """Image bytes and int64 labels of `rows` (int64 row ids of shape (n,)), in the order given."""
        images: list[bytes] = [b""] * len(rows)
        labels = np.empty(len(rows), dtype=np.int64)
        groups = np.searchsorted(self._group_ends, rows, side="right")
        for group in np.unique(groups):
            where = np.flatnonzero(groups == group)
            image, label = self._read_group(*self._locations[group])
            for position in where:
                offset = int(rows[position] - self._group_starts[group])
                images[position] = image[offset].as_py() or b""
                labels[position] = label[offset]
        return images, labels

    def _read_group(self, path: str, group: int) -> tuple[pa.Array, np.ndarray]:
        image_column, label_column = self._columns
        table = self._open(path).read_row_group(group, columns=[f"{image_column}.bytes", label_column])
        image = table.column(image_column).combine_chunks().field("bytes")
        return image, table.column(label_column).to_numpy()

    @functools.lru_cache(maxsize=4)  # noqa: B019 - the readers live as long as their process's task
    def _open(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(f"{self._root}/{path}", filesystem=self._fs)
