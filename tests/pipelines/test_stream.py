"""The stream: images are what the authors' loader makes of them, in the planned order, bad ones named."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.data.manifest import huggingface_schema, open_dataset
from pipelines.data.plan import DecodeTask, plan_epoch, tasks_of_rank
from pipelines.data.stream import Decoder, stream_inline, stream_ray
from pipelines.data.transforms import BadImageError, EvalTransform, TrainTransform, decode, rand_augment, sample_crop
from pipelines.errors import UsageError
from tests.made_images import made_image

TRAIN = TrainTransform(size=16, crop_scale=(0.5, 1.0), crop_ratio=(3 / 4, 4 / 3), hflip=0.5, rand_augment=None)


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (64, 64)])
def test_evaluation_images_equal_torchvisions(size: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    ours = EvalTransform(size=56, eval_crop=224 / 256)(photo(*size))
    theirs = v2.Compose([v2.Resize(64, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(56)])(photo(*size))
    assert ours.shape == (56, 56, 3)
    assert np.array_equal(ours, np.asarray(theirs))


def test_crops_are_inside_and_of_the_asked_area_and_ratio() -> None:
    rng = np.random.default_rng(0)
    boxes = [sample_crop((120, 90), (0.2, 0.8), (3 / 4, 4 / 3), rng) for _ in range(500)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 120
        assert 0 <= top < bottom <= 90
    areas = [(right - left) * (bottom - top) / (120 * 90) for left, top, right, bottom in boxes]
    assert min(areas) > 0.18
    assert max(areas) < 0.82
    assert np.mean(areas) == pytest.approx(0.48, abs=0.04)


def test_a_crop_that_cannot_be_is_the_largest_centred_one() -> None:
    assert sample_crop((100, 10), (1.0, 1.0), (1.0, 1.0), np.random.default_rng(0)) == (45, 0, 55, 10)


def test_augmentation_depends_on_seed_epoch_and_row_alone() -> None:
    image = photo(40, 40)
    augmented = TrainTransform(**{**vars_of(TRAIN), "rand_augment": "rand-m9-mstd0.5-inc1"})
    first = augmented(image, np.random.default_rng([0, 1, 2]))
    assert np.array_equal(first, augmented(image, np.random.default_rng([0, 1, 2])))
    assert not np.array_equal(first, augmented(image, np.random.default_rng([0, 1, 3])))


def vars_of(transform: TrainTransform) -> dict[str, object]:
    return {name: getattr(transform, name) for name in ("size", "crop_scale", "crop_ratio", "hflip", "rand_augment")}


def test_the_strongest_posterize_gives_black_instead_of_an_error() -> None:
    policy = rand_augment("rand-m9-mstd0.5-inc1", 16)
    posterizes = [op for op in policy.ops if op.name.startswith("Posterize")]
    assert posterizes
    image = photo(16, 16)
    for bits in (0, 1, 4, 8):
        out = np.asarray(posterizes[0].aug_fn(image, bits))
        assert np.array_equal(out, np.asarray(image) & (0xFF << (8 - bits) & 0xFF))


def test_a_thousand_images_survive_rand_augment() -> None:
    augmented = TrainTransform(**{**vars_of(TRAIN), "rand_augment": "rand-m9-mstd3-inc1"})
    image = photo(20, 20)
    shapes = {augmented(image, np.random.default_rng([0, i])).shape for i in range(1000)}
    assert shapes == {(16, 16, 3)}


def test_an_unknown_policy_is_a_users_error() -> None:
    with pytest.raises(UsageError, match="rand_augment is 'nonsense'"):
        rand_augment("nonsense", 16)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """30 rows in row groups of 8, of which rows 5, 6 and 29 are no images."""
    rows = []
    for row in range(30):
        stream = io.BytesIO()
        made_image("red", row).save(stream, "JPEG")
        data = stream.getvalue()
        rows.append(b"no image" if row in (5, 6) else data[: len(data) // 2] if row == 29 else data)
    table = pa.table(
        {"image": [{"bytes": data, "path": None} for data in rows], "label": [row % 3 for row in range(30)]},
        schema=huggingface_schema(("a", "b", "c")),
    )
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=8)
    return tmp_path


def decoder_of(dataset: Path) -> Decoder:
    return Decoder(manifest=open_dataset(str(dataset)), split="train", transform=TRAIN, seed=0)


def test_bad_images_are_named_and_their_places_filled(dataset: Path) -> None:
    task = DecodeTask(epoch=0, batches=[np.array([4, 5, 6, 7]), np.array([29, 0]), np.array([5, 6])])
    first, second, third = stream_inline(decoder_of(dataset), [task])
    assert first.rows.tolist() == [4, 5, 6, 7]
    assert first.bad.tolist() == [False, True, True, False]
    assert first.labels.tolist() == [1, 1, 1, 1]  # the labels of the images that are shown: rows 4 and 7
    assert np.array_equal(first.images[1], first.images[3])
    assert second.bad.tolist() == [True, False]
    assert third.bad.all()
    assert third.images.shape == (2, 16, 16, 3)


def test_damaged_images_of_any_format_are_bad_images_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for name in ("AVIF", "JPEG", "PNG", "WEBP"):
        stream = io.BytesIO()
        photo(48, 48).save(stream, name)
        bad = 0
        for _ in range(200):
            data = bytearray(stream.getvalue())
            for place in rng.integers(len(data), size=30):
                data[place] = rng.integers(256)
            try:
                decode(bytes(data))
            except BadImageError:
                bad += 1
        assert bad > 0, name


def test_ray_gives_the_same_batches_in_the_planned_order(dataset: Path, local_ray: None) -> None:
    decoder = decoder_of(dataset)
    plan = plan_epoch(np.array([8, 8, 8, 6]), seed=1, epoch=2, world=2, batch=5, window=8)
    tasks = tasks_of_rank(plan, 1, rows_per_task=10)
    streamed = list(stream_ray(decoder, tasks, image_bytes=16 * 16 * 3, concurrency=2, cpus_per_task=1))
    here = list(stream_inline(decoder, tasks))
    assert np.array_equal(np.stack([batch.rows for batch in streamed]), plan.rows[1])
    for ours, theirs in zip(streamed, here, strict=True):
        for name, column in ours.columns().items():
            assert np.array_equal(column, theirs.columns()[name]), name


def test_huggingface_data_sets_are_used_in_place(dataset: Path) -> None:
    manifest = open_dataset(str(dataset))
    assert manifest.class_names == ("a", "b", "c")
    assert {name: split.rows for name, split in manifest.splits.items()} == {"train": 30}
    assert manifest.split("train").row_groups().tolist() == [8, 8, 8, 6]
    with pytest.raises(UsageError, match="has no split 'test'; it has 'train'"):
        manifest.split("test")


def test_a_uri_is_as_good_as_a_path(dataset: Path) -> None:
    here, there = decoder_of(dataset), open_dataset(f"file://{dataset}")
    assert there.uri == f"file://{dataset}"
    task = DecodeTask(epoch=0, batches=[np.arange(8, 16)])
    (ours,), (theirs,) = stream_inline(here, [task]), stream_inline(dataclasses.replace(here, manifest=there), [task])
    assert np.array_equal(ours.images, theirs.images)


def test_other_column_names_and_splits(tmp_path: Path) -> None:
    schema = huggingface_schema(("x", "y"))
    metadata = {
        b"huggingface": schema.metadata[b"huggingface"].replace(b'"image"', b'"img"').replace(b'"label"', b'"fine"')
    }
    schema = pa.schema([("img", schema.field("image").type), ("fine", pa.int64())], metadata=metadata)
    table = pa.table({"img": [{"bytes": b"x", "path": None}], "fine": [1]}, schema=schema)
    for name in ("train-0.parquet", "test/0.parquet", "val-0.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name)
    manifest = open_dataset(str(tmp_path))
    assert (manifest.image_column, manifest.label_column) == ("img", "fine")
    assert list(manifest.splits) == ["train", "validation", "test"]
    assert manifest.evaluation_split() == "validation"


def test_what_is_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No data set at"):
        open_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="No Parquet files under"):
        open_dataset(str(tmp_path))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match="not an image-classification data set: its columns are"):
        open_dataset(str(tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UsageError, match="not a readable Parquet file"):
        open_dataset(str(tmp_path))
    with pytest.raises(UsageError, match="Cannot open 'ftpx://a'"):
        open_dataset("ftpx://a")
