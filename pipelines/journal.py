"""The record of a run: numbered JSON files in the run's folder, each written whole by rank 0 and read by the driver.

Files instead of a connection: a tracking server that is down costs training nothing, and whoever starts the run again
finds what has not been delivered yet. It works on every file system that Ray Train stores checkpoints on.
"""

import dataclasses
import json
import time
from typing import Any, Literal

import pyarrow.fs as pafs

from pipelines.data.manifest import filesystem

FOLDER = "journal"
Kind = Literal["start", "train", "epoch", "eval"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry: what kind, when (milliseconds since 1970), where in training, and the values."""

    kind: Kind
    time: int
    epoch: int
    step: int
    values: dict[str, Any]


class JournalWriter:
    """Adds records behind those that are there already."""

    def __init__(self, run_uri: str):
        self._fs, root = filesystem(run_uri)
        self._folder = f"{root}/{FOLDER}"
        self._fs.create_dir(self._folder, recursive=True)
        infos = self._fs.get_file_info(pafs.FileSelector(self._folder))
        self._next = sum(info.path.endswith(".json") for info in infos)

    def write(self, kind: Kind, epoch: int, step: int, values: dict[str, Any]) -> None:
        record = Record(kind=kind, time=int(time.time() * 1000), epoch=epoch, step=step, values=values)
        path = _path(self._folder, self._next)
        with self._fs.open_output_stream(f"{path}.partial") as stream:
            stream.write(json.dumps(dataclasses.asdict(record)).encode())
        self._fs.move(f"{path}.partial", path)
        self._next += 1


class JournalReader:
    """Reads the records of a run one after the other, from number `position` on, while they are still being written."""

    def __init__(self, run_uri: str, position: int = 0):
        self._fs, root = filesystem(run_uri)
        self._folder = f"{root}/{FOLDER}"
        self.position = position

    def peek(self) -> bool:
        """Whether there is a record to read."""
        info = self._fs.get_file_info(_path(self._folder, self.position))
        return bool(info.type == pafs.FileType.File)

    def poll(self) -> list[Record]:
        """The records that have come since the last call."""
        records = []
        while self.peek():
            with self._fs.open_input_stream(_path(self._folder, self.position)) as stream:
                records.append(Record(**json.loads(stream.read())))
            self.position += 1
        return records


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"
