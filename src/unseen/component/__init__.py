"""What the author of a component imports: kinds, ports, parameters, the task at hand, and the registry."""

from unseen.component.kinds import ALIGNED_TABLE, SOURCE, TABLE, Document, Kind, Source, Value
from unseen.component.registry import Registry, installed_components
from unseen.component.spec import Component, Input, Leak, Output, Params, Role, Task

__all__ = [
    "ALIGNED_TABLE",
    "SOURCE",
    "TABLE",
    "Component",
    "Document",
    "Input",
    "Kind",
    "Leak",
    "Output",
    "Params",
    "Registry",
    "Role",
    "Source",
    "Task",
    "Value",
    "installed_components",
]
