"""Finds the installed components, ours and others', through Python's entry points.

A package offers components in its ``pyproject.toml``, and nothing runs until they are asked for::

    [project.entry-points."unseen.components"]
    my_step = "my_package.my_module:COMPONENT"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TypeAlias

from unseen.component.spec import Component
from unseen.errors import UsageError

GROUP = "unseen.components"

Registry: TypeAlias = Mapping[str, Component]


@cache
def installed_components() -> Registry:
    """Return every installed component by name.

    Raises:
        UsageError: Two packages offer the same name, or an entry point cannot be loaded or is not a component.
    """
    found: dict[str, Component] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            component = point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"the component {point.name} = {point.value} cannot be loaded: {error}") from error
        if not isinstance(component, Component) or component.name != point.name:
            raise UsageError(f"entry point {point.name} = {point.value} is not a component of that name")
        if found.setdefault(point.name, component) is not component:
            raise UsageError(f"two packages offer the component {point.name}: uninstall one of them")
    return found
