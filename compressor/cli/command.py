"""A command whose help has headings over its options, and ends with an example and a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class Command(click.Command):
    """``groups``: headings and the names of the options below; the others stand under "Options"."""

    def __init__(
        self,
        *arguments: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        example: str,
        page: str,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.groups, self.example, self.page = groups or {}, example, page

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        options = [each for each in self.get_params(context) if isinstance(each, click.Option)]
        rows = {option.name: row for option in options if (row := option.get_help_record(context))}
        for heading, names in self.groups.items():
            with formatter.section(heading):
                formatter.write_dl([rows.pop(name) for name in names])
        with formatter.section("Options" if not self.groups else "Help"):
            formatter.write_dl([*rows.values()])

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(f"Example: {self.example}")
        formatter.write_text(f"Documentation: compress docs {self.page}")
