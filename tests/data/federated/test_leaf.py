import numpy as np
import pytest

from unseen.data.federated.leaf import read_leaf, read_leaf_halves
from unseen.errors import DataError

USERS = {
    "f0000_14": {"x": [[0.0, 0.5, 1.0, 0.25], [1.0, 1.0, 1.0, 1.0]], "y": [3, 61]},
    "f0001_41": {"x": [[0.125, 0.0, 0.0, 1.0]], "y": [0]},
}


def test_users_of_a_file_are_clients(tmp_path, leaf_file):
    data = read_leaf(leaf_file(tmp_path / "all_data_0.json", USERS, hierarchies=[]))
    assert data.ids == tuple(USERS)
    assert data.sizes == (2, 1)
    inputs, labels = data.client("f0000_14")
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int64)
    assert inputs.tolist() == USERS["f0000_14"]["x"]
    assert labels.tolist() == [3, 61]


def test_flat_lists_get_the_shape_asked_for(tmp_path, leaf_file):
    path = leaf_file(tmp_path / "a.json", USERS)
    assert read_leaf(path, shape=(2, 2)).client("f0001_41").inputs.tolist() == [[[0.125, 0.0], [0.0, 1.0]]]
    with pytest.raises(DataError, match=r"user f0000_14: inputs have shape \(4,\), which is not one of \(3, 3\)"):
        read_leaf(path, shape=(3, 3))


def test_a_folder_is_all_its_files_in_order(tmp_path, leaf_file):
    for number, user in reversed(list(enumerate(USERS))):
        leaf_file(tmp_path / f"all_data_{number}.json", {user: USERS[user]})
    (tmp_path / "notes.txt").write_text("not read")
    assert read_leaf(tmp_path).ids == tuple(USERS)
    leaf_file(tmp_path / "all_data_9.json", {"f0000_14": USERS["f0000_14"]})
    with pytest.raises(DataError, match=r"all_data_9.json: user 'f0000_14' is in an earlier file already"):
        read_leaf(tmp_path)


def test_texts_stay_texts(tmp_path, leaf_file):
    users = {"THE_TRAGEDY_ROMEO": {"x": ["but soft", "what light "], "y": ["w", "t"]}}
    data = read_leaf(leaf_file(tmp_path / "shakespeare.json", users))
    assert data.client("THE_TRAGEDY_ROMEO").inputs.tolist() == ["but soft", "what light "]
    assert data.spread().labels == ("t", "w")


def test_train_and_test_lie_in_two_folders(tmp_path, leaf_file):
    for half in ("train", "test"):
        (tmp_path / half).mkdir()
        leaf_file(tmp_path / half / "data.json", USERS if half == "train" else {"f0001_41": USERS["f0001_41"]})
    train, test = read_leaf_halves(tmp_path)
    assert (train.sizes, test.sizes) == ((2, 1), (1,))


@pytest.mark.parametrize(
    ("users", "changes", "message"),
    [
        (USERS, {"users": None}, "expected lists users and num_samples"),
        (USERS, {"num_samples": [2]}, "2 users, 1 num_samples and 2 user_data do not fit"),
        (USERS, {"users": ["f0000_14", "f0000_14"]}, "do not fit each other"),
        (USERS, {"users": ["f0000_14", "zoe"]}, "do not fit each other"),
        ({"1": {"x": [[1.0]], "y": [1]}}, {"users": [1]}, "do not fit each other"),
        ({"1": {"x": [[1.0]], "y": [1]}}, {"users": [{}]}, "do not fit each other"),
        (USERS, {"num_samples": [2, 3]}, "user f0001_41: 1 examples, but num_samples says 3"),
        ({"u": {"x": [[1.0]], "y": [1, 2]}}, {}, r"user u: inputs have shape \(1, 1\) and labels \(2,\)"),
        ({"u": {"x": [[1.0], [1.0, 2.0]], "y": [1, 2]}}, {}, "user u, x: lists differ in length"),
        ({"u": {"x": [["a", 1]], "y": [1]}}, {}, "user u, x: expected numbers or text, all of one kind"),
        ({"u": {"x": [[None]], "y": [1]}}, {}, "user u, x: expected numbers or text"),
        ({"u": {"x": [[1.0]], "y": [True]}}, {}, "user u, y: expected numbers or text"),
        ({"u": {"x": [[1.0]], "y": [[1]]}}, {}, r"labels \(1, 1\)"),
        ({"u": {"x": [], "y": []}}, {}, "user u: there are no examples"),
        ({"u": {"x": "text", "y": [1]}}, {}, "user u, x: expected a list"),
        ({"u": {"z": [1], "y": [1]}}, {}, "user u: expected an object with x and y"),
    ],
)
def test_a_file_that_is_not_as_leaf_writes_it_is_refused(tmp_path, leaf_file, users, changes, message):
    path = leaf_file(tmp_path / "bad.json", users, **changes)
    with pytest.raises(DataError, match=message) as error:
        read_leaf(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is no JSON"), ("[1]", "expected an object"), ("\xff", "is no JSON")]
)
def test_what_is_no_json_object_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_leaf(path)


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(DataError, match="has no JSON file"):
        read_leaf(tmp_path)
    with pytest.raises(DataError, match=r"none.json cannot be read: No such file"):
        read_leaf(tmp_path / "none.json")
