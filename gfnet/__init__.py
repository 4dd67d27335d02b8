"""Global Filter Networks. Importing this registers the seven published variants with timm."""

from gfnet.errors import GFNetError
from gfnet.functional import global_filter
from gfnet.isotropic import GFNet
from gfnet.layers import GlobalFilter
from gfnet.pyramid import GFNetPyramid
from gfnet.resize import resize_state_dict
from gfnet.variants import VARIANTS, Variant, create_model
from gfnet.version import __version__

__all__ = [
    "VARIANTS",
    "GFNet",
    "GFNetError",
    "GFNetPyramid",
    "GlobalFilter",
    "Variant",
    "__version__",
    "create_model",
    "global_filter",
    "resize_state_dict",
]
