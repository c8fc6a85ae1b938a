import multiprocessing

import numpy as np
import plain
import pytest
import torch
from plain import SMALL, pictures, texts
from torch import nn

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.neural import models
from unseen.learners.horizontal.neural.augment import Shift
from unseen.learners.horizontal.neural.batches import as_integers
from unseen.learners.horizontal.neural.engines import Autograd, Chain, LinearSoftmax
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Correction, Examples, LocalPlan, stream

PLAIN = LocalPlan(learning_rate=0.1, epochs=2, batch=8)
RICH = LocalPlan(learning_rate=0.05, epochs=3, batch=8, momentum=0.9, weight_decay=0.01, steps=7)
NOTHING = Correction()

MODELS = {
    "tutorial": (lambda: models.tutorial_cnn(SMALL), Chain),
    "bigger": (lambda: models.bigger_cnn(SMALL, dropout=0.0), Chain),
    "niid": (lambda: models.niid_cnn(models.Pictures(1, 20, 5)), Chain),
    "perceptron": (lambda: models.perceptron(196, (20, 30), 5), Chain),
    "logistic": (lambda: models.logistic_regression(196, 5), LinearSoftmax),
    "batch norm": (lambda: models.normalised_cnn(SMALL), Autograd),
    "group norm": (lambda: models.normalised_cnn(SMALL, "group"), Autograd),
    "transformer": (lambda: models.CharacterTransformer(11, 9, 16, 2, 1), Autograd),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    TorchTrainer(lambda: nn.Linear(1, 2)).settle()
    yield
    torch.set_num_threads(before)


def trainer_of(name, **options):
    build, _ = MODELS[name]
    if name == "transformer":
        options["convert"] = as_integers
    return TorchTrainer(build, **options)


def examples_of(name):
    return texts() if name == "transformer" else pictures(side=20 if name == "niid" else 14)


def frozen(array):
    array.setflags(write=False)
    return array


def corrected(size, seed=3):
    rng = np.random.default_rng(seed)
    anchor, drift = (0.05 * rng.standard_normal((2, size))).astype(np.float32)
    return Correction(pull=0.3, anchor=anchor, drift=drift)


# --- the same as plain PyTorch


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", [PLAIN, RICH], ids=["plain", "momentum and decay"])
@pytest.mark.parametrize("correct", [False, True], ids=["free", "corrected"])
def test_training_equals_autograd_and_sgd(name, plan, correct):
    trainer, examples = trainer_of(name), examples_of(name)
    assert type(trainer._engine) is MODELS[name][1]
    model = trainer.initial(1)
    correction = corrected(trainer.size) if correct else NOTHING
    fit = trainer.fit(model, examples, plan, stream(0, "rng"), correction)
    expected, loss = plain.trained(
        MODELS[name][0], trainer, examples, plan, stream(0, "rng"), model=model, correction=correction
    )
    np.testing.assert_allclose(fit.model, expected, rtol=2e-4, atol=2e-5)
    assert np.abs(fit.model - expected).mean() < 1e-6
    assert fit.loss == pytest.approx(loss, rel=1e-5)
    assert not np.allclose(fit.model, model, atol=1e-3)


def test_steps_count_minibatches_and_the_limit_may_end_an_epoch():
    trainer, examples = trainer_of("logistic"), pictures(30)
    model = trainer.initial(0)
    plans = {LocalPlan(epochs=2, batch=8): 8, LocalPlan(epochs=2, batch=8, steps=5): 5, LocalPlan(batch=100): 1}
    for plan, steps in plans.items():
        fit = trainer.fit(model, examples, plan, stream(0), NOTHING)
        expected, loss = plain.trained(MODELS["logistic"][0], trainer, examples, plan, stream(0), model=model)
        assert fit.steps == steps
        assert fit.loss == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(fit.model, expected, atol=1e-6)


@pytest.mark.parametrize(("classes", "count", "batch"), [(2, 7, 3), (3, 9, 4), (5, 13, 13), (1, 5, 2)], ids=str)
def test_linear_models_of_any_size_equal_plain_torch(classes, count, batch):
    build = lambda: nn.Linear(9, classes)
    rng = np.random.default_rng(0)
    examples = Examples(rng.standard_normal((count, 9), np.float32), rng.integers(0, classes, count))
    trainer, plan = TorchTrainer(build), LocalPlan(0.3, 2, batch, weight_decay=0.1)
    fit = trainer.fit(trainer.initial(2), examples, plan, stream(1), NOTHING)
    expected, loss = plain.trained(build, trainer, examples, plan, stream(1), model=trainer.initial(2))
    np.testing.assert_allclose(fit.model, expected, rtol=1e-5, atol=1e-6)
    assert fit.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy"])
def test_other_losses_equal_plain_torch(loss):
    build = lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    rng = np.random.default_rng(0)
    examples = Examples(rng.standard_normal((20, 6), np.float32), rng.integers(0, 2, 20).astype(np.float32))
    trainer = TorchTrainer(build, loss=loss)
    assert type(trainer._engine) is Chain
    functions = {
        "squared_error": nn.functional.mse_loss,
        "binary_cross_entropy": nn.functional.binary_cross_entropy_with_logits,
    }
    expected, value = plain.trained(
        build,
        trainer,
        examples,
        PLAIN,
        stream(0),
        model=trainer.initial(0),
        loss=lambda o, y: functions[loss](o[:, 0], y),
    )
    fit = trainer.fit(trainer.initial(0), examples, PLAIN, stream(0), NOTHING)
    np.testing.assert_allclose(fit.model, expected, atol=1e-6)
    assert fit.loss == pytest.approx(value, rel=1e-5)
    assert set(trainer.evaluate(fit.model, examples)) == {
        "loss",
        {"squared_error": "absolute_error"}.get(loss, "accuracy"),
    }


def test_gradient_and_evaluation_are_means_over_all_examples_whatever_the_chunks():
    trainer, examples = trainer_of("tutorial"), pictures(1203)
    model = trainer.initial(0)
    module = plain.module_of(MODELS["tutorial"][0], trainer, model)
    outputs = module(torch.tensor(examples.inputs / np.float32(255)))
    loss = nn.functional.cross_entropy(outputs, torch.tensor(examples.labels))
    loss.backward()
    gradient, value = trainer.gradient(model, examples)
    expected = np.concatenate([parameter.grad.numpy().ravel() for parameter in module.parameters()])
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    metrics = trainer.evaluate(model, examples)
    right = (outputs.argmax(1).numpy() == examples.labels).mean()
    assert metrics == pytest.approx({"loss": loss.item(), "accuracy": right}, rel=1e-5)


@pytest.mark.parametrize("name", ["niid", "logistic", "group norm", "transformer"])
def test_gradients_of_examples_are_each_ones_own_and_their_mean_is_the_gradient(name):
    trainer, examples = trainer_of(name), examples_of(name)
    model = trainer.fit(trainer.initial(0), examples, PLAIN, stream(0), NOTHING).model
    rows = np.concatenate(list(trainer.example_gradients(model, examples)))
    assert rows.shape == (len(examples), trainer.size)
    np.testing.assert_allclose(rows.mean(0), trainer.gradient(model, examples)[0], rtol=1e-3, atol=2e-6)
    third = Examples(examples.inputs[3:4], examples.labels[3:4])
    np.testing.assert_allclose(rows[3], trainer.gradient(model, third)[0], rtol=1e-3, atol=2e-6)


# --- buffers, frozen and shared parameters


def test_buffers_of_batch_normalisation_are_part_of_the_model():
    trainer, examples = trainer_of("batch norm"), pictures()
    model = trainer.initial(0)
    fit = trainer.fit(model, examples, LocalPlan(batch=10, epochs=2), stream(0), NOTHING)
    means, count = trainer.part("norm1.running_mean"), trainer.part("norm1.num_batches_tracked")
    assert (model[means] == 0).all()
    assert np.abs(fit.model[means]).min() > 0
    assert fit.model[count].tolist() == [6.0]
    still = trainer.gradient(fit.model, examples)[0]
    assert (still[means] == 0).all()
    changed = fit.model.copy()
    changed[means] += 1
    assert trainer.evaluate(changed, examples)["loss"] != trainer.evaluate(fit.model, examples)["loss"]
    before = trainer.evaluate(fit.model, examples)
    assert trainer.evaluate(fit.model, examples) == before


def test_frozen_parameters_stay_and_shared_ones_are_one():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.second.weight = self.first.weight
            self.third.requires_grad_(False)

        def forward(self, x):
            return self.third(torch.tanh(self.second(self.first(x))))

    rng = np.random.default_rng(0)
    examples = Examples(rng.standard_normal((9, 4), np.float32), rng.integers(0, 3, 9))
    trainer = TorchTrainer(Model)
    assert trainer.size == 16 + 4 + 4 + 12 + 3
    model = trainer.initial(0)
    plan = LocalPlan(0.5, 3, 4, momentum=0.5, weight_decay=0.1)
    fit = trainer.fit(model, examples, plan, stream(0), NOTHING)
    third = trainer.part("third")
    assert (fit.model[third] == model[third]).all()
    assert (fit.model[trainer.part("first.weight")] != model[trainer.part("first.weight")]).all()
    module = trainer._flat.module
    assert module.first.weight is module.second.weight


def test_the_module_goes_on_living_in_the_flat_vector():
    for name in ("tutorial", "batch norm"):
        trainer, examples = trainer_of(name), pictures()
        fit = trainer.fit(trainer.initial(0), examples, RICH, stream(0), NOTHING)
        flat = trainer._flat
        begin, end = flat.vector.data_ptr(), flat.vector.data_ptr() + 4 * trainer.size
        tensors = flat.module.state_dict()
        assert all(begin <= tensor.data_ptr() < end for tensor in tensors.values())
        found = np.concatenate([tensors[key].numpy().ravel() for key in trainer.shapes])
        assert (found == fit.model).all()


def test_parts_are_found_by_the_beginnings_of_names():
    trainer = trainer_of("tutorial")
    size = 32 * 9 + 32
    assert trainer.part("conv") == slice(0, size)
    assert trainer.part("head.bias") == slice(trainer.size - 5, trainer.size)
    apart = trainer.part("conv", "head.bias")
    assert apart.tolist() == [*range(size), *range(trainer.size - 5, trainer.size)]
    assert not len(trainer.part("nobody"))


# --- nothing else is changed, everything can be repeated


@pytest.mark.parametrize("name", MODELS)
def test_inputs_stay_as_they_are(name):
    trainer, examples = trainer_of(name), examples_of(name)
    model = frozen(trainer.initial(0))
    frozen(examples.inputs)
    frozen(examples.labels)
    generator = torch.get_rng_state()
    first = trainer.fit(model, examples, PLAIN, stream(0), NOTHING)
    kept = first.model.copy()
    trainer.fit(trainer.initial(5), examples, RICH, stream(1), corrected(trainer.size))
    trainer.gradient(model, examples)
    trainer.evaluate(model, examples)
    assert (first.model == kept).all()
    assert (model == trainer.initial(0)).all()
    assert (generator == torch.get_rng_state()).all()


def build_with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 20), nn.Tanh(), nn.Dropout(0.5), nn.Linear(20, 5))


