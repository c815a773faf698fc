"""Settings of every test."""

import pytest

# Seconds: the longest of the default run takes some two minutes. Slow tests have the limit of pyproject.toml.
LIMIT = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test runs on for ever: a loop that does not end is a failure with a traceback, not a stopped machine."""
    for item in items:
        if not item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT))
