"""Re-UNet: cell instance segmentation in microscope images of any modality.

>>> from reunet import load_model, segment
>>> labels = segment("image.png", load_model())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reunet.api import predict_many as predict_many
    from reunet.api import segment as segment
    from reunet.errors import DeviceError as DeviceError
    from reunet.errors import ImageError as ImageError
    from reunet.errors import ReUNetError as ReUNetError
    from reunet.errors import ReUNetWarning as ReUNetWarning
    from reunet.errors import WeightsError as WeightsError
    from reunet.folder import Progress as Progress
    from reunet.folder import Segmented as Segmented
    from reunet.folder import segment_folder as segment_folder
    from reunet.model import Model as Model
    from reunet.model import load_model as load_model
    from reunet.options import Options as Options
    from reunet.pipeline import Result as Result
    from reunet.pipeline import predict as predict

__all__ = [
    "DeviceError",
    "ImageError",
    "Model",
    "Options",
    "Progress",
    "ReUNetError",
    "ReUNetWarning",
    "Result",
    "Segmented",
    "WeightsError",
    "load_model",
    "predict",
    "predict_many",
    "segment",
    "segment_folder",
]


def __getattr__(name: str) -> Any:
    """Import the front door when it is first used: `reunet --version` does not wait for torch."""
    if name == "__version__":
        from importlib import metadata  # takes longer than all of this file

        return metadata.version("reunet")
    home: Any = None  # named in full, so that nothing else can be imported
    match name:
        case "DeviceError" | "ImageError" | "ReUNetError" | "ReUNetWarning" | "WeightsError":
            home = import_module("reunet.errors")
        case "Progress" | "Segmented" | "segment_folder":
            home = import_module("reunet.folder")
        case "Model" | "load_model":
            home = import_module("reunet.model")
        case "Options":
            home = import_module("reunet.options")
        case "Result" | "predict":
            home = import_module("reunet.pipeline")
        case "predict_many" | "segment":
            home = import_module("reunet.api")
        case _:
            raise AttributeError(f"module 'reunet' has no attribute {name!r}")
    return getattr(home, name)


def __dir__() -> list[str]:
    """What completion offers: the front door, though little of it is imported yet."""
    return sorted({*globals(), *__all__, "__version__"})
