"""The global filter is a circular convolution, in the precision that it promises."""

import pytest
import torch

from gfnet import global_filter

GRIDS = [(4, 4), (5, 5), (4, 7), (7, 4)]


def convolve(x_BHWC: torch.Tensor, complex_weight: torch.Tensor) -> torch.Tensor:
    """The filter's spatial kernel, slid over the image in a loop: eight lines to compare with."""
    H, W = x_BHWC.shape[1:3]
    kernel_HWC = torch.fft.irfft2(torch.view_as_complex(complex_weight), s=(H, W), dim=(0, 1))
    out = torch.zeros_like(x_BHWC)
    for dy in range(H):
        for dx in range(W):
            out += kernel_HWC[dy, dx] * torch.roll(x_BHWC, (dy, dx), dims=(1, 2))
    return out


def made(grid: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *grid, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(grid[0], grid[1] // 2 + 1, 3, 2, generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_it_is_a_circular_convolution(grid: tuple[int, int]) -> None:
    x, weight = made(grid)
    torch.testing.assert_close(global_filter(x, weight), convolve(x, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_its_gradients(grid: tuple[int, int]) -> None:
    x, weight = (tensor.requires_grad_() for tensor in made(grid))
    assert torch.autograd.gradcheck(global_filter, (x, weight))


@pytest.mark.parametrize(("dtype", "ulps"), [(torch.float32, 8), (torch.bfloat16, 1), (torch.float16, 1)])
def test_other_precisions(dtype: torch.dtype, ulps: int) -> None:
    x, weight = made((7, 7), dtype)
    out = global_filter(x, weight)
    assert out.dtype == dtype
    exact = global_filter(x.double(), weight.double())
    # Computed in float32: a half's error is that of rounding the result once.
    assert (out.double() - exact).abs().max() <= ulps * torch.finfo(dtype).eps * exact.abs().max()
