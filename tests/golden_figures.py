"""The weights and inputs from which the golden figures were computed (golden/README.md)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


def fill_weights(model: nn.Module) -> None:
    """p[i] = 0.05·cos(0.37·i + k) over the parameters in the order of their names; norms' weights about 1."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for k, name in enumerate(sorted(parameters)):
            parameter = parameters[name]
            values = 0.05 * np.cos(0.37 * np.arange(parameter.numel(), dtype=np.float64) + k)
            values += 1.0 if "norm" in name and name.endswith("weight") else 0.0
            values += 0.1 if name.endswith("gamma") else 0.0
            parameter.copy_(torch.from_numpy(values.astype(np.float32)).reshape(parameter.shape))


def input_images(batch: int, size: int) -> torch.Tensor:
    """x[i] = sin(0.011·i + 0.3·sin(0.0007·i)), float32 of shape (batch, 3, size, size)."""
    i = np.arange(batch * 3 * size * size, dtype=np.float64)
    return torch.from_numpy(np.sin(0.011 * i + 0.3 * np.sin(0.0007 * i)).astype(np.float32)).reshape(-1, 3, size, size)


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as file:
        return dict(file)


@cache
def figures(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())
