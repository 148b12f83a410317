"""`--resume`: which labels need not be made again.

Every label tells in its TIFF description what it was made from: a hash of the image file, the
weights and the settings. Labels appear wholly or not at all, so one that tells the right thing and
can be read to its end is done. Nothing else is kept beside the labels, and nothing can go out of
step with them: an image that was edited, other weights or another decoder mean new labels.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import reunet
from reunet.io.labels import label_origin
from reunet.io.limits import TIFF
from reunet.io.region import region_origin
from reunet.io.selection import selection_of
from reunet.model import Model
from reunet.network.bundle import Bundle
from reunet.options import Options
from reunet.run.finish import which_cells
from reunet.scale_search import is_searched

DECIDES = ("architecture", "encoding", "tile", "smallest", "sha256")  # of a card, what labels show
MAY_DECIDE = ("diameter", "step")  # … where the card has them
AT_ONCE = 2**24  # bytes of a label, compressed, that are read in one go
HASH_DIGITS = 16  # of a sha256, in hexadecimal


def model_hash(model: Model) -> str:
    """Hash of all in a model's bundle that its labels depend on."""
    return bundle_hash(model.bundle)


def bundle_hash(bundle: Bundle) -> str:
    """The same of a bundle that is not loaded. The sha256 of the weights is part of it."""
    about = {key: bundle.about[key] for key in DECIDES}
    about |= {key: bundle.about[key] for key in MAY_DECIDE if key in bundle.about}
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def settings_line(model: Model, options: Options) -> str:
    """Everything but the image that labels depend on, in one line.

    What a budget allows depends on how fast the machine is at the time; labels made within the same
    one count as the same. Where no number format is named, networks computed in float32.
    """
    model = model.at(options.quality)
    weights = f"weights {model_hash(model)} folds {','.join(model.folds)}"
    choices = f"{options.views} views of a tile" if options.views > 1 else "not mirrored"
    choices += ", all tiles" * (not options.skip_empty) + ", one scale" * (not options.enlarge)
    choices += ", averaged" * (not options.vote)
    choices += f", cells of {options.diameter:g} px" if options.diameter else ""
    choices += ", the surest of four scales" * is_searched(model, options)
    step = options.step_of(model.bundle.step)
    choices += f", tiles {step:g} apart" if step != model.bundle.step else ""
    choices += f", in {model.precision}" if model.precision != "f32" else ""
    decoder = options.decoder or model.bundle.decoder
    choices += f", decoder {decoder}" + ", unsure cells dropped" * (decoder == "field")
    selection = selection_of(options.channels, options.plane)
    choices += f", {selection}" * bool(selection)
    choices += f", {region_origin(options.region)}" * (options.region is not None)
    choices += f", budget {options.budget}" if options.budget else ""
    return f"reunet {reunet.__version__}, {weights}, {choices}{which_cells(options)}"


def image_hash(image: Path) -> str:
    """Hash of a file's bytes, or of the names and bytes of a folder's (OME-Zarr); nothing for
    what is neither, which `read_image` has words for. A slide that is stitched where a package is
    installed has another one there, as it becomes another picture.

    To be taken before the image is decoded: one that changes in between is then made again.
    """
    if image.is_dir():
        files = sorted(path for path in image.rglob("*") if path.is_file())
        parts = (f"{path.relative_to(image).as_posix()} {image_hash(path)}" for path in files)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:HASH_DIGITS]
    if not image.is_file():  # a pipe would keep its reader waiting
        return ""
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:HASH_DIGITS]
        file.seek(0)
        is_tiff = file.read(4).startswith(TIFF)
    if not is_tiff:
        return digest
    from reunet.io.slides import is_stitched  # pictures of other kinds start without it

    return digest + " stitched" * is_stitched(image)


def cells_of_kept_label(label: Path, origin: str) -> int | None:
    """Number of cells of a label that is whole and of this origin; None where there is none."""
    import tifffile

    try:
        with tifffile.TiffFile(label) as tiff:
            if label_origin(tiff) != origin:
                return None
            return sum(_highest(page) for page in tiff.series[0].pages)
    except MemoryError:  # it may well be whole
        raise
    except Exception:  # missing, cut off or no TIFF at all: to be made again, whatever it is
        return None


def _highest(page: Any) -> int:
    """The highest number of a plane, strip by strip: all of a slide's may not fit the memory.

    page: of tifffile, None where a file that was cut off lacks it.
    """
    strips = page.segments(maxworkers=1, buffersize=AT_ONCE)
    return max(int(pixels.max()) for pixels, _, _ in strips)
