import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from unseen.errors import UsageError
from unseen.report.html import embedded_json, map_style_ids, plotly_script, render, write
from unseen.report.model import Fact, LeakageRow, LineageRow, PartySummary, Report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;</title></style>"
SECTIONS = ["comparison", "plots", "training", "coefficients", "leakage", "steps", "facts", "lineage"]
LOADING = {"src", "srcset", "href", "data", "poster", "action", "background", "ping", "xlink:href"}


class Page(HTMLParser):
    """Tags with their attributes, the text of scripts and styles, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in {"script", "style"} else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.code.append((*self._open, data))
        else:
            self.text += data

    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    def content(self) -> dict:
        return json.loads(next(data for _, attributes, data in self.code if attributes.get("id") == "content"))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(render(report))


def named_importance(report: Report, name: str):
    """Return the importance of one column whose names are all ``name``."""
    (model,) = report.importance
    column = model.columns[0].model_copy(update={"party": name, "name": name})
    return model.model_copy(update={"model": name, "columns": (column,)})


def hostile(report: Report) -> Report:
    steps = tuple(usage.model_copy(update={"step": HOSTILE, "component": HOSTILE}) for usage in report.steps[:1])
    return report.model_copy(
        update={
            "title": HOSTILE,
            "flow": HOSTILE,
            "conclusion": (HOSTILE, HOSTILE),
            "positive": HOSTILE,
            "negative": HOSTILE,
            "parties": (PartySummary(name=HOSTILE, role=HOSTILE, holds=HOSTILE),),
            "comparison": tuple(model.model_copy(update={"name": HOSTILE}) for model in report.comparison),
            "steps": steps,
            "coefficients": (report.coefficients[0].model_copy(update={"party": HOSTILE, "name": HOSTILE}),),
            "facts": (Fact(name=HOSTILE, value=HOSTILE, tile=True),),
            "importance": (named_importance(report, HOSTILE),),
            "learning": (report.learning[0].model_copy(update={"model": HOSTILE, "measure": HOSTILE}),),
            "rounds": (report.rounds[0].model_copy(update={"party": HOSTILE, "step": HOSTILE}),),
            "leakage": (LeakageRow(step=HOSTILE, party=HOSTILE, learns=HOSTILE),),
            "lineage": (LineageRow(artifact=HOSTILE, kind=HOSTILE, step="s", party="p", made_from=(HOSTILE,)),),
        }
    )


def test_all_sections_are_present_in_order(page: Page):
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == SECTIONS


def test_the_conclusion_and_the_numbers_are_on_the_page(page: Page, report: Report):
    for text in (*report.conclusion, "0.731", "0.652", "+0.079", "189 MB", "47.6 s", "late_invoices_12m", "+0.7034"):
        assert text in page.text


def test_the_best_values_are_highlighted(report: Report):
    cells = re.findall(r'<td class="number best">([^<]+)</td>', render(report))
    assert cells == ["0.731", "0.46", "0.337", "0.1576", "0.731", "0.46", "0.337", "0.4609", "0.1576"]


def test_nothing_is_loaded_from_anywhere(page: Page):
    assert not [(tag, attributes) for tag, attributes in page.tags if LOADING & attributes.keys()]
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form", "svg"}
    styles = "".join(data for tag, _, data in page.code if tag == "style")
    assert "url(" not in styles
    assert "@import" not in styles


def test_the_policy_allows_exactly_the_embedded_code(page: Page):
    (policy,) = (a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    code = {
        kind: [data for tag, attributes, data in page.code if tag == kind and "type" not in attributes]
        for kind in ("script", "style")
    }
    hashes = {
        kind: [f"'sha256-{base64.b64encode(hashlib.sha256(d.encode()).digest()).decode()}'" for d in code[kind]]
        for kind in code
    }
    assert directives["default-src"] == "'none'"
    assert directives["script-src"].split() == hashes["script"]
    assert directives["style-src"].split()[:-1] == hashes["style"]
    assert "unsafe" not in policy
    assert "http" not in policy


def test_no_element_carries_inline_code(page: Page):
    assert not [a for _, a in page.tags if "style" in a or any(name.startswith("on") for name in a)]


def test_the_page_says_its_language_and_describes_its_plots(page: Page):
    assert ("html", {"lang": "en"}) in page.tags
    plots = [attributes for _, attributes in page.tags if attributes.get("class") == "plot"]
    assert {plot["id"] for plot in plots} == set(page.content()["figures"])
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)


def test_names_are_text_wherever_they_stand(report: Report):
    hurt = Page(render(hostile(report)))
    harmless = Page(render(report))
    assert {tag for tag, _ in hurt.tags} <= {tag for tag, _ in harmless.tags}
    assert [tag for tag, _ in hurt.tags].count("script") == 3
    assert hurt.text.count(HOSTILE) > 20
    assert not [a for _, a in hurt.tags if any(name.startswith("on") for name in a)]
    assert "&lt;script&gt;alert(1)" in json.dumps(hurt.content())


def test_embedded_json_cannot_end_its_script():
    value = {"</script><!--": ["<", ">", "&", "\u2028", "é"]}
    text = embedded_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ({"comparison": ()}, {"comparison", "plots"}),
        ({"coefficients": ()}, {"coefficients"}),
        ({"learning": (), "importance": ()}, {"training"}),
        ({"steps": ()}, {"steps"}),
        ({"leakage": (), "lineage": (), "facts": ()}, {"leakage", "lineage", "facts"}),
    ],
)
def test_missing_parts_leave_no_empty_section(report: Report, missing: dict, gone: set[str]):
    ids = Page(render(report.model_copy(update=missing))).ids()
    assert set(SECTIONS) - ids == gone


def test_a_single_party_with_a_single_model_is_enough(report: Report):
    alone = report.model_copy(
        update={
            "parties": report.parties[:1],
            "comparison": report.comparison[1:2],
            "coefficients": tuple(
                weight.model_copy(update={"pooled_value": None}) for weight in report.coefficients[:3]
            ),
            "steps": report.steps[:1],
        }
    )
    page = Page(render(alone))
    assert "Gain over" not in page.text
    assert "Difference" not in page.text
    assert "0.652" in page.text


def test_models_of_amounts_and_classes_show_their_own_measures(amounts: Report):
    text = Page(render(amounts)).text
    for shown in ("RMSE", "1235", "D²", "0.420", "+0.110", "By class: class", "0.750", "Accuracy"):
        assert shown in text
    assert "AUC ↑" not in text


def test_an_almost_empty_report_renders(report: Report):
    empty = Report(title="t", created=report.created, flow="f", parties=(), conclusion=("Nothing was run.",))
    page = Page(render(empty))
    assert "Nothing was run." in page.text
    assert page.content()["figures"] == {}


def test_equal_reports_give_equal_pages(report: Report):
    assert render(report) == render(Report.from_json(report.to_json()))


def test_plotly_brings_one_map_style_sheet_which_the_page_forestalls(page: Page):
    # an upgrade of plotly that does this differently would log a policy violation in the reader's browser
    (identity,) = map_style_ids(plotly_script())
    assert identity in page.ids()


def test_write_replaces_the_file_whole(report: Report, tmp_path: Path):
    path = tmp_path / "new" / "report.html"
    assert write(report, path) == path
    path.write_text("old")
    write(report, path)
    assert path.read_text(encoding="utf-8") == render(report)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_write_says_where_it_could_not(report: Report, tmp_path: Path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UsageError, match=r"cannot write the report to .*report\.html"):
        write(report, tmp_path / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
