"""The README's first command, with fewer epochs: real digits, all the way to MLflow."""

import json
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.tracking import mlflow_client


def test_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["quickstart", "--epochs", "8"]) == 0
    out = capsys.readouterr().out
    folder = Path("runs/quickstart")
    manifest = json.loads((folder / "shards" / "manifest.json").read_text())
    rows = {name: sum(sum(s["row_groups"]) for s in split["shards"]) for name, split in manifest["splits"].items()}
    assert rows == {"train": 1437, "test": 360}
    (checkpoint,) = folder.glob("*/checkpoint_00000088")
    card = json.loads((checkpoint / "card.json").read_text())
    assert card["metrics"]["test/images"] == 360
    assert card["metrics"]["test/acc1"] > 75  # 98 % after the 40 epochs of the recipe
    for command in ("mlflow ui --backend-store-uri", f"gfnet evaluate {checkpoint}", f"gfnet predict {checkpoint}"):
        assert command in out
    assert "of 360 right" in out
    client = mlflow_client(f"sqlite:///{folder.absolute()}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "gfnet"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["evaluate/test/acc1"] == pytest.approx(card["metrics"]["test/acc1"])
    assert not Path("mlruns").exists()
