"""`gfnet predict` as a command: what it prints for odd names, and what it does not import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from tests.made_images import made_image
from tests.pipelines.test_evaluate import write_checkpoint

NAMES = ("a [red]", "[/b]", ":cat:")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("odd") / "checkpoint_00000003", class_names=NAMES)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one image above and one below, and hidden ones."""
    for name in ("copy [final].png", "below/b.png", ".hidden.png", ".hidden/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        made_image("red", 1).save(tmp_path / name)
    return tmp_path


def test_names_are_printed_as_they_are(checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(checkpoint), str(images)]) == 0
    out = capsys.readouterr().out
    assert str(images / "copy [final].png") in out
    assert str(images / "below" / "b.png") in out
    assert "hidden" not in out
    assert all(out.count(name) == 2 for name in NAMES), out


def test_neither_ray_nor_mlflow_is_imported(checkpoint: Path, images: Path) -> None:
    code = (
        "import sys; from pipelines.predict import main; status = main(sys.argv[1:]); "
        "sys.exit(status or str({'ray', 'mlflow', 'matplotlib'} & set(sys.modules) or ''))"
    )
    command = [sys.executable, "-c", code, str(checkpoint), str(images), "--json", "--batch-size", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""
    answers = json.loads(done.stdout)
    assert [Path(answer["path"]).name for answer in answers] == ["copy [final].png", "b.png"]


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"Example: gfnet {command} runs/NAME/checkpoint_" in capsys.readouterr().out
