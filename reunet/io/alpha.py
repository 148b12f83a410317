"""Alpha channels, which are left out: whether that leaves nothing. Legend: H, W pixels."""

import numpy as np

ALPHA_ONLY = "its colours are the same everywhere; what differs is its alpha channel, left out"


def only_alpha(colours: np.ndarray, alpha: np.ndarray) -> bool:
    """Whether pixels differ in alpha alone. colours, alpha: (H, W) or (H, W, channels)."""
    first = colours[:1, :1]
    return bool((colours == first).all()) and bool((alpha != alpha[:1, :1]).any())
