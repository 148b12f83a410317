"""python tests/zoo/make.py OUT [--table FILE]: files of every kind that a reader may meet.

Writes OUT/images, a plain PNG of the same pixels for each that can be read (OUT/plain), and
OUT/expectations.json: by name, what the file is and what has to become of it. --table writes the
same as a page of documentation. The pixels are crops of the real images in tests/data.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from exhibits import ERROR, PASSED_OVER, PLAIN, Expectation
from kinds import tiff_choices, tiff_descriptions, tiff_models
from PIL import Image
from places import damaged, names
from simple import bmps, jpegs, pngs
from tiffs import (
    tiff_channels,
    tiff_compressions,
    tiff_layouts,
    tiff_photometrics,
    tiff_stacks,
    tiff_types,
)

from reunet.io.images import ENDINGS
from reunet.io.limits import MAX_PIXELS, PIXEL_BYTES
from reunet.io.tiff_limits import MAX_DIRECTORIES

GROUPS = (
    *(pngs, jpegs, bmps),
    *(tiff_compressions, tiff_layouts, tiff_types, tiff_photometrics, tiff_channels, tiff_stacks),
    *(tiff_choices, tiff_descriptions, tiff_models),
    *(names, damaged),
)


def make(out: Path) -> dict[str, Expectation]:
    """Write all files. Returns what is expected, by the path below OUT/images."""
    images, plain = out / "images", out / "plain"
    shutil.rmtree(images, ignore_errors=True)
    plain.mkdir(parents=True, exist_ok=True)
    expectations = {}
    for exhibit in (exhibit for group in GROUPS for exhibit in group()):
        path = images / exhibit.name
        path.parent.mkdir(parents=True, exist_ok=True)
        exhibit.write(path)
        expectations[exhibit.name] = exhibit.expected
    for name, pixels in PLAIN.items():
        Image.fromarray(pixels).save(plain / f"{name}.png")
    entries = {name: asdict(expected) for name, expected in expectations.items()}
    (out / "expectations.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return expectations


def as_table(expectations: dict[str, Expectation]) -> str:
    """A page of documentation, one table a group."""
    lines = [HEAD]
    groups = dict.fromkeys(expected.group for expected in expectations.values())
    for group in groups:
        lines += [f"## {group}", "", "| file | what it is | outcome |", "|---|---|---|"]
        for name, expected in expectations.items():
            if expected.group == group:
                lines.append(f"| {in_cell(name)} | {expected.what} | {outcome(expected)} |")
        lines.append("")
    return "\n".join(lines)


def in_cell(name: str) -> str:
    """A file name as it can stand in a table."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    shown = shown if len(shown) <= 40 else f"{shown[:20]}…{shown[-12:]}"
    return "`` " + shown.replace("|", "\\|") + " ``" if "`" in shown else f"`{shown}`"


def outcome(expected: Expectation) -> str:
    """What becomes of a file, in words."""
    if expected.outcome == ERROR:
        return f"error: “{expected.error}”"
    if expected.outcome == PASSED_OVER:
        return "passed over"
    note = ", with a note" if expected.notes else ""
    return f"labels of `{expected.plain}.png`{note}"


HEAD = f"""# What is read, and how

Written by `python tests/zoo/make.py OUT --table docs/inputs.md`. `tests/project/test_zoo.py` runs
`reunet predict` over all of these files and compares each label image, pixel by pixel, with that of
a plain 8-bit PNG of the same pixels.

* **Files.** The contents decide how a file is read; its ending only has to be one of
  `{" ".join(ENDINGS)}`, in any case. Symbolic links are followed. Sub-folders,
  hidden files, labels of images beside them and other endings are passed over, which is told once
  with numbers. A label is named after the image up to the first dot, after its whole stem where
  several begin alike; of two images of one stem, the second is an error.
  `--recursive` goes through sub-folders and mirrors them in the output; several inputs, and
  patterns in quotes, may be given at once.
* **Slides of scanners.** `.svs` and `.scn` are TIFFs and go the same way, in bands.
  Hamamatsu's `.ndpi` and Ventana's `.bif`, whose tiles overlap, are read in bands by OpenSlide
  (`pip install 'reunet[slides]'`), which lays tiles at their mean distance. Without it a `.ndpi` is
  an error, and the tiles of a `.bif` are taken as they lie in the file, with a note. What was not
  scanned has the slide's colour of background, or white; of several focal planes the one in focus
  counts; a `note:` says so. Not read: fluorescence in a `.ndpi`, which is no JPEG of three colours,
  and the older `.vms`, `.vmu`, `.svslide`; nor `.mrxs`, a folder beside a file: it spans the whole
  glass, gigapixels of it empty, so export the part with the tissue as TIFF.
  Tested with files put together by OpenSlide's description of them, whose pixels Pillow, tifffile
  or the picture they were cut from confirm, and with the small `.svs` of OpenSlide's own tests; no
  scanner's own `.ndpi`, `.bif` or `.scn` was at hand.
* **OME-Zarr** (NGFF 0.4 and 0.5, local folders `*.zarr`; `pip install 'reunet[zarr]'`): the full
  size of the first multiscale, in bands of chunks. `--export zarr` writes labels as OME-Zarr 0.5.
* **Microscopes' files** (`.czi`, `.nd2`, `.lif`; `pip install 'reunet[formats]'`): the first scene,
  by the plug-ins of bioio; that for `.czi` is under the GPL. A plane is held as a whole. Tested
  with a `.czi` that Zeiss's own library writes, a `.lif` put together by Leica's description of it,
  and a real `.nd2` of Nikon's program, which another reader's package ships (slow tests fetch it).
* **Colours.** Grey is repeated three times, a palette becomes RGB, CMYK is mixed, CIELAB and YCbCr
  are converted, alpha is dropped, white-is-zero is inverted; other colour models are refused.
  Profiles, gamma and the orientation in EXIF are not applied: the
  challenge measures the stored array, and a label has to lie on it.
* **Channels and planes.** Of more than three channels the first three count; of two, the third is
  empty. Of a stack the first plane counts, of a pyramid the full size. A `note:` says so.
  Of several pictures the largest counts that no tag or name calls a thumbnail, a mask or a label.
  Descriptions (OME, ImageJ, tifffile) that do not fit the pages are not believed.
  `--channels 2`, `0,2` or `DAPI` (names of OME, Zarr and microscopes' files; red, green and blue of
  plain ones) chooses up to three, from 0, in the order red, green, blue. `--plane 7` chooses one of
  a stack or series, counted from 0 in the file's order, the last axis fastest; `middle` the middle
  of every axis, `max` the brightest values of all, `all` every one: their labels are one stack,
  cells counted anew in each. What a file lacks is an error of that file.
* **Numbers.** Integers of 1 to 64 bits and floats; NaN, infinities and marks of no data (-3.4e38)
  become 0, with a note. Contrast is relative: 0 and 1 is the mask that 0 and 255 is.
* **Limits.** {MAX_PIXELS:,} pixels of {PIXEL_BYTES} bytes; `REUNET_MAX_PIXELS=2000000000` in the
  environment raises the limit to as many pixels. {MAX_DIRECTORIES:,} pictures in a TIFF.
* **Damage.** Half a picture is an error, never half a label. A file that would take more time or
  memory than its picture justifies is refused (`reunet/io/tiff_limits.py`).
"""


def main() -> None:
    """Run as the module's first line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    expectations = make(arguments.out)
    if arguments.table:
        arguments.table.write_text(as_table(expectations), encoding="utf-8")
    print(f"{len(expectations)} files")


if __name__ == "__main__":
    main()
