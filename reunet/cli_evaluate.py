"""`reunet evaluate`: the official metric, further thresholds, pictures of hits and misses."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reunet.cli_help import Taught
from reunet.cli_outputs import FOLDER, RANGE, CannotStart, iou_range, parsed, score_pairs

NAMED_AT_MOST = 5  # files named in a message about many


def evaluate_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `evaluate` that `evaluate_further` takes."""
    options = (
        click.option(
            "--iou",
            "thresholds",
            metavar="FROM:TO:STEP",
            callback=parsed(iou_range),
            help=f"Also score at these IoU, such as {RANGE}: precision, recall, F1, AP and PQ.",
        ),
        click.option("--iou-csv", "iou_table", type=FOLDER, help="Write these scores there."),
        click.option(
            "--overlays", type=FOLDER, help="Folder for pictures of hits, misses and false cells."
        ),
        click.option("--images", type=FOLDER, help="Images to draw these on.  [default: black]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def evaluate_further(
    truths: Path,
    predictions: Path,
    names: Collection[str],
    modalities: Mapping[str, str],
    *,
    thresholds: Sequence[float] | None,
    iou_table: Path | None,
    overlays: Path | None,
    images: Path | None,
) -> bool:
    """What `evaluate` shows and writes of the scored images beyond the official metric.

    Returns whether all went well. Raises CannotStart.
    """
    from reunet.errors import ImageError
    from reunet.iou_range import summary_table, write_range_csv

    try:
        if thresholds or iou_table:
            scores = score_pairs(truths, predictions, thresholds or iou_range(RANGE))
            click.echo(f"\n{summary_table(scores, modalities)}")
            if iou_table:
                write_range_csv(scores, modalities, iou_table)
        return not overlays or _verdicts(truths, predictions, names, overlays, images)
    except (ImageError, OSError) as error:
        raise CannotStart(str(error)) from error


def _verdicts(
    truths: Path, predictions: Path, names: Collection[str], folder: Path, images: Path | None
) -> bool:
    from reunet.errors import one_line
    from reunet.run.outputs import write_verdicts

    folder.mkdir(parents=True, exist_ok=True)
    fine = True
    for line in write_verdicts(truths, predictions, names, folder, images):
        click.echo(one_line(f"error: {line}"), err=True)
        fine = False
    return fine


@click.command(
    cls=Taught,
    examples=[
        "reunet evaluate --gt truth --seg labels --csv scores.csv",
        "reunet evaluate --gt truth --seg labels --iou 0.5:0.95:0.05",
    ],
)
@click.option("--gt", "truths", required=True, type=FOLDER, help="Folder of true labels.")
@click.option(
    "--seg", "predictions", required=True, type=FOLDER, help="Folder of predicted labels."
)
@click.option("--csv", "table", type=FOLDER, help="Also write the official program's table there.")
@evaluate_options
def evaluate(truths: Path, predictions: Path, table: Path | None, **further: Any) -> None:
    """Score predicted labels with the challenge's official metric (F1 at IoU 0.5).

    Where a meta.csv beside the true labels has columns name and modality, figures by modality
    and their mean are shown too.
    """
    from reunet.errors import one_line
    from reunet.io.meta import read_modalities
    from reunet.metric import score_folder, summarise, write_csv

    try:
        evaluation = score_folder(truths, predictions)
        modalities = read_modalities(truths)
        summary = summarise(evaluation.scores, modalities) if evaluation.scores else None
        if table:
            write_csv(evaluation, table)
    except (ValueError, OSError) as error:
        raise CannotStart(str(error)) from error
    fine = True
    for hint in evaluation.hints:
        click.echo(one_line(f"note: {hint}"), err=True)
    for name, score in evaluation.scores.items():
        shown = one_line(f"{name:<50} {modalities.get(name, ''):<6}")
        click.echo(
            f"{shown} F1 {score.f1:.4f}  "
            f"true {score.n_true}  predicted {score.n_pred}  correct {score.tp}"
        )
    if summary:
        click.echo(f"\n{summary}")
        fine = evaluate_further(truths, predictions, evaluation.scores, modalities, **further)
    if evaluation.missing:
        missing = one_line(some(evaluation.missing))
        click.echo(f"note: not predicted, not scored: {missing}", err=True)
    for reason in evaluation.failed.values():
        click.echo(one_line(f"error: {reason}"), err=True)
    if evaluation.failed or not fine:
        sys.exit(1)


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
