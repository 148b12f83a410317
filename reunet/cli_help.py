"""Help that teaches: options in groups, and an example a command."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

OTHERS = "Others"


class Taught(click.Command):
    """A command whose help shows its options in groups, and examples.

    groups: names of parameters by the title of their group, in the order in which they are shown;
    what no group names comes last. examples: command lines, with a comment behind `#` if need be.
    """

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        examples: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.groups, self.examples = dict(groups or {}), tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Overrides click's single list."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        lines = {option.name or "": option.get_help_record(ctx) for option in options}
        shown = {name: line for name, line in lines.items() if line}
        grouped = {name for names in self.groups.values() for name in names}
        rest = [name for name in shown if name not in grouped]
        title = OTHERS if self.groups else "Options"
        for heading, names in {**self.groups, title: rest}.items():
            rows = [shown[name] for name in names if name in shown]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, one a line, as they are typed."""
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        super().format_epilog(ctx, formatter)
