"""Images without labels, stored once as cases that every round of self-training reads.

What stands in the labelled set too is left out: by content, the sha256 of the decoded and
normalised pixels, so that another name, format or compression does not hide an image.
"""

import pickle
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels, z_score
from reunet.inference.scale import scale_image, scaled_shape, zoom_for
from reunet.inference.tiles import content_box
from reunet.io.atomic import replacing
from reunet.io.collection import case_names
from reunet.io.images import ENDINGS, list_images, read_image
from reunet.io.meta import read_meta
from reunet.training import layout
from reunet.training.data.dataset import pixel_digest, read_json, write_blosc, write_json
from reunet.training.fit.estimate import Measure, estimator
from reunet.training.presets import PRESETS

PREFIX = "pseudo_"  # of the cases' names: never that of a labelled case


@dataclass(frozen=True)
class UnlabelledImage:
    """An image and its case. version: of the file; digest: of its pixels; height, width: its own;
    modality, source: what a `meta.csv` says; diameter: found, px of its typical cell, which in
    the case measures `brought_to` px (None: the case has the size of the image)."""

    name: str
    case: str
    digest: str
    version: int
    height: int
    width: int
    modality: str
    source: str
    diameter: float | None = None
    brought_to: float | None = None


def store_images(
    folder: Path,
    root: Path,
    preset: str,
    teacher: Path,
    others: Iterable[Path] = (),
    device: str = "cpu",
) -> tuple[list[UnlabelledImage], dict[str, str]]:
    """Store the images of a folder as cases; those stored already are not read again.

    Of a preset with a size of cells, each image is brought to it, as labelled images are by the
    true size of their cells: by what `estimator` finds with the teacher, the checkpoint of a
    trained fold. others: folders of more images that must not be learnt from. device: where the
    teacher computes. Returns the images and, by file name, why one was left out. Raises ValueError
    where the folder holds no image, OSError where nothing can be written.
    """
    paths = list_images(folder)
    if not paths:
        raise ValueError(f"{folder}: holds no images ({' '.join(ENDINGS)}): name another folder")
    store, record = layout.unlabelled_folder(root), layout.unlabelled_record(root)
    store.mkdir(parents=True, exist_ok=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    known = {e["name"]: UnlabelledImage(**e) for e in read_json(record)} if record.exists() else {}
    meta, labelled = read_meta(folder), labelled_digests(root, others)
    cases, digests = set(read_json(layout.cases_file(root))), labelled.copy()
    images, left_out = [], {}
    chosen, measure = PRESETS[preset], None
    if chosen.diameter:
        measure = estimator(root, preset, teacher, device)
    for path, name in case_names(paths).items():
        case = PREFIX + name
        try:
            if case in cases:
                raise ImageError(f"{path}: another case is called {case} too: rename the image")
            image = known.get(path.name)
            if not image or not _is_stored(store, path, image, chosen.diameter):
                image, pixels = _look(path, case, meta.get(name, {}))
                _check_duplicate(path, image, digests, labelled)
                if measure:
                    image, pixels = _brought_to(image, pixels, chosen.diameter, measure)
                _store(store, image, pixels, chosen.patch)
            _check_duplicate(path, image, digests, labelled)
        except ImageError as error:
            left_out[path.name] = str(error)
            continue
        cases.add(case)
        digests[image.digest] = path.name
        images.append(image)
    write_json(record, [asdict(image) for image in images])
    return images, left_out


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns


def _is_stored(store: Path, path: Path, image: UnlabelledImage, wanted: float | None) -> bool:
    same = image.version == _version(path) and image.brought_to == wanted
    return same and (store / f"{image.case}.pkl").exists()  # written last


def _brought_to(
    image: UnlabelledImage, pixels: np.ndarray, wanted: float | None, measure: Measure
) -> tuple[UnlabelledImage, np.ndarray]:
    """An image with its cells at `wanted` px, by the size that is found for them."""
    assert wanted
    diameter = measure(pixels)
    shape = scaled_shape(pixels.shape, zoom_for(diameter, wanted, pixels.shape[:2])[0])
    found = None if diameter is None else round(diameter, 2)
    return replace(image, diameter=found, brought_to=wanted), scale_image(pixels, shape)


def _look(path: Path, case: str, about: dict[str, str]) -> tuple[UnlabelledImage, np.ndarray]:
    """An image and its normalised pixels, (H, W, 3) uint8."""
    version = _version(path)
    pixels = normalise_channels(read_image(path).pixels)
    image = UnlabelledImage(
        name=path.name,
        case=case,
        digest=pixel_digest(pixels),
        version=version,
        height=pixels.shape[0],
        width=pixels.shape[1],
        modality=about.get("modality") or "unknown",
        source=about.get("source") or "unknown",
    )
    return image, pixels


def _check_duplicate(
    path: Path, image: UnlabelledImage, digests: dict[str, str], labelled: dict[str, str]
) -> None:
    if duplicate := digests.get(image.digest):
        where = "in the labelled set too" if image.digest in labelled else "here twice"
        raise ImageError(f"{path}: stands {where}, as {duplicate}: left out")


def _store(store: Path, image: UnlabelledImage, pixels: np.ndarray, patch: int) -> None:
    """Write an image as nnU-Net's preprocessing does: without its black margins, z-scored."""
    import blosc2

    (store / f"{image.case}.pkl").unlink(missing_ok=True)
    channels = pixels.transpose(2, 0, 1)
    box = content_box(channels)
    content = z_score(channels[:, *box])[:, np.newaxis]  # (3, 1, h, w)
    how = {"codec": blosc2.Codec.LZ4HC, "filters": [blosc2.Filter.NOFILTER]}  # nnU-Net's
    write_blosc(store / f"{image.case}.b2nd", content, (patch, patch), cparams=how)
    with replacing(store / f"{image.case}.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(properties(pixels.shape[:2], box)))


def properties(shape: tuple[int, int], box: tuple[slice, slice]) -> dict[str, Any]:
    """What nnU-Net notes about a case that it has preprocessed, the class locations excepted."""
    return {
        "sitk_stuff": {
            "spacing": (1.0, 1.0),
            "origin": (0.0, 0.0),
            "direction": (1.0, 0.0, 0.0, 1.0),
        },
        "spacing": [999.0, 1.0, 1.0],
        "shape_before_cropping": (1, *shape),
        "bbox_used_for_cropping": [[0, 1], *([edge.start, edge.stop] for edge in box)],
        "shape_after_cropping_and_before_resampling": (
            1,
            *(edge.stop - edge.start for edge in box),
        ),
    }


def labelled_digests(root: Path, others: Iterable[Path] = ()) -> dict[str, str]:
    """The labelled cases of a root by their digest, which is kept: reading them takes minutes;
    and the images of other folders by theirs."""
    versions = read_json(layout.raw_description(root))["cases"]
    record = layout.digests_record(root)
    known = read_json(record) if record.exists() else {}
    digests = {}
    for case, version in versions.items():
        if known.get(case, [None])[0] != version:
            known[case] = [version, _stored_digest(root, case)]
        digests[known[case][1]] = case
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, {case: known[case] for case in versions})
    for path in (path for folder in others for path in list_images(folder)):
        try:
            pixels = normalise_channels(read_image(path).pixels)
        except ImageError:
            continue  # what cannot be read has no duplicate
        digests.setdefault(pixel_digest(pixels), path.name)
    return digests


def _stored_digest(root: Path, case: str) -> str:
    """What `prepare` noted of the picture; of roots of earlier versions, what is stored of it."""
    if (noted := layout.digest_file(root, case)).exists():
        return noted.read_text()
    files = [layout.channel_file(root, case, channel) for channel in range(3)]
    channels = [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files]
    return pixel_digest(np.stack(channels, axis=-1))
