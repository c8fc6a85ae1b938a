import re
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[4] / "docs" / "guides" / "horizontal_tables.md").read_text(encoding="utf-8")


def test_examples_of_the_guide_run_one_after_the_other(capsys):
    pytest.importorskip("dp_accounting", reason="the guide accounts for noise")
    scope = {}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "horizontal_tables.md", "exec"), scope)  # noqa: S102  our own documentation
    printed = capsys.readouterr().out
    assert "clients, 2400 rows, 23 columns" in printed
    assert 0.7 < float(re.search(r"AUC ([\d.]+)", printed)[1]) < 0.85
    assert "2400 rows, True" in printed
    assert "SecureExactSum" in printed
    assert "ε 1.49 of 2 is spent" in printed