def build_chain_with_dropout():
    return models.bigger_cnn(SMALL, dropout=0.3)


@pytest.mark.parametrize(
    "build",
    [build_with_dropout, build_chain_with_dropout, MODELS["tutorial"][0], MODELS["logistic"][0]],
    ids=["autograd", "chain", "tutorial", "logistic"],
)
def test_the_same_seed_gives_the_same_bits_in_any_process_and_after_any_other_work(build):
    examples, other = pictures(), pictures(23, seed=9)
    augment = Shift(1)

    def play(busy):
        trainer = TorchTrainer(build, augment=augment)
        trainer.settle()
        if busy:
            np.random.default_rng(1).permutation(1000)
            torch.rand(3)
            trainer.fit(trainer.initial(4), other, RICH, stream(7), corrected(trainer.size))
        return trainer.fit(trainer.initial(0), examples, PLAIN, stream(5, "client"), NOTHING)

    def in_process(pipe):
        pipe.send(play(busy=True).model)

    alone = play(busy=False)
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(theirs,))
    process.start()
    assert mine.poll(20)
    assert (mine.recv() == alone.model).all()
    process.join()
    trainer = TorchTrainer(build, augment=augment)
    differs = trainer.fit(trainer.initial(0), examples, PLAIN, stream(6, "client"), NOTHING)
    assert (differs.model != alone.model).any()


