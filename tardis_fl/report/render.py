"""The report as Markdown and as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tardis_fl import __version__
from tardis_fl.report.results import Report
from tardis_fl.report.text import (
    bytes_text,
    cost_text,
    duration_text,
    macs_text,
    millijoules,
    milliseconds,
    percent,
    rate_text,
)

if TYPE_CHECKING:
    from tardis_fl.report.frontiers import FrontierReport


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tardis_fl.report"),
        autoescape=select_autoescape(enabled_extensions=("html.jinja",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "size": bytes_text,
        "duration": duration_text,
        "macs": macs_text,
        "count": lambda value: f"{value:,}",
        "whole": lambda value: f"{value:,.0f}",
        "words": lambda name: name.replace("_", " "),
        "cell": _table_cell,
        "ms": milliseconds,
        "mj": millijoules,
        "rate": rate_text,
    }
    return environment


def _table_cell(text: str) -> str:
    """Keeps a name from being read as Markdown or HTML."""
    return "".join(f"\\{sign}" if sign in "|<>*_`[]\\" else sign for sign in text)


def render_template(name: str, **content: Any) -> str:
    """Renders a template of this package; a name that the template wants and doesn't get is an error."""
    return _environment().get_template(name).render(**content, version=__version__)


def _missing(report: Report) -> str:
    """Says what the deployment could have been asked for and wasn't."""
    latency, certificate = report.hardware is None, report.certificate is None
    if not latency and not certificate:
        return ""
    lacking = (
        "Latency, energy and a certificate aren't"
        if latency and certificate
        else "Latency and energy aren't"
        if latency
        else "A certificate isn't"
    )
    keys = [key for key, absent in (("hardware", latency), ("certificate", certificate)) if absent]
    return f"{lacking} part of this deployment; deployment.{' and deployment.'.join(keys)} would add {'them' if latency else 'it'}."


def render_markdown(report: Report) -> str:
    """Renders the report for a terminal or a forge."""
    return render_template("report.md.jinja", report=report, missing=_missing(report))


def render_html(report: Report) -> str:
    """Renders the report as one page that loads nothing from elsewhere."""
    from tardis_fl.report.plots import draw_all

    return render_template(
        "report.html.jinja", report=report, missing=_missing(report), plots=draw_all(report)
    )


def render_frontier(report: FrontierReport) -> str:
    """Renders frontiers as one page that loads nothing from elsewhere."""
    from tardis_fl.report.frontier_plots import draw_frontiers
    from tardis_fl.report.frontiers import AXES, thinned

    return render_template(
        "frontier.html.jinja",
        report=report,
        plots=draw_frontiers(report),
        axes=AXES,
        cost=cost_text,
        thinned=thinned,
    )
