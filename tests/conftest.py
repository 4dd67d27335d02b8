"""What the tests share: one local Ray, and small data sets of real JPEGs."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before Ray starts: no token file in the home folder; and bytecode, without which its processes start 5 times slower.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest

from tests.made_images import write_image_folder


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of the tests' own: two training workers and their decoding tasks fit."""
    import ray

    # Short: sockets lie in it, whose paths have a limit.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training and 31 test images of three classes, 24 px."""
    root = tmp_path_factory.mktemp("images")
    write_image_folder(root / "train", per_class=40)
    write_image_folder(root / "val", per_class=10, first=1000)
    write_image_folder(root / "val", per_class=1, first=2000, classes=("red",))
    return root


@pytest.fixture(scope="session")
def shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """The same, prepared: row groups of 16 rows in several shards."""
    from pipelines.data.prepare import PrepareConfig, prepare

    target = tmp_path_factory.mktemp("shards") / "made"
    prepare(PrepareConfig(images=str(image_folder), target=str(target), row_group_rows=16, shard_mb=0.03))
    return target
