"""A click group that imports a branch of the command tree only when it is used."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from appliance.cli.noun import Noun


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a noun's command lives ("package.module:attribute"), and its line in the help.

    With a `noun`, a function lives there that makes the command of that noun.
    """

    where: str
    about: str
    noun: Noun | None = None


class LazyGroup(click.Group):
    def __init__(self, *, branches: Mapping[str, Branch], **attributes: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(**attributes)
        self._branches = branches

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._branches})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._branches:
            return super().get_command(ctx, cmd_name)
        branch = self._branches[cmd_name]
        module, _, attribute = branch.where.partition(":")
        found: Any = getattr(importlib.import_module(module), attribute)
        command: click.Command = found if branch.noun is None else found(branch.noun)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the branches from their declarations, importing none."""
        rows = [(name, branch.about) for name, branch in sorted(self._branches.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
