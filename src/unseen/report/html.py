"""A report as one HTML file that opens offline and loads nothing.

The plotting library, the styles and the figures are inside the file. A content security policy lets the browser run
exactly the two scripts and the one style sheet that are embedded here, by their SHA-256, and fetch nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unseen.data.atomic import whole_file
from unseen.errors import UsageError
from unseen.report.figures import PALETTES, Figure, figures
from unseen.report.model import FactGroup, Report
from unseen.report.summary import best_texts, shown_metrics, steps_in_order, tiles, totals
from unseen.report.units import bytes_text, count_text, seconds_text, signed

TEMPLATES = "templates"
# plotly adds one empty style element and fills it through the object model, which needs the hash of nothing
EMPTY_STYLE = ""


def render(report: Report) -> str:
    """Return the page as text; equal reports give equal pages."""
    return page(
        "report.html.j2",
        figures(report),
        report=report,
        tiles=tiles(report),
        metrics=shown_metrics(report),
        best=best_texts(report),
        steps=steps_in_order(report),
        total=totals(report),
        facts={group: [fact for fact in report.facts if fact.group is group] for group in FactGroup},
    )


def page(template: str, plots: Sequence[Figure], **more: object) -> str:
    """Return the page that a template makes of figures and of ``more``, as text."""
    environment = _environment()
    style = environment.get_template("report.css.j2").render(palettes=PALETTES)
    scripts = (plotly_script(), _script())
    content = {"palettes": PALETTES, "figures": {figure.key: figure.plot for figure in plots}}
    return environment.get_template(template).render(
        **more,
        figures=plots,
        policy=_policy(scripts, (style, EMPTY_STYLE)),
        map_styles=map_style_ids(scripts[0]),
        style=Markup(style),  # noqa: S704  our own file, no text from outside
        scripts=[Markup(script) for script in scripts],  # noqa: S704  our own file and plotly's
        content=Markup(embedded_json(content)),  # noqa: S704  has no character left that ends a script
    )


def write(report: Report, path: Path) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path.

    Raises:
        UsageError: The file cannot be written.
    """
    text = render(report)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8", newline="\n")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot write the report to {path}: {exc.strerror}; choose another place") from exc
    return path


def write_page(text: str, path: Path) -> Path:
    """Write a page to ``path``, whole or not at all, and return the path.

    Raises:
        UsageError: The folder cannot be made.
        DataError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder of {path}: {error.strerror}; choose another place") from error
    with whole_file(path) as file:
        file.write(text.encode())
    return path


def embedded_json(value: object) -> str:
    """Return JSON without any character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(scripts: tuple[str, ...], styles: tuple[str, ...]) -> str:
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(map(_source_hash, scripts)),
        "style-src": " ".join(map(_source_hash, styles)),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unseen.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=bytes_text, seconds=seconds_text, thousands=count_text, signed=signed)
    return environment


@cache
def _script() -> str:
    return files("unseen.report").joinpath(TEMPLATES, "report.js").read_text(encoding="utf-8")


def map_style_ids(script: str) -> list[str]:
    """Return the ids of the style sheets that plotly's map library adds to a page, unless it finds them there.

    No map is drawn here and the policy would refuse them, loudly: the page has empty elements of these ids instead.
    """
    return re.findall(r'getElementById\("([0-9a-f]{64})"\)', script)


@cache
def plotly_script() -> str:
    """Return plotly.js as it can stand inside a script element."""
    # A browser turns CR LF into LF before it hashes; "</script" can only stand in a string, where "\\/" means "/".
    source: str = get_plotlyjs()
    return source.replace("\r\n", "\n").replace("</script", "<\\/script")
