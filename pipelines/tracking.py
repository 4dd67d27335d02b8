"""MLflow: one run for each training run, however often it is restarted, filled from the run's journal."""

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UsageError
from pipelines.journal import JournalReader, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "gfnet.run"
"""Tag that finds the MLflow run of a training run."""
_BATCH = 500  # MLflow takes 1000 metrics a call
_POLL_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


def tracking_uri(flag: str | None, storage: Path) -> str:
    """Where MLflow keeps the results: `flag`, else MLFLOW_TRACKING_URI, else SQLite in the folder of the runs.

    Raises:
        UsageError: MLflow knows no such kind of store.
    """
    uri = flag or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.absolute()}/mlflow.db"
    scheme = uri.split(":", 1)[0]
    if "://" not in uri or scheme not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql"):
        raise UsageError(
            f"The tracking URI is {uri!r}. Allowed: http(s)://HOST:PORT of an MLflow server, or a database such as "
            "sqlite:///FILE. Give --tracking-uri or set MLFLOW_TRACKING_URI."
        )
    return uri


def mlflow_client(uri: str) -> "MlflowClient":
    """A client whose calls fail within seconds, not minutes, where the server is down."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        _make_database(Path(uri.removeprefix("sqlite:///")))
    return mlflow.MlflowClient(tracking_uri=uri)


def _make_database(path: Path) -> None:
    """Makes MLflow's SQLite file under another name first: one whose making was killed can never be opened again."""
    import mlflow

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.unlink(missing_ok=True)
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments()
    try:
        os.link(partial, path)  # unlike a rename, never replaces what another process has made meanwhile
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def experiment_id(client: "MlflowClient", name: str) -> str:
    """The id of the experiment called `name`, which is made where there is none.

    Beside a SQLite file the artifacts go into its folder; MLflow's own default is the working folder.
    """
    import mlflow.exceptions

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        # The kind makes MLflow's pages open on training runs rather than on language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=_artifacts(client.tracking_uri), tags=tags))
    except mlflow.exceptions.MlflowException:
        found = client.get_experiment_by_name(name)  # another process was quicker
        if found is None:
            raise
        return str(found.experiment_id)


def _artifacts(uri: str) -> str | None:
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").absolute().as_uri()


def find_run(client: "MlflowClient", experiment: str, run: str) -> str | None:
    """The id of the MLflow run tagged with the training run `run`, or None."""
    found = client.search_runs([experiment], filter_string=f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def git_commit() -> str | None:
    """The commit of the code in the working folder, with "+changes" behind it where files differ; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Tracker:
    """Delivers a run's journal to MLflow from a thread of the driver, beside training.

    What has been delivered is noted in `tracking.json` in the run's folder, so that a restarted run goes on where the
    last one stopped; a point that is sent twice all the same has the same time and MLflow keeps it once.

    Args:
        uri: MLflow tracking URI.
        experiment: name.
        folder: the run's local folder.
        run: value of the tag that finds the MLflow run.
        params: dotted names and values.
        dataset: name, digest and source of the training data.
    """

    def __init__(
        self, uri: str, *, experiment: str, folder: Path, run: str, params: dict[str, str], dataset: dict[str, str]
    ):
        self.uri = uri
        self.error: str | None = None
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self._experiment = experiment
        self._folder = folder
        self._run = run
        self._params = params
        self._dataset = dataset
        self._note = folder / "tracking.json"
        self._state: dict[str, Any] = {"delivered": 0, "step": {}}
        if self._note.exists():
            self._state = json.loads(self._note.read_text())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="mlflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, status: str, log_more: Callable[["MlflowClient", str], None] | None = None) -> None:
        """Waits until all is delivered, lets `log_more(client, run id)` add to the run, and ends it with `status`."""
        self._ended.set()
        self._thread.join()
        if self.error is not None or self.run_id is None:
            return
        try:
            client = mlflow_client(self.uri)
            if log_more:
                log_more(client, self.run_id)
            client.set_terminated(self.run_id, status)
        except Exception as error:  # MLflow raises errors of many libraries; none may cost a finished training run
            self.error = f"{type(error).__name__}: {error}"

    def _deliver(self) -> None:
        # Importing MLflow takes seconds of a CPU that the workers need to start: it waits for their first step.
        first = JournalReader(str(self._folder), self._state["delivered"])
        while not first.peek() and not self._ended.is_set():
            self._ended.wait(_POLL_SECONDS)
        if not first.peek():
            return  # training did not begin
        pause, last_round = _POLL_SECONDS, False
        while not last_round:
            last_round = self._ended.wait(pause)
            try:
                self._send()
                self.error, pause = None, _POLL_SECONDS
            except Exception as error:  # as above: training goes on, the next round tries again
                self.error, pause = f"{type(error).__name__}: {error}", min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _send(self) -> None:
        """Delivers what has come since the last time that all of it arrived."""
        reader = JournalReader(str(self._folder), self._state["delivered"])
        if not reader.peek():
            return
        client = mlflow_client(self.uri)
        run_id = self.run_id = self.run_id or self._open_run(client)
        steps = dict(self._state["step"])
        for batch in _batches(_points(reader.poll(), steps)):
            client.log_batch(run_id, metrics=batch)
        self._state = {"delivered": reader.position, "step": steps}
        partial = self._note.with_suffix(".partial")
        partial.write_text(json.dumps(self._state))
        partial.replace(self._note)

    def _open_run(self, client: "MlflowClient") -> str:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        self.experiment_id = experiment_id(client, self._experiment)
        found = find_run(client, self.experiment_id, self._run)
        if found:
            client.update_run(found, status="RUNNING")
            return found
        tags = {RUN_TAG: self._run, "mlflow.source.name": "gfnet train", "mlflow.source.type": "LOCAL"}
        if commit := git_commit():
            tags["mlflow.source.git.commit"] = commit
        run = client.create_run(self.experiment_id, tags=tags, run_name=self._folder.name)
        run_id = str(run.info.run_id)
        client.log_batch(run_id, params=[Param(name, value[:6000]) for name, value in self._params.items()])
        dataset = Dataset(
            name=self._dataset["name"],
            digest=self._dataset["digest"],
            source_type="local" if "://" not in self._dataset["source"] else self._dataset["source"].split(":")[0],
            source=json.dumps({"uri": self._dataset["source"]}),
        )
        client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        return run_id


def _points(records: list[Record], last_step: dict[str, int]) -> Iterator[Any]:
    """MLflow metrics of the records. A step that a restart repeats is left out: `last_step` has the newest by name."""
    from mlflow.entities import Metric

    for record in records:
        for name, value in record.values.items():
            if isinstance(value, int | float) and record.step > last_step.get(name, -1):
                last_step[name] = record.step
                yield Metric(name, float(value), record.time, record.step)


def _batches(points: Iterator[Any]) -> Iterator[list[Any]]:
    everything = list(points)
    for start in range(0, len(everything), _BATCH):
        yield everything[start : start + _BATCH]
