"""Command: what all commands share: flags that may stand once, the options of the settings, the app's name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from dujiang.settings import Settings

DEFAULT_APP = "dujiang.systems.shop:app"

AppName = Annotated[str, typer.Argument(metavar="APP", help="The application, as module:attribute.")]
DataFlag = Annotated[str | None, typer.Option("--data", metavar="FOLDER", help="Folder of the embedded store.")]
ConfigFlag = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file instead of ./dujiang.toml.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, on errors too.")]


class Strict(TyperCommand):
    """A command that refuses a flag given twice, where others silently take the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after counting how often each option stands."""
        refuse_twice(self, ctx, args)
        return super().parse_args(ctx, args)


class StrictGroup(TyperGroup):
    """A group of commands with options of its own, which may stand once too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after counting how often each option stands."""
        refuse_twice(self, ctx, args)
        return super().parse_args(ctx, args)


def refuse_twice(command: Any, ctx: Any, args: list[str]) -> None:
    """Raise BadParameter for an option that stands twice."""
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    for flag, count in Counter(p.opts[0] for p in order if p.param_type_name == "option").items():
        if count > 1:
            raise typer.BadParameter("given twice", ctx=ctx, param_hint=f"'{flag}'")


def settings_of(config: Path | None, **overrides: Any) -> Settings:
    """The settings of a command that runs in the current folder. Raises SettingsRefused."""
    from dujiang.settings import resolve  # noqa: PLC0415  (`--help` does not pay for it)

    return resolve(overrides, file=config)
