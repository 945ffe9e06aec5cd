"""`dujiang routes`: every route of an application, and the handler behind it."""

from pathlib import Path

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, JsonFlag, settings_of
from dujiang.cli.output import say_json, say_table

COLUMNS = ("method", "path", "kind", "handler", "name")


def routes(app: AppName = DEFAULT_APP, *, as_json: JsonFlag = False, config: ConfigFlag = None) -> int:
    """List the routes of an application."""
    from dujiang.app import Runtime  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415

    settings = settings_of(config)
    found = Runtime(load_app(app, folder=Path.cwd()), settings).routes()
    rows = [{column: getattr(row, column) for column in COLUMNS} for row in found]
    if as_json:
        say_json({"routes": rows})
    else:
        say_table(COLUMNS, [list(row.values()) for row in rows])
    return 0
