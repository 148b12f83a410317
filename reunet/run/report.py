"""`--report`: what a run did, in `report.json` beside the labels.

    {
      "reunet": "0.5.0",             version of the program
      "state": "finished",           running (or killed), interrupted, finished
      "started": "2025-01-31T09:00:00+00:00",
      "seconds": 12.3,               since then; loading the model is not part of it
      "settings": {...},             as the command took them: input, device, mirroring …
      "model": {"bundle": "compact", "hash": "…", "folds": ["0"],
                "precision": "bf16", "sha256": {FILE: "…"}},
      "summary": {"images": 3, "done": 1, "kept": 1, "failed": 1, "waiting": 0, "cells": 57},
      "warnings": [...],             what went otherwise than asked for, such as a lost GPU
      "images": [                    in the order in which they were done
        {"image": "a.png", "status": "done",       or kept (by --resume) or failed
         "label": "a_label.tiff", "cells": 57,     failed: null and 0
         "seconds": {"reading": 0.01, "network": 0.5, "decoding": 0.02, "writing": 0.01},
         "notes": [...],             what was assumed about channels, planes and cells
         "diameter": 29.4,           px of the typical cell that the image was scaled by, or null
         "voted": false,             whether folds voted on the cells; large images are averaged
         "error": null,              one line: file, cause, way out
         "unwritten": []}            outputs beside the label that failed, such lines
      ]
    }

The file is replaced as a whole, so that a killed run leaves a valid one, a few seconds old at most.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import reunet
from reunet.errors import ImageError
from reunet.io.atomic import replacing
from reunet.io.collection import place_of
from reunet.model import Model
from reunet.options import Options
from reunet.run.batch import Outcome
from reunet.run.resume import model_hash

REPORT = "report.json"
EVERY = 1.0  # s between two versions at least …
SHARE = 50  # … and as many times as long as the last one took: thousands of images stay cheap


def describe(model: Model, options: Options, settings: Mapping[str, str | bool]) -> dict[str, Any]:
    """What a report says of a run before it begins. settings: of the command, beside options."""
    model, bundle, choices = model.at(options.quality), model.bundle, asdict(options)
    choices["tta"], choices["views"] = options.views > 1, options.views
    choices["vote"] = options.vote and len(model.networks) > 1  # one fold has nobody to vote with
    return {
        "reunet": reunet.__version__,
        "settings": {**settings, **choices},
        "model": {
            "bundle": bundle.folder.name,
            "hash": model_hash(model),
            "folds": [*model.folds],
            "precision": model.precision,
            "sha256": bundle.about["sha256"],
        },
    }


def reporting(
    outcomes: Iterable[Outcome],
    path: Path,
    total: int,
    about: dict[str, Any],
    warnings: Sequence[str] = (),
) -> Generator[Outcome]:
    """Pass on the outcomes of a run of `total` images, and keep the report at `path` up to date.

    about: from `describe`. warnings: those of the run; more may come to it meanwhile. Raises
    ImageError where the first or the last version cannot be written; a disk that is full in
    between costs no image.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    entries: list[dict[str, Any]] = []

    def write(state: str) -> float:
        """Returns the time before which it is not worth writing again."""
        now = time.monotonic()
        head = {**about, "state": state, "started": started, "seconds": round(now - clock, 3)}
        head |= {"summary": _summary(entries, total), "warnings": [*warnings]}
        with replacing(path) as temporary:
            temporary.write_text(
                json.dumps({**head, "images": entries}, indent=1), encoding="utf-8"
            )
        return time.monotonic() + max(EVERY, SHARE * (time.monotonic() - now))

    due = write("running")
    try:
        for outcome in outcomes:
            entries.append(entry_of(outcome, path.parent))
            if time.monotonic() > due:
                with contextlib.suppress(ImageError):
                    due = write("running")
            yield outcome
    except BaseException:
        write("interrupted")
        raise
    write("finished")


def entry_of(outcome: Outcome, output: Path) -> dict[str, Any]:
    """What the report tells of an image. output: folder of the run, whose sub-folders are told."""
    place = place_of(outcome.label, output)
    status = "failed" if outcome.error else "kept" if outcome.kept else "done"
    return {
        "image": (place / outcome.image.name).as_posix(),
        "status": status,
        "label": None if outcome.error else (place / outcome.label.name).as_posix(),
        "cells": outcome.cells,
        "seconds": {step: round(seconds, 4) for step, seconds in outcome.seconds.items()},
        "notes": [*outcome.notes],
        "diameter": outcome.diameter and round(outcome.diameter, 2),
        "voted": outcome.agreement is not None,
        "error": outcome.error,
        "unwritten": [*outcome.unwritten],
    }


def _summary(entries: Sequence[dict[str, Any]], total: int) -> dict[str, int]:
    count = Counter(entry["status"] for entry in entries)
    by_status = {status: count[status] for status in ("done", "kept", "failed")}
    cells = sum(entry["cells"] for entry in entries)
    return {"images": total, **by_status, "waiting": total - len(entries), "cells": cells}
