"""Who does the work of `reunet predict`: this process, or the workers of a cluster."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reunet.cli_inputs import Found
from reunet.cli_outputs import CannotStart
from reunet.options import Options

if TYPE_CHECKING:
    from reunet.model import Model
    from reunet.run.batch import Outcome


class Machines(NamedTuple):
    """scheduler: its address. workers: how many of our own. device: that they are to use."""

    scheduler: str | None
    workers: int | None
    device: str


def run(
    found: Found,
    output: Path,
    model: "Model",
    options: Options,
    resume: bool,
    machines: Machines,
    tell: Callable[[Path, int, int], None],
) -> Generator["Outcome"]:
    """The outcomes of all images. tell: is told of tiles, where they are added up here. Raises
    CannotStart where there is no cluster to be had."""
    if machines.scheduler is None and machines.workers is None:
        from reunet.inference.budget import seconds_since_start
        from reunet.run.batch import segment_files

        yield from segment_files(
            found.images, output, model, options, resume=resume, tell=tell, labels=found.labels,
            start_up=seconds_since_start(),
        )  # fmt: skip
        return
    from reunet.run.distributed import segment_on_workers
    from reunet.run.workers import CannotDistribute, cluster

    device = machines.device
    try:
        with cluster(machines.scheduler, machines.workers) as client:
            yield from segment_on_workers(
                client,
                found.labels,
                output,
                model,
                options,
                device=device,
                resume=resume,
                tell=tell,
            )
    except CannotDistribute as error:
        raise CannotStart(str(error)) from error
