import json

import pytest

pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")


@pytest.fixture
def leaf(tmp_path):
    """A LEAF file with two users."""
    users = {"ann": {"x": [[0.0], [1.0], [0.5]], "y": [0, 1, 1]}, "bob": {"x": [[0.25]], "y": [1]}}
    content = {"users": [*users], "num_samples": [3, 1], "user_data": users}
    path = tmp_path / "leaf.json"
    path.write_text(json.dumps(content))
    return path


def test_an_image_set_is_dealt_out_shown_and_drawn(unseen, tmp_path):
    out = tmp_path / "picture.html"
    ended = unseen("clients", "digits", "--partition", "labels:2", "--clients", "20", "--out", out)
    assert ended.code == 0
    lines = [line.split() for line in ended.out.splitlines()]
    assert ended.out.startswith("digits, labels:2: 20 clients, 1,438 examples\n")
    assert ["different", "labels", "2", "2", "2"] in lines
    assert f"picture: {out}" in ended.out
    assert "c0019" in out.read_text(encoding="utf-8")
    again = unseen("clients", "digits", "--partition", "labels:2", "--clients", "20", "--out", out)
    other = unseen("clients", "digits", "--partition", "labels:2", "--clients", "20", "--seed", "1", "--out", out)
    assert ended.out == again.out != other.out


def test_the_test_half_of_a_set(unseen, tmp_path):
    ended = unseen("clients", "digits", "--split", "test", "--clients", "7", "--out", tmp_path / "p.html")
    assert ended.out.startswith("digits, iid: 7 clients, 359 examples\n")


def test_a_file_shows_its_own_clients_or_new_ones(unseen, tmp_path, leaf):
    ended = unseen("clients", leaf, "--out", tmp_path / "p.html")
    assert ended.out.startswith("leaf: 2 clients, 4 examples\n")
    assert ["1", "3", "2"] in [line.split() for line in ended.out.splitlines()]
    ended = unseen("clients", leaf, "--clients", "4", "--out", tmp_path / "p.html")
    assert f"{leaf}, iid: 4 clients, 4 examples" in ended.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere is neither an image set (digits, fashion-mnist, mnist) nor a file"),
        (["digits", "--partition", "fair"], 2, "there is no partition 'fair'; there are: iid"),
        (["digits", "--partition", "shards:x"], 2, "expected a whole number"),
        (["digits", "--clients", "2000"], 2, "1438 examples are too few for 2000 clients"),
        (["digits", "--split", "validation"], 2, "no split 'validation'; there are: train, test"),
        (["{leaf}", "--split", "test"], 2, "only image sets and SQLite files have splits"),
        (["{text}"], 2, "expected .json or a folder (LEAF), .h5 or .hdf5 (HDF5), .sqlite or .db (SQLite)"),
        (["{folder}"], 1, "has no JSON file"),
    ],
)
def test_mistakes_are_told(unseen, tmp_path, leaf, arguments, code, message):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    places = {"leaf": leaf, "text": tmp_path / "notes.txt", "folder": tmp_path / "folder"}
    ended = unseen("clients", *(argument.format(**places) for argument in arguments), "--out", tmp_path / "p.html")
    assert ended.code == code
    assert message in ended.err
    assert not (tmp_path / "p.html").exists()