def test_dropout_acts_in_training_alone_and_keeps_the_mean():
    build = lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(1000, 2, bias=True))
    trainer = TorchTrainer(build)
    assert type(trainer._engine) is Chain
    examples = Examples(np.ones((50, 1000), np.float32), np.zeros(50, np.int64))
    model = np.zeros(trainer.size, np.float32)
    fit = trainer.fit(model, examples, LocalPlan(1.0, 1, 50), stream(0), NOTHING)
    step = fit.model[:1000]  # ½ · the mean over examples of 0 or 2
    assert 0.05 < step.std() < 0.1
    assert step.mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(trainer.gradient(model, examples)[0][:1000], -0.5, rtol=1e-5)


def test_initial_models_depend_on_the_seed_alone():
    trainer = trainer_of("tutorial")
    assert (trainer.initial(1) == trainer_of("tutorial").initial(1)).all()
    assert (trainer.initial(1) != trainer.initial(2)).any()


# --- what is refused


def test_wrong_examples_are_named():
    trainer = trainer_of("tutorial")
    model, good = trainer.initial(0), pictures()

    def fit(inputs, labels, model=model):
        trainer.fit(model, Examples(inputs, labels), PLAIN, stream(0), NOTHING)

    with pytest.raises(DataError, match="from 0 to 4, as the model has 5 outputs, found 0 to 5"):
        fit(good.inputs, np.arange(30) % 6)
    with pytest.raises(DataError, match="count from 0, found -100"):
        fit(good.inputs, np.full(30, -100))
    with pytest.raises(DataError, match="integers, found float"):
        fit(good.inputs, good.labels.astype(np.float32))
    with pytest.raises(DataError, match=r"labels of shape \(8,\)"):
        fit(good.inputs, np.zeros((30, 2), np.int64))
    with pytest.raises(DataError, match="30 inputs have 29 labels"):
        fit(good.inputs, good.labels[1:])
    with pytest.raises(DataError, match="no examples"):
        fit(good.inputs[:0], good.labels[:0])
    with pytest.raises(DataError, match="expects 1152 numbers"):
        fit(np.zeros((30, 16, 16), np.uint8), good.labels)
    with pytest.raises(DataError, match="does not take inputs of shape"):
        fit(np.zeros((30, 3, 14, 14), np.uint8), good.labels)
    with pytest.raises(DataError, match=rf"{trainer.size} numbers, found a vector of shape \(3,\)"):
        fit(good.inputs, good.labels, np.zeros(3, np.float32))
    with pytest.raises(DataError, match="no examples"):
        trainer.evaluate(model, Examples(good.inputs[:0], good.labels[:0]))


