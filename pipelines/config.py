"""The whole configuration of a training run, as frozen dataclasses. The docstrings of the fields are the `--help`."""

import dataclasses
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic
import tyro

from pipelines.errors import UsageError, raise_together

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _config(cls: type[T]) -> type[T]:
    """A frozen dataclass, of which unknown keys are errors when it is made from a dict."""
    made = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
    return pydantic.with_config(pydantic.ConfigDict(extra="forbid"))(made)


@_config
class ModelConfig:
    """The network."""

    name: str = "gfnet_xs"
    """Variant, as timm names it: gfnet_ti, gfnet_xs, gfnet_s, gfnet_b, gfnet_h_ti, gfnet_h_s, gfnet_h_b."""
    img_size: int = 224
    """Side of the input in pixels."""
    drop_path_rate: float = 0.0
    """Stochastic depth: probability with which the last block is skipped; the earlier ones less, linearly."""
    patch_size: int | None = None
    """Side of a patch in pixels; None: the variant's (16). Isotropic variants only, as the next two."""
    embed_dim: int | None = None
    """Channels; None: the variant's."""
    depth: int | None = None
    """Blocks; None: the variant's."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for `timm.create_model`."""
        overrides = {name: getattr(self, name) for name in ("patch_size", "embed_dim", "depth")}
        chosen = {name: value for name, value in overrides.items() if value is not None}
        return {"img_size": self.img_size, "drop_path_rate": self.drop_path_rate, **chosen}


@_config
class DataConfig:
    """The data set and how its images are augmented."""

    path: Annotated[str, tyro.conf.arg(aliases=("--data",))] = ""
    """Folder or URI of Parquet shards: what 'gfnet prepare' wrote, or an image data set of the Hugging Face Hub."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str | None = None
    """Split to evaluate on; None: validation, else test."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of an image's area that a random crop takes, at least and at most."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random crop, at least and at most."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment as timm spells it; None: none."""
    eval_crop: float = 224 / 256
    """Share of the resized image's side that the centre crop of evaluation keeps."""
    shuffle_rows: int = 512
    """Images that are mixed with each other, beyond the shuffle of row groups and of the rows in each."""
    task_rows: int = 1024
    """About how many images a decoding task reads and streams; what a lost node costs."""
    decode_cpus: int = 0
    """Decoding tasks at a time for each training worker; 0: the CPUs that training leaves free."""


@_config
class MixConfig:
    """Mixing of images and smoothing of labels, on the device."""

    mixup: float = 0.8
    """Alpha of mixup; 0: none."""
    cutmix: float = 1.0
    """Alpha of cutmix; 0: none."""
    prob: float = 1.0
    """Probability that a batch is mixed at all."""
    switch_prob: float = 0.5
    """Probability of cutmix rather than mixup where both are on."""
    label_smoothing: float = 0.1
    """Share of a target's mass that is spread over all classes."""


@_config
class OptimConfig:
    """AdamW and its schedule: linear warm-up, then a cosine."""

    lr: float = 5e-4
    """Peak learning rate at a global batch of 512; in proportion for others."""
    min_lr: float = 1e-5
    """Learning rate at the end."""
    warmup_lr: float = 1e-6
    """Learning rate at the start of the warm-up."""
    warmup_epochs: int = 5
    """Length of the warm-up."""
    schedule: Literal["epoch", "step"] = "epoch"
    """How often the rate moves. 'epoch' is the authors' schedule, one epoch late; 'step' suits short runs."""
    weight_decay: float = 0.05
    """Of matrices and filters; biases and norms have none."""
    clip_grad: float | None = 1.0
    """Largest norm of the gradient; None: no clipping."""


@_config
class TrackingConfig:
    """Where MLflow keeps the results."""

    uri: Annotated[str | None, tyro.conf.arg(aliases=("--tracking-uri",))] = None
    """MLflow tracking URI; None: the MLFLOW_TRACKING_URI variable, else SQLite in the runs folder."""
    experiment: str = "gfnet"
    """MLflow experiment."""


