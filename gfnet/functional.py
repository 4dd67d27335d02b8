"""The global filter as a function.

Dimension letters: B batch, H and W height and width of the grid of tokens, F = W//2 + 1 frequencies along the width
(the others follow by conjugate symmetry), C channels.
"""

import torch


def global_filter(x_BHWC: torch.Tensor, complex_weight_HFC2: torch.Tensor) -> torch.Tensor:
    """Filters every channel in the frequency domain: a circular convolution as large as the image.

    Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021, section 3.2, equations 5 to 7.

    Args:
        x_BHWC: tokens, of any floating dtype.
        complex_weight_HFC2: the filter's real and imaginary parts, float32, of shape (H, W//2 + 1, C, 2).

    Returns:
        Tokens of the shape and dtype of `x_BHWC`. Computed in float32 at least: FFT libraries have no half precision
        for the grids that matter (7, 14, 28).
    """
    H, W = x_BHWC.shape[1:3]
    dtype = torch.promote_types(x_BHWC.dtype, torch.float32)
    spectrum_BHFC = torch.fft.rfft2(x_BHWC.to(dtype), dim=(1, 2), norm="ortho")
    filtered_BHFC = spectrum_BHFC * torch.view_as_complex(complex_weight_HFC2)
    return torch.fft.irfft2(filtered_BHFC, s=(H, W), dim=(1, 2), norm="ortho").to(x_BHWC.dtype)
