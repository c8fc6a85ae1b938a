import hashlib

import numpy as np
import pytest

from unseen.data.federated.notation import parse_partitioner
from unseen.data.federated.partition import (
    Dirichlet,
    DirichletPerLabel,
    DirichletSizes,
    DirichletWithOverlap,
    Iid,
    LabelsPerClient,
    PowerLaw,
    Shards,
    benchmark_partition,
    by_key,
    deal,
)
from unseen.errors import DataError, UsageError

EXACT = [
    Iid(),
    Dirichlet(0.5),
    Dirichlet(0.01),
    DirichletPerLabel(0.5, minimum=1),
    Shards(2),
    LabelsPerClient(3),
    PowerLaw(1.2),
    DirichletSizes(0.5),
]
EQUAL = (Iid, Dirichlet)


def skewed(count=1003, kinds=10, seed=3):
    """Labels, some more frequent than others, in no order."""
    chances = np.arange(1, kinds + 1) / np.arange(1, kinds + 1).sum()
    return np.random.default_rng(seed).choice(kinds, count, p=chances)


def dealt(how, labels, clients, seed=0):
    return deal((np.arange(len(labels)), labels), how, clients, seed=seed)


def digest(rows):
    return hashlib.sha256(b"".join(own.astype("<i8").tobytes() + b"|" for own in rows)).hexdigest()


# --- what all of them promise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EXACT, ids=repr)
def test_every_example_goes_to_one_client_and_every_client_gets_one(how):
    labels = skewed()
    data = dealt(how, labels, 37)
    rows = np.concatenate([data.client(client).inputs for client in data.ids])
    assert sorted(rows.tolist()) == list(range(len(labels)))
    assert sum(data.sizes) == len(labels)
    assert min(data.sizes) >= 1
    for client in data.ids:
        inputs, own = data.client(client)
        assert own.tolist() == labels[inputs].tolist()
        assert inputs.tolist() == sorted(inputs.tolist())


@pytest.mark.parametrize("how", EXACT, ids=repr)
def test_the_seed_decides(how):
    def rows(seed):
        return digest(how(skewed(), 12, np.random.default_rng(seed)))

    assert rows(7) == rows(7)
    assert rows(7) != rows(8)


@pytest.mark.parametrize("how", [how for how in EXACT if isinstance(how, EQUAL)], ids=repr)
def test_equal_sizes_differ_by_one_at_most(how):
    assert sorted(dealt(how, skewed(), 37).sizes) == [27] * 33 + [28] * 4


@pytest.mark.parametrize("how", [*EXACT, DirichletWithOverlap()], ids=repr)
def test_as_many_clients_as_asked_for_with_sortable_names(how):
    data = dealt(how, skewed(4000), 11)
    assert data.ids == tuple(f"c{number:04d}" for number in range(11))


@pytest.mark.parametrize("how", [how for how in EXACT if not isinstance(how, LabelsPerClient)], ids=repr)
def test_one_client_gets_everything(how):
    assert dealt(how, skewed(50), 1).sizes == (50,)


def test_texts_are_labels_too():
    labels = np.array(["cat", "dog", "cat", "cow"] * 25)
    assert dealt(LabelsPerClient(1), labels, 3).spread().held.tolist() == [1, 1, 1]


# --- what each does --------------------------------------------------------------------------------------------------


def test_iid_clients_are_alike():
    assert dealt(Iid(), skewed(20_000), 20).spread().distances.max() < 0.06


@pytest.mark.parametrize("how", [Dirichlet(0.3), DirichletWithOverlap(0.3, 100, 100)], ids=repr)
def test_label_shares_vary_as_a_dirichlet_multinomial_does(how):
    labels = np.arange(100_000) % 10
    found = how(labels, 1000, np.random.default_rng(2))
    # The first half only: without repetition, the last ones take what is left.
    counts = np.array([np.bincount(labels[rows], minlength=10) for rows in found[:500]])
    size, total = 100, 10 * 0.3
    expected = size * 0.1 * 0.9 * (size + total) / (1 + total)
    assert counts.var() == pytest.approx(expected, rel=0.08)


