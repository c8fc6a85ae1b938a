"""What the author of a component imports: kinds, ports, parameters, the task at hand, and the registry."""

from unseen.component.kinds import ALIGNED_TABLE, MODEL, SOURCE, TABLE, Document, Kind, Shown, Source, Value
from unseen.component.packed import Packed
from unseen.component.registry import Registry, installed_components
from unseen.component.spec import Component, Input, Leak, Output, Params, Role, Task

__all__ = [
    "ALIGNED_TABLE",
    "MODEL",
    "SOURCE",
    "TABLE",
    "Component",
    "Document",
    "Input",
    "Kind",
    "Leak",
    "Output",
    "Packed",
    "Params",
    "Registry",
    "Role",
    "Shown",
    "Source",
    "Task",
    "Value",
    "installed_components",
]