@_config
class TrainConfig:
    """A training run."""

    recipe: Annotated[str, tyro.conf.Fixed]
    """Recipe from which this configuration comes."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    mix: MixConfig = MixConfig()
    optim: OptimConfig = OptimConfig()
    tracking: TrackingConfig = TrackingConfig()

    epochs: int = 300
    """Passes over the training split."""
    batch_size: int = 1024
    """Images of one optimizer step over all workers together; the workers share them evenly."""
    max_steps: int | None = None
    """Stop after so many optimizer steps; None: train all epochs."""
    dropout_off: bool = False
    """Train with the model in eval mode, as the authors' 384 px fine-tuning does: no stochastic depth."""
    init_from: str | None = None
    """Checkpoint folder whose weights training starts from; its head is left out where the classes differ."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast on GPUs and on CPUs that compute in it, else float32."""
    seed: int = 0
    """Of the initial weights, the order of the images, augmentation and mixing."""

    workers: int | None = None
    """Training workers; None: one a GPU of the cluster, else one. 0: all in this process, for debugging."""
    use_gpu: bool | None = None
    """Train on GPUs; None: if the cluster has any."""
    storage: str = "runs"
    """Folder of all runs; on a cluster one that every node sees."""
    name: str | None = None
    """Name of the run: its folder in the storage; None: the recipe and the time."""
    log_every: int = 20
    """Steps between two logged points."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; the last epoch always has one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept."""
    max_failures: int = 3
    """How often a crashed worker may set the run back to its newest checkpoint."""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as nested plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(fields: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`. Unknown keys and wrong types are errors.

    Raises:
        UsageError: naming every field that does not fit.
    """
    try:
        return pydantic.TypeAdapter(TrainConfig).validate_python(fields)
    except pydantic.ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r})" for e in error.errors()]
        raise_together(problems)
        raise UsageError(str(error)) from error


def flatten(config: TrainConfig) -> dict[str, str]:
    """Dotted field names and values, as MLflow's parameters want them."""

    def walk(prefix: str, value: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            return {prefix: str(value)}
        return {
            k: v for key, inner in value.items() for k, v in walk(f"{prefix}.{key}" if prefix else key, inner).items()
        }

    return walk("", to_dict(config))


def check(config: TrainConfig) -> None:
    """Checks what types cannot say.

    Raises:
        UsageError: naming every field that is out of its range, all at once.
    """
    mix, optim, data = config.mix, config.optim, config.data
    rules = [
        ("data.path", data.path, bool(data.path), "a folder of shards; give --data FOLDER"),
        ("epochs", config.epochs, config.epochs >= 1, "at least 1"),
        ("batch_size", config.batch_size, config.batch_size >= 1, "at least 1"),
        ("max_steps", config.max_steps, config.max_steps is None or config.max_steps >= 1, "at least 1"),
        ("workers", config.workers, config.workers is None or config.workers >= 0, "0 or more"),
        ("log_every", config.log_every, config.log_every >= 1, "at least 1"),
        ("eval_every", config.eval_every, config.eval_every >= 1, "at least 1"),
        ("checkpoint_every", config.checkpoint_every, config.checkpoint_every >= 1, "at least 1"),
        ("keep_checkpoints", config.keep_checkpoints, config.keep_checkpoints >= 1, "at least 1"),
        ("max_failures", config.max_failures, config.max_failures >= 0, "0 or more"),
        (
            "model (patch_size, embed_dim, depth)",
            (config.model.patch_size, config.model.embed_dim, config.model.depth),
            not config.model.name.startswith("gfnet_h")
            or set(config.model.arguments()) == {"img_size", "drop_path_rate"},
            f"None for {config.model.name}, whose stages differ",
        ),
        ("model.img_size", config.model.img_size, config.model.img_size >= 1, "at least 1"),
        ("model.drop_path_rate", config.model.drop_path_rate, 0 <= config.model.drop_path_rate < 1, "0 up to below 1"),
        ("data.crop_scale", data.crop_scale, 0 < data.crop_scale[0] <= data.crop_scale[1] <= 1, "0 < low <= high <= 1"),
        ("data.crop_ratio", data.crop_ratio, 0 < data.crop_ratio[0] <= data.crop_ratio[1], "0 < low <= high"),
        ("data.hflip", data.hflip, 0 <= data.hflip <= 1, "0 to 1"),
        ("data.eval_crop", data.eval_crop, 0 < data.eval_crop <= 1, "above 0, at most 1"),
        ("data.shuffle_rows", data.shuffle_rows, data.shuffle_rows >= 1, "at least 1"),
        ("data.task_rows", data.task_rows, data.task_rows >= 1, "at least 1"),
        ("data.decode_cpus", data.decode_cpus, data.decode_cpus >= 0, "0 or more"),
        ("mix.mixup", mix.mixup, mix.mixup >= 0, "0 or more"),
        ("mix.cutmix", mix.cutmix, mix.cutmix >= 0, "0 or more"),
        ("mix.prob", mix.prob, 0 <= mix.prob <= 1, "0 to 1"),
        ("mix.switch_prob", mix.switch_prob, 0 <= mix.switch_prob <= 1, "0 to 1"),
        ("mix.label_smoothing", mix.label_smoothing, 0 <= mix.label_smoothing < 1, "0 up to below 1"),
        ("optim.lr", optim.lr, optim.lr > 0, "above 0"),
        ("optim.min_lr", optim.min_lr, optim.min_lr >= 0, "0 or more"),
        ("optim.warmup_lr", optim.warmup_lr, optim.warmup_lr >= 0, "0 or more"),
        ("optim.warmup_epochs", optim.warmup_epochs, 0 <= optim.warmup_epochs <= config.epochs, "0 to the epochs"),
        ("optim.weight_decay", optim.weight_decay, optim.weight_decay >= 0, "0 or more"),
        ("optim.clip_grad", optim.clip_grad, optim.clip_grad is None or optim.clip_grad > 0, "above 0, or None"),
    ]
    raise_together([f"{name} is {value!r}; allowed: {allowed}." for name, value, fine, allowed in rules if not fine])