def test_a_dirichlet_mix_follows_frequent_labels():
    labels = np.repeat([0, 1], [9000, 1000])
    found = Dirichlet(5.0)(labels, 100, np.random.default_rng(0))
    assert np.mean([labels[rows].mean() for rows in found[:50]]) == pytest.approx(0.1, abs=0.02)


def test_an_alpha_near_nothing_gives_one_label_each():
    labels = np.arange(1000) % 10
    data = dealt(Dirichlet(1e-4), labels, 10)
    assert data.spread().held.tolist() == [1] * 10
    assert data.sizes == (100,) * 10


def test_labels_divided_by_a_draw_are_those_of_the_published_tables():
    # Equal, for this seed, to what Flower's niid_bench does with MNIST's 60,000 rows; compared with its code by hand.
    rows = DirichletPerLabel(0.5)(np.arange(60_000) % 10, 10, np.random.default_rng(42))
    sizes = [len(own) for own in rows]
    assert min(sizes) >= 10
    assert digest(rows) == "02ae25e2314f973ca7716023f6c3ad9e1ca2e85d83351cdbf032844ebf0aae7d"


def test_divided_labels_leave_nobody_below_the_minimum():
    data = dealt(DirichletPerLabel(0.3, minimum=40), skewed(2000), 20)
    assert min(data.sizes) >= 40
    with pytest.raises(UsageError, match="never did all of 20 clients get 90 of 2000 examples"):
        dealt(DirichletPerLabel(0.05, minimum=90), skewed(2000), 20)


def test_shards_are_cut_from_sorted_examples():
    labels = skewed(6000)
    data = dealt(Shards(2), labels, 10)
    assert data.sizes == (600,) * 10
    order = np.argsort(labels, kind="stable").reshape(20, 300)
    shard_of = {row: number for number, shard in enumerate(order) for row in shard.tolist()}
    held = [{shard_of[row] for row in data.client(client).inputs.tolist()} for client in data.ids]
    assert all(len(shards) == 2 for shards in held)
    assert len(set.union(*held)) == 20


@pytest.mark.parametrize(("clients", "count"), [(4, 3), (10, 2), (37, 3), (12, 1), (5, 10)])
def test_each_client_has_exactly_so_many_labels(clients, count):
    labels = skewed(3000)
    data = dealt(LabelsPerClient(count), labels, clients)
    spread = data.spread()
    assert spread.held.tolist() == [count] * clients
    for number in range(10):
        shares = spread.counts[:, number][spread.counts[:, number] > 0]
        assert shares.max() - shares.min() <= 1


def test_sizes_fall_as_a_power_of_their_rank():
    sizes = sorted(dealt(PowerLaw(1.5), np.zeros(10_000, int), 50).sizes, reverse=True)
    law = np.arange(1, 51) ** -1.5
    assert np.abs(np.array(sizes) - (1 + law / law.sum() * 9950)).max() <= 1
    orders = {dealt(PowerLaw(1.5), np.zeros(1000, int), 50, seed=seed).sizes for seed in range(3)}
    assert len(orders) == 3


