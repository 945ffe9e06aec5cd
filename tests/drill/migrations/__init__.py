"""The migrations of the apps in `tests.drill.apps`."""
