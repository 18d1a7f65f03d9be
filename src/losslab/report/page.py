"""The report's page: one HTML file that needs nothing else."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from losslab.report.comparison_content import ComparisonContent
from losslab.report.figure import Figure
from losslab.report.page_content import PageContent

FILES = files("losslab.report") / "page_files"


def render(page: PageContent) -> str:
    """The page of these contents: the same contents, the same bytes."""
    return _filled("page.html.jinja", page=page)


def render_comparison(page: ComparisonContent) -> str:
    """The page of a comparison."""
    return _filled("comparison.html.jinja", page=page)


def render_figure(figure: Figure, command: str) -> str:
    """A page of one figure, with the command that made it."""
    return _filled("figure.html.jinja", figure=figure, command=command)


def _filled(template: str, **content: Any) -> str:
    """Names come from configurations: everything but the page's own files is escaped.

    No script runs but the two whose hashes are in the page's Content-Security-Policy.
    """
    plotly, script = get_plotlyjs(), (FILES / "page.js").read_text()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("losslab.report", "page_files"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(
        content,
        css=(FILES / "page.css").read_text(),
        plotly=plotly,
        script=script,
        script_hashes=" ".join(map(_hash, (plotly, script))),
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
