"""MLflow through the journal, against real stores: nothing lost, nothing twice."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import UsageError
from pipelines.journal import JournalReader, JournalWriter
from pipelines.tracking import Tracker, mlflow_client, tracking_uri


def tracker(uri: str, folder: Path) -> Tracker:
    dataset = {"name": "made", "digest": "01234567", "source": "/data/made"}
    return Tracker(uri, experiment="tests", folder=folder, run="tag", params={"a": "1"}, dataset=dataset)


def write(journal: JournalWriter, steps: range) -> None:
    for step in steps:
        journal.write("train", 0, step, {"train/loss": 1 / step, "train/lr": 0.1})


def points(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow_client(uri).get_metric_history(run_id, name)]


def test_a_journal_is_read_while_it_is_written(tmp_path: Path) -> None:
    journal, reader = JournalWriter(str(tmp_path)), JournalReader(str(tmp_path))
    assert reader.poll() == []
    write(journal, range(1, 3))
    assert [record.step for record in reader.poll()] == [1, 2]
    write(JournalWriter(str(tmp_path)), range(3, 4))  # a restarted rank 0
    assert [record.step for record in reader.poll()] == [3]
    assert [record.values["train/loss"] for record in JournalReader(str(tmp_path)).poll()] == [1, 1 / 2, 1 / 3]


def test_a_restarted_run_goes_on_in_the_same_mlflow_run(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    write(JournalWriter(str(folder)), range(1, 1201))  # more than one call of MLflow takes
    first = tracker(uri, folder)
    first.start()
    first.finish("FAILED")
    assert first.error is None
    write(JournalWriter(str(folder)), range(1190, 1211))  # set back to step 1189 by a crash
    second = tracker(uri, folder)
    second.start()
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    assert points(uri, str(second.run_id), "train/loss") == [(step, 1 / step) for step in range(1, 1211)]
    assert mlflow_client(uri).get_run(str(second.run_id)).info.status == "FINISHED"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A real server, as README starts it."""
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen([*command, *store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + 50
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.status == 200
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_a_server_gets_everything_also_what_came_while_it_was_away(tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    journal = JournalWriter(str(folder))
    write(journal, range(1, 21))
    artifact = tmp_path / "card.json"
    artifact.write_text("{}")
    first = tracker(f"http://127.0.0.1:{port}", folder)
    first.start()
    deadline = time.monotonic() + 40
    while first.error is None:  # nobody is there yet
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with mlflow_server(tmp_path, port) as uri:
        write(journal, range(21, 31))
        first.finish("FINISHED", lambda client, run: client.log_artifact(run, str(artifact), "checkpoint"))
        assert first.error is None
        assert points(uri, str(first.run_id), "train/loss") == [(step, 1 / step) for step in range(1, 31)]
        assert [f.path for f in mlflow_client(uri).list_artifacts(str(first.run_id), "checkpoint")] == [
            "checkpoint/card.json"
        ]
    write(journal, range(31, 33))
    second = tracker(uri, folder)
    began = time.monotonic()
    second.start()
    second.finish("FINISHED")
    assert second.error is not None
    assert time.monotonic() - began < 45


def test_a_database_whose_making_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    """MLflow's migrations are not atomic: a file that is left half-way through them cannot be opened any more."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from pipelines.tracking import mlflow_client; mlflow_client({uri!r}).search_experiments()"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 40
    while not any(path.stat().st_size > 50_000 for path in tmp_path.glob("*mlflow.db.partial-*[0-9]")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists(), "it was made before it could be killed"
    assert [experiment.name for experiment in mlflow_client(uri).search_experiments()] == ["Default"]
    mlflow_client(uri).create_experiment("another")
    assert len(mlflow_client(uri).search_experiments()) == 2


def test_tracking_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri(None, tmp_path) == "http://localhost:5000"
    assert tracking_uri("sqlite:///x.db", tmp_path) == "sqlite:///x.db"
    for bad in ("results", "ftp://x"):
        with pytest.raises(UsageError, match="Allowed: http"):
            tracking_uri(bad, tmp_path)
