"""The command `reunet doctor`."""

import json
import sys
from pathlib import Path

import click

from reunet.cli_help import Taught
from reunet.cli_outputs import FOLDER

MARKS = {"fine": "ok   ", "note": "note ", "wrong": "WRONG"}


@click.command(cls=Taught, examples=["reunet doctor", "reunet doctor --json > doctor.json"])
@click.option("--weights", type=FOLDER, help="A bundle to look at.  [default: the shipped one]")
@click.option("--json", "as_json", is_flag=True, help="For machines: all facts, as JSON.")
def doctor(weights: Path | None, as_json: bool) -> None:
    """Say whether reunet works on this machine, how fast, and what to do where it does not.

    Versions, processor, device, weights and their hashes, cache, and a self-test of a few seconds.
    The exit code is 1 where something is wrong.
    """
    from reunet.doctor import examine, report
    from reunet.errors import one_line

    findings = []
    for finding in examine(weights):
        findings.append(finding)
        if not as_json:
            click.echo(one_line(f"{MARKS[finding.state]} {finding.name}: {finding.text}"))
            if finding.way_out:
                click.echo(one_line(f"      -> {finding.way_out}"))
    if as_json:
        click.echo(json.dumps(report(findings), indent=1))
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(1)
