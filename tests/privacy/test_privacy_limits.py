import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from unseen.errors import UsageError
from unseen.privacy.facts import TableId, Variant
from unseen.privacy.limits import Allowance, Limits, read_limits

PAGE = Path(__file__).parents[2] / "docs" / "security" / "enumeration.md"


def declared(world, **changes):
    allowance = json.loads(world.allowance().model_dump_json()) | changes
    return json.dumps({"allowances": [allowance]})


def test_limits_come_back_from_json_as_they_were(world):
    limits = world.limits(new_points_total=3_000)
    assert read_limits(limits.model_dump_json(), "limits.json") == limits


def test_without_limits_nothing_is_covered(world):
    assert Limits().allowance(world.asked()) is None
    assert read_limits("{}", "limits.json") == Limits()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"points_total": "6000"}, "points_total"),
        ({"points_total": -1}, "points_total"),
        ({"points_total": 1_999}, "points_per_session"),
        ({"points_total": None}, "points_total"),
        ({"variants": []}, "variants"),
        ({"variants": ["guess"]}, "variants"),
        ({"key_columns": []}, "key_columns"),
        ({"key_columns": ["phone", "phone"]}, "key_columns"),
        ({"valid_until": "2020-01-01T00:00:00Z"}, "valid_until"),
        ({"valid_until": "2030-01-01T00:00:00"}, "valid_until"),
        ({"min_hit_rate": 1.5}, "min_hit_rate"),
        ({"max_ratio": 0}, "max_ratio"),
        ({"partner": "Not A Party"}, "partner"),
    ],
)
def test_malformed_limits_are_refused_and_say_where(world, change, named):
    with pytest.raises(UsageError, match=r"^limits\.json does not declare limits: ") as caught:
        read_limits(declared(world, **change), "limits.json")
    assert named in str(caught.value)


@pytest.mark.parametrize("budget", ["points_per_session", "points_total", "valid_from", "valid_until", "variants"])
def test_budgets_have_no_defaults(world, budget):
    fields = json.loads(declared(world))
    del fields["allowances"][0][budget]
    with pytest.raises(UsageError, match=rf"{budget}: Field required"):
        read_limits(json.dumps(fields), "limits.json")


def test_no_request_falls_under_two_allowances(world):
    count = world.allowance(variants=frozenset({Variant.COUNT}))
    both = world.allowance(key_columns=("phone", "birthday"))
    swapped = world.allowance(key_columns=("birthday", "phone"))
    rest = world.allowance(variants=frozenset({Variant.INTERSECT}))
    assert Limits(allowances=(count, rest, both)).allowance(world.asked()) == rest
    with pytest.raises(ValidationError, match="two allowances cover the same requests of partner, customers"):
        Limits(allowances=(count, world.allowance()))
    with pytest.raises(ValidationError, match="two allowances"):
        Limits(allowances=(both, swapped))


def test_only_what_is_declared_is_covered(world):
    limits = world.limits(variants=frozenset({Variant.COUNT}), valid_until=world.noon + timedelta(days=1))
    assert limits.allowance(world.asked(variant=Variant.COUNT)) is not None
    assert limits.allowance(world.asked(variant=Variant.SUM)) is None
    for change in ({"key_columns": ("phone", "birthday")}, {"partner": world.other}, {"table": TableId("staff")}):
        assert limits.allowance(world.asked(variant=Variant.COUNT, **change)) is None


def shown(value):
    return str(value).lower() if value is None or isinstance(value, bool) else f"{value:,}"


def test_the_page_lists_every_limit_with_its_default():
    text = PAGE.read_text(encoding="utf-8")
    for name, field in Allowance.model_fields.items():
        row = re.search(rf"^\| `{name}` \| ([^|]*) \|", text, re.MULTILINE)
        assert row, f"{name} is not described"
        default = "to be declared" if field.is_required() else shown(field.default)
        assert row[1] == default, f"{name}: the page says {row[1]}, the code {default}"


def test_the_example_of_the_page_runs_and_prints_what_it_shows(capsys):
    text = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (output,) = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(example, PAGE.name, "exec"), {})  # noqa: S102  # our own documentation
    assert capsys.readouterr().out == output
