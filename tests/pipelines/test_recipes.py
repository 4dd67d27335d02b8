"""Recipes and configurations: complete, strict, and the same after a round trip."""

import dataclasses
import json

import pytest

from pipelines import cli
from pipelines.config import check, flatten, from_dict, to_dict
from pipelines.errors import UsageError
from pipelines.recipes import RECIPES, find, summary


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete(name: str) -> None:
    config = find(name)()
    assert config.recipe == name
    assert len(summary(find(name))) > 20
    check(dataclasses.replace(config, data=dataclasses.replace(config.data, path="shards")))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_explains_its_fields(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", name, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--optim.lr" in out
    assert "Example: gfnet train" in out


def test_published_hyperparameters() -> None:
    drop_path = {name: find(f"{name}_in1k")().model.drop_path_rate for name in ("gfnet_s", "gfnet_b", "gfnet_h_b")}
    assert drop_path == {"gfnet_s": 0.15, "gfnet_b": 0.25, "gfnet_h_b": 0.4}
    config = find("gfnet_xs_in1k")()
    assert (config.epochs, config.batch_size) == (300, 1024)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.clip_grad) == (5e-4, 0.05, 1.0)
    assert (config.mix.mixup, config.mix.cutmix, config.mix.label_smoothing) == (0.8, 1.0, 0.1)
    assert config.data.rand_augment == "rand-m9-mstd0.5-inc1"
    tuned = find("gfnet_xs_in1k_384")()
    assert (tuned.model.img_size, tuned.epochs, tuned.optim.lr, tuned.optim.min_lr) == (384, 30, 5e-6, 5e-6)
    assert tuned.dropout_off


def test_any_field_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    line = "train gfnet_xs_in1k --print-config --data s3://bucket/shards --optim.lr 1e-3 --data.crop-scale 0.2 0.9"
    status = cli.main([*line.split(), "--data.rand-augment", "None", "--workers", "4"])
    config = json.loads(capsys.readouterr().out)
    assert status == 0
    assert config["optim"]["lr"] == 1e-3
    assert config["data"]["path"] == "s3://bucket/shards"
    assert config["data"]["crop_scale"] == [0.2, 0.9]
    assert config["data"]["rand_augment"] is None
    assert config["workers"] == 4


def test_all_that_is_out_of_range_is_said_at_once() -> None:
    config = find("gfnet_debug_digits")()
    bad = dataclasses.replace(config, epochs=0, mix=dataclasses.replace(config.mix, prob=1.5))
    with pytest.raises(UsageError) as error:
        check(bad)
    for part in ("data.path is ''", "epochs is 0; allowed: at least 1", "mix.prob is 1.5; allowed: 0 to 1"):
        assert part in str(error.value)


def test_unknown_keys_are_errors() -> None:
    fields = to_dict(find("gfnet_debug_digits")())
    fields["optim"]["momentum"] = 0.9
    with pytest.raises(UsageError, match=r"optim\.momentum"):
        from_dict(fields)


def test_flat_names() -> None:
    flat = flatten(find("gfnet_xs_in1k")())
    assert flat["optim.lr"] == "0.0005"
    assert flat["epochs"] == "300"
    assert not any(isinstance(value, dict) for value in flat.values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "gfnet_xs_in"], "No recipe 'gfnet_xs_in'. Did you mean gfnet_xs_in1k"),
        (["trane"], "no command 'trane'"),
        (["train", "gfnet_xs_in1k", "--data", "/nowhere"], "No data set at '/nowhere'"),
        (["train", "gfnet_xs_in1k", "--data", "x", "--epochs", "0"], "epochs is 0"),
        (["train", "gfnet_xs_in1k", "--data", "x", "--resume"], "No unfinished run of gfnet_xs_in1k in runs"),
    ],
)
def test_bad_command_lines(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "gfnet_xs_in1k", "--epchs", "3"])
    assert stop.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_help_lists_commands_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert cli.main(["train"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*cli.COMMANDS, *RECIPES))
