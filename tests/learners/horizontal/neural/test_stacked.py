import numpy as np
import plain
import pytest
import torch
from plain import SMALL, pictures, texts
from torch import nn

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.neural import models
from unseen.learners.horizontal.neural.augment import Flip
from unseen.learners.horizontal.neural.batches import as_integers
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Correction, Examples, LocalPlan, stream

SIZES = (30, 7, 16, 21)
BUILDS = {
    "logistic": lambda: models.logistic_regression(196, 5),
    "tutorial": lambda: models.tutorial_cnn(SMALL),
    "group norm": lambda: models.normalised_cnn(SMALL, "group"),
    "transformer": lambda: models.CharacterTransformer(11, 9, 16, 2, 1),
}


def group(trainer, name, corrected):
    rng, found = np.random.default_rng(0), []
    for number, size in enumerate(SIZES):
        examples = texts(size, seed=number) if name == "transformer" else pictures(size, seed=number)
        anchor, drift = (0.05 * rng.standard_normal((2, trainer.size))).astype(np.float32)
        correction = Correction(0.2, anchor, drift) if corrected and number != 1 else Correction()
        found.append((examples, correction))
    return found


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(
    "plan",
    [LocalPlan(0.1, 2, 8), LocalPlan(0.05, 3, 8, momentum=0.9, weight_decay=0.01, steps=7)],
    ids=["plain", "momentum and decay"],
)
def test_a_group_is_trained_as_each_client_alone(name, plan):
    trainer = TorchTrainer(BUILDS[name], **({"convert": as_integers} if name == "transformer" else {}))
    trainer.settle()
    clients, model = group(trainer, name, corrected=plan.momentum > 0), trainer.initial(0)
    found = trainer.fit_many(model, plan, [(one, stream(0, n), correct) for n, (one, correct) in enumerate(clients)])
    for number, ((examples, correction), fit) in enumerate(zip(clients, found, strict=True)):
        alone = trainer.fit(model, examples, plan, stream(0, number), correction)
        np.testing.assert_allclose(fit.model, alone.model, rtol=2e-4, atol=2e-5)
        assert fit.steps == alone.steps
        assert fit.loss == pytest.approx(alone.loss, rel=1e-4)
    assert (model == trainer.initial(0)).all()


def test_what_cannot_be_trained_in_groups_is_refused():
    plan, examples = LocalPlan(), pictures()
    everyone = [(examples, stream(0), Correction())]
    normalised = TorchTrainer(lambda: models.normalised_cnn(SMALL))
    with pytest.raises(UsageError, match="one client at a time"):
        normalised.fit_many(normalised.initial(0), plan, everyone)
    augmented = TorchTrainer(BUILDS["tutorial"], augment=Flip())
    with pytest.raises(UsageError, match="one client at a time"):
        augmented.fit_many(augmented.initial(0), plan, everyone)
    trainer = TorchTrainer(BUILDS["tutorial"])
    for wrong in (
        Examples(examples.inputs[:, 1:], examples.labels),
        Examples(examples.inputs, examples.labels + 9),
        Examples(examples.inputs, examples.labels[1:]),
    ):
        with pytest.raises(DataError):
            trainer.fit_many(trainer.initial(0), plan, [(wrong, stream(0), Correction())])


def test_dropout_differs_from_client_to_client_and_is_repeatable():
    trainer = TorchTrainer(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(50, 2)))
    examples = Examples(np.ones((4, 50), np.float32), np.zeros(4, np.int64))

    def play():
        everyone = [(examples, stream(0), Correction()), (examples, stream(0), Correction())]
        return trainer.fit_many(np.zeros(trainer.size, np.float32), LocalPlan(batch=4), everyone)

    before = torch.get_rng_state()
    first, second = play()
    assert (first.model != second.model).any()
    assert (play()[0].model == first.model).all()
    assert (before == torch.get_rng_state()).all()


def test_groups_are_for_small_models_that_autograd_trains():
    small = lambda: nn.Sequential(nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2))
    assert TorchTrainer(small).group > 1
    assert TorchTrainer(small, augment=Flip()).group == 1
    assert TorchTrainer(BUILDS["logistic"]).group == TorchTrainer(BUILDS["tutorial"]).group == 1
    assert TorchTrainer(lambda: nn.Sequential(nn.Linear(9, 200), nn.Tanh(), nn.Linear(200, 99))).group == 1
    assert TorchTrainer(lambda: models.normalised_cnn(SMALL)).group == 1


def test_plain_torch_agrees():
    trainer = TorchTrainer(BUILDS["tutorial"])
    model, examples, plan = trainer.initial(0), pictures(), LocalPlan(0.1, 1, 8)
    (fit,) = trainer.fit_many(model, plan, [(examples, stream(0), Correction())])
    expected, _ = plain.trained(BUILDS["tutorial"], trainer, examples, plan, stream(0), model=model)
    np.testing.assert_allclose(fit.model, expected, atol=1e-5)
