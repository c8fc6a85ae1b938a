"""Networks that a program can name: their trainer, with changes of pictures, for inputs as files have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unseen.data.federated.clients import Array
from unseen.data.federated.digits import INK
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.process import Trainer
from unseen.rounds.parameters import construct, named, parameters
from unseen.rounds.program import Program


@dataclass(frozen=True, slots=True)
class Numbers:
    """Makes floats of what a network of a program takes."""

    ink: int | None
    """What integers are divided by; if ``None``, bytes by 255 and others by nothing."""

    def __call__(self, inputs: Array) -> Array:
        """Return 32-bit floats.

        Raises:
            DataError: They are no numbers.
        """
        if inputs.dtype.kind not in "fiub":
            raise DataError(f"model: inputs are {inputs.dtype}, and the networks of programs take numbers")
        ink = self.ink or (255 if inputs.dtype == np.uint8 else 1)
        return inputs.astype(np.float32) / np.float32(1 if inputs.dtype.kind == "f" else ink)


def build_trainer(program: Program) -> Trainer:
    """Return the trainer of a program's model.

    Raises:
        UsageError: There is no such model or augmentation, or it has no such parameter.
    """
    try:
        from unseen.learners.horizontal.neural import augment, registry, trainer  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"model: networks need the extra torch ({error}): pip install 'unseen[torch]'") from error
    section = program.model
    build = partial(construct, named(registry.MODELS, section.name, "model"), section.parameters, "model")
    _check_model(build, section.parameters)
    changes = [_change(registry.AUGMENTS, name, given) for name, given in section.augment.items()]
    return trainer.TorchTrainer(
        build,
        convert=Numbers(INK if program.data.source == "digits" else None),
        augment=augment.one_after_the_other(*changes) if len(changes) > 1 else next(iter(changes), None),
    )


def _check_model(build: Callable[[], object], given: Mapping[str, Any]) -> None:
    """Pass if a model can be built.

    Raises:
        UsageError: It cannot: a size is not positive, or too small for the layers.
    """
    numbers = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    if small := [key for key, own in numbers.items() if any(isinstance(one, int) and one < 1 for one in own)]:
        raise UsageError(f"model.{small[0]}: sizes are at least 1, found {given[small[0]]}")
    try:
        build()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"model: it cannot be built with {dict(given)}: {error}") from error


def _change(known: Mapping[str, Callable[..., Any]], name: str, given: float | Mapping[str, float]) -> Any:
    constructor, where = named(known, name, "model.augment"), f"model.augment.{name}"
    if not isinstance(given, Mapping):
        given = {next(iter(parameters(constructor))): given}
    # A file that says 1 means 1.0 and the other way round.
    whole = {key: int(value) if float(value).is_integer() else value for key, value in given.items()}
    return construct(constructor, whole, where)