def test_sizes_of_a_dirichlet_draw_are_unlike():
    few, many = (dealt(DirichletSizes(alpha), skewed(5000), 50).sizes for alpha in (0.1, 100.0))
    assert np.std(few) > 5 * np.std(many)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def one_by_one(labels, clients, seed):
    """The benchmark's partition as its peers draw it: every image by a call of its own."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in range(10)]
    for _ in range(clients):
        size = int(rng.integers(80, 121))
        mix = rng.dirichlet([1.0] * 10)
        drawn = rng.choice(10, size, p=mix)
        yield np.array([rows[label][rng.integers(len(rows[label]))] for label in drawn])


@pytest.mark.parametrize("seed", [0, 9])
def test_the_benchmark_partition_is_that_of_its_peers_bit_for_bit(seed):
    labels = skewed(60_000)
    expected = list(one_by_one(labels, 60, seed))
    found = benchmark_partition(labels, 60, seed=seed)
    assert digest(found) == digest(expected)


def test_the_benchmark_partition_stays_what_it_is():
    found = benchmark_partition(np.arange(60_000) % 10)
    sizes = np.array([len(rows) for rows in found])
    assert len(found) == 3383
    assert (sizes.min(), sizes.max()) == (80, 120)
    assert sizes.mean() == pytest.approx(100, abs=1)
    assert digest(found) == "0ee6ca9560801f463ea24a6a0d4f84c7b89049f8e8c3c85e2b3cba6950f742ed"


# --- the natural key -------------------------------------------------------------------------------------------------


def test_a_natural_key_is_a_client():
    keys = np.array(["w2", "w10", "w2", "w1", "w2"])
    data = by_key((np.arange(5), np.array([1, 0, 1, 1, 0])), keys, name="writers")
    assert data.ids == ("w1", "w10", "w2")
    assert data.sizes == (1, 1, 3)
    assert data.client("w2").inputs.tolist() == [0, 2, 4]
    assert data.client("w2").labels.tolist() == [1, 1, 0]
    with pytest.raises(DataError, match=r"writers: keys have shape \(4,\), labels \(5,\)"):
        by_key((np.arange(5), np.zeros(5)), keys[:4], name="writers")


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "clients", "message"),
    [
        (Iid(), 0, "one client or more, found 0"),
        (Iid(), 101, "100 examples are too few for 101 clients"),
        (Shards(3), 40, "cannot be cut into 120 shards"),
        (LabelsPerClient(11), 40, "cannot have 11 labels of 10"),
        (LabelsPerClient(2), 4, "4 clients with 2 labels each cannot have all 10"),
        (LabelsPerClient(9), 90, "clients share a label with 10 examples"),
    ],
)
def test_impossible_numbers_are_refused(how, clients, message):
    with pytest.raises(UsageError, match=message):
        dealt(how, np.arange(100) % 10, clients)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Dirichlet, DirichletPerLabel, DirichletSizes, DirichletWithOverlap, PowerLaw, Shards])
def test_parameters_are_positive(kind, wrong):
    with pytest.raises(UsageError, match="expected a number above 0"):
        kind(wrong)


def test_sizes_with_overlap_are_a_range():
    with pytest.raises(UsageError, match="from 9 to 8"):
        DirichletWithOverlap(1.0, 9, 8)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 1], [1, 2]], "dealt example 1 out 2 times"),
        ([[0], [2]], "dealt example 1 out 0 times"),
        ([[0, 1], [2, 3]], "dealt out example 3, but there are only 3"),
        ([[0, 1, 2]], "made 1 clients, expected 2"),
    ],
)
def test_a_partitioner_of_a_users_own_is_held_to_its_promise(rows, message):
    class Own:
        overlap = False

        def __call__(self, labels, clients, rng):
            return [np.array(own) for own in rows]

    with pytest.raises(DataError, match=message):
        dealt(Own(), np.zeros(3), 2)


# --- written ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("iid", Iid()),
        ("dirichlet:0.5", Dirichlet(0.5)),
        ("dirichlet-per-label:0.5", DirichletPerLabel(0.5)),
        ("dirichlet-sizes:2", DirichletSizes(2.0)),
        ("shards:2", Shards(2)),
        ("labels:3", LabelsPerClient(3)),
        ("power-law:1.2", PowerLaw(1.2)),
        ("overlap:1", DirichletWithOverlap(1.0)),
    ],
)
def test_partitions_are_written_as_a_name_and_a_number(text, how):
    assert parse_partitioner(text) == how


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dirichlet", "'dirichlet': expected a number after the colon, found ''"),
        ("dirichlet:x", "found 'x'"),
        ("shards:2.5", "expected a whole number after the colon, found '2.5'"),
        ("shards:0", "shards a client: expected a number above 0"),
        ("iid:2", "there is no partition 'iid:2'; there are: iid, dirichlet:NUMBER"),
        ("", "there is no partition ''"),
    ],
)
def test_a_mistake_in_writing_is_told(text, message):
    with pytest.raises(UsageError, match=message):
        parse_partitioner(text)
