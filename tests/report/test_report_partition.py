import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from unseen.data.federated.clients import Spread
from unseen.errors import DataError, UsageError
from unseen.report.figures import PALETTES
from unseen.report.partition import (
    LABEL_COLOURS,
    MOST_CLIENTS,
    MOST_POINTS,
    distance_figure,
    label_colours,
    label_figure,
    partition_figures,
    render_partition,
    size_figure,
    spread_text,
    write_partition,
)

HOSTILE = "</script><b>%{y}"


@pytest.fixture
def spread():
    return Spread(("ann", "bob", HOSTILE), ("0", "1"), np.array([[3, 1], [0, 4], [2, 2]]))


@pytest.fixture
def many():
    counts = np.random.default_rng(0).integers(0, 50, (3383, 62))
    return Spread(tuple(f"w{n:04d}" for n in range(3383)), tuple(map(str, range(62))), counts)


def painted(node, palette, is_colour=False):
    """What the page's script does with colours."""
    if isinstance(node, dict):
        return {key: painted(value, palette, key.endswith("color")) for key, value in node.items()}
    if isinstance(node, list):
        return [painted(item, palette, is_colour) for item in node]
    return palette[node[1:]] if is_colour and isinstance(node, str) and node.startswith("@") else node


@pytest.mark.parametrize("theme", PALETTES)
@pytest.mark.parametrize("which", ["spread", "many"])
def test_plotly_accepts_the_figures_and_all_colours_are_known(which, theme, request):
    for figure in partition_figures(request.getfixturevalue(which)):
        go.Figure(painted(figure.plot, PALETTES[theme]))  # raises on an unknown field or colour


def test_every_client_is_a_column_of_its_labels(spread):
    plot = label_figure(spread).plot
    assert plot["layout"]["barmode"] == "stack"
    assert [bars["name"] for bars in plot["data"]] == ["0", "1"]
    assert [bars["y"] for bars in plot["data"]] == [[3, 0, 2], [1, 4, 2]]
    assert plot["data"][0]["x"] == ["ann", "bob", "&lt;/script&gt;&lt;b&gt;%{y}"]
    assert len({bars["marker"]["color"] for bars in plot["data"]}) == 2


def test_of_many_clients_some_of_every_size_are_shown(many):
    figure = label_figure(many)
    shown = figure.plot["data"][0]["x"]
    assert len(shown) == len(set(shown)) == MOST_CLIENTS
    assert shown == sorted(shown)
    sizes = dict(zip(many.ids, many.sizes.tolist(), strict=True))
    assert max(sizes[client] for client in shown) == max(sizes.values())
    assert min(sizes[client] for client in shown) == min(sizes.values())
    assert "Shown are 120 of 3,383" in figure.caption


def test_sizes_fall_from_the_largest_to_the_smallest(spread, many):
    assert size_figure(spread).plot["data"][0]["y"] == [4, 4, 4]
    line = size_figure(many).plot["data"][0]
    assert len(line["x"]) == MOST_POINTS
    assert (line["x"][0], line["x"][-1]) == (1, 3383)
    assert (line["y"][0], line["y"][-1]) == (many.sizes.max(), many.sizes.min())
    assert line["y"] == sorted(line["y"], reverse=True)


def test_distances_are_shares(spread):
    line = distance_figure(spread).plot["data"][0]
    # all clients: 5 of label 0 and 7 of label 1; ann 3 : 1, bob 0 : 4, the third 2 : 2
    assert line["y"] == pytest.approx([5 / 12, 3 / 4 - 5 / 12, 1 / 2 - 5 / 12])


@pytest.mark.parametrize("count", [1, 10, 11, 62, 100])
def test_labels_have_colours_of_their_own(count):
    colours = label_colours(count)
    assert len(set(colours)) == count
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert set(label_colours(10)) == set(LABEL_COLOURS)


def test_the_sentence_says_how_many_of_what(spread):
    assert spread_text(spread) == (
        "3 clients have 12 examples of 2 labels: 4 examples and 1 to 2 (median 2) labels each, mean distance from the "
        "pooled mix 0.28."
    )


def test_the_page_is_whole_and_safe(spread, tmp_path):
    path = write_partition(spread, f"digits {HOSTILE}", tmp_path / "new" / "clients.html")
    page = path.read_text(encoding="utf-8")
    assert page == render_partition(spread, f"digits {HOSTILE}")
    assert "default-src 'none'" in page.replace("&#39;", "'")
    assert HOSTILE not in page
    content = json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)[1])
    assert list(content["figures"]) == ["partition_distances", "partition_labels", "partition_sizes"]
    for key in content["figures"]:
        assert f'id="{key}"' in page
    assert '<th scope="row">1</th><td class="number">7</td><td class="number">3</td>' in page


def test_a_page_that_cannot_be_written_is_told(spread, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot make the folder"):
        write_partition(spread, "x", tmp_path / "file" / "clients.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder cannot be written"):
        write_partition(spread, "x", tmp_path / "folder")
