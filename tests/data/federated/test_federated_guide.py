import re
from pathlib import Path

import pytest

from unseen.data.federated.notation import COUNTED, NUMBERED, parse_partitioner

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "federated_data.md").read_text(encoding="utf-8")


def test_examples_of_the_guide_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the guide uses scikit-learn's digits")
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "federated_data.md", "exec"), scope)  # noqa: S102  our own documentation
    printed = capsys.readouterr().out
    assert "20 clients, 1438 examples" in printed
    assert "(72, 8, 8) uint8 (72,)" in printed
    assert "(72, 1, 8, 8)" in printed
    assert "('east', 'north', 'south') (1, 2, 1)" in printed
    assert (tmp_path / "clients.html").stat().st_size > 100_000


def test_every_partition_is_in_the_guide_as_it_is_written():
    written = re.findall(r"^\| `([a-z:.0-9-]+)` \| `(\w+)\(", GUIDE, re.MULTILINE)
    assert {text.partition(":")[0] for text, _ in written} == {"iid", *NUMBERED, *COUNTED}
    for text, name in written:
        assert type(parse_partitioner(text)).__name__ == name
