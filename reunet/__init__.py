"""Re-UNet: cell instance segmentation in microscope images of any modality.

>>> from reunet import load_model, segment
>>> labels = segment("image.png", load_model())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reunet.errors import ImageError as ImageError
    from reunet.errors import ReUNetWarning as ReUNetWarning
    from reunet.errors import WeightsError as WeightsError
    from reunet.model import Model as Model
    from reunet.model import load_model as load_model
    from reunet.options import Options as Options
    from reunet.pipeline import Result as Result
    from reunet.pipeline import predict as predict
    from reunet.pipeline import segment as segment

__all__ = [
    "ImageError",
    "Model",
    "Options",
    "ReUNetWarning",
    "Result",
    "WeightsError",
    "load_model",
    "predict",
    "segment",
]


def __getattr__(name: str) -> Any:
    """Import the front door when it is first used: `reunet --version` does not wait for torch."""
    if name == "__version__":
        from importlib import metadata  # takes longer than all of this file

        return metadata.version("reunet")
    if name in ("ImageError", "ReUNetWarning", "WeightsError"):
        return getattr(import_module("reunet.errors"), name)
    if name == "Options":
        return import_module("reunet.options").Options
    if name in ("Model", "load_model"):
        return getattr(import_module("reunet.model"), name)
    if name in __all__:
        return getattr(import_module("reunet.pipeline"), name)
    raise AttributeError(f"module 'reunet' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the front door, though little of it is imported yet."""
    return sorted({*globals(), *__all__, "__version__"})
