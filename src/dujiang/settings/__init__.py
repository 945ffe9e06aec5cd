"""Settings: what a user decides, read from dujiang.toml, DUJIANG_* and flags; all problems at once.

    declared    the one list of settings           resolved    Settings, SettingsRefused, resolve
    kinds       how a value is written             urls        one URL for each port; secrets masked
    sources     file, environment, flags           paths       folders that exist or can be made

There is no settings library: the ones looked at stop at the first source that fails, cannot name the line of a key, and
ignore the unknown. tests/unit/test_settings.py goes through the list of broken settings.
"""

from __future__ import annotations

from dujiang.settings.declared import SETTINGS, Declared
from dujiang.settings.resolved import Row, Settings, SettingsRefused, resolve
from dujiang.settings.sources import Problem
from dujiang.settings.urls import file_of, masked

__all__ = ["SETTINGS", "Declared", "Problem", "Row", "Settings", "SettingsRefused", "file_of", "masked", "resolve"]