@pytest.mark.parametrize("name", ["logistic", "perceptron", "batch norm", "transformer", "bigger"])
def test_all_engines_refuse_shapes_and_labels_that_do_not_fit(name):
    trainer, good = trainer_of(name), examples_of(name)
    wide = Examples(good.inputs[:, :5], good.labels)
    if name != "transformer":
        with pytest.raises(DataError, match=r"expect|take"):
            trainer.fit(trainer.initial(0), wide, PLAIN, stream(0), NOTHING)
        with pytest.raises(DataError, match=r"expect|take"):
            trainer.evaluate(trainer.initial(0), wide)
    far = Examples(good.inputs, good.labels + 50)
    for act in (
        lambda: trainer.fit(trainer.initial(0), far, PLAIN, stream(0), NOTHING),
        lambda: trainer.gradient(trainer.initial(0), far),
        lambda: trainer.evaluate(trainer.initial(0), far),
        lambda: list(trainer.example_gradients(trainer.initial(0), far)),
    ):
        with pytest.raises(DataError):
            act()


def test_corrections_of_another_model_are_refused():
    trainer, examples = trainer_of("logistic"), pictures()
    for correction in (Correction(drift=np.zeros(4, np.float32)), Correction(1.0, anchor=np.zeros(4, np.float32))):
        with pytest.raises(UsageError, match=r"has shape \(4,\), expected \(985,\)"):
            trainer.fit(trainer.initial(0), examples, PLAIN, stream(0), correction)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(UsageError, match="nothing to train"):
        TorchTrainer(nn.ReLU)
    with pytest.raises(UsageError, match=r"weight is of torch\.float64"):
        TorchTrainer(lambda: nn.Linear(2, 2).double())
    with pytest.raises(UsageError, match="no loss 'hinge'"):
        TorchTrainer(lambda: nn.Linear(2, 2), loss="hinge")
    with pytest.raises(UsageError, match="no metric 'f1'"):
        TorchTrainer(lambda: nn.Linear(2, 2), metrics=("f1",))
    with pytest.raises(UsageError, match="no normalisation 'layer'"):
        models.normalised_cnn(norm="layer")
