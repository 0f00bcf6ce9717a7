"""The tables of a report as one page of HTML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from tasks.cells import cell, with_interval
from tasks.study_tables import ABOUT, StudyTable

PAGE = """\
{% macro explained(meanings) %}
<dl>{% for name, meaning in meanings.items() %}<dt>{{ name.replace("_", " ") }}</dt><dd>{{ meaning }}</dd>{% endfor %}
</dl>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dictionaries</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font: 600 1rem/1.5 ui-monospace, monospace; padding: 1.5rem 0 .4rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #8885; }
th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.best { font-weight: 700; }
code { font-family: ui-monospace, monospace; font-size: .85em; opacity: .75; }
dt { font-weight: 600; float: left; clear: left; width: 16rem; }
dd { margin: 0 0 .2rem 16rem; }
h2 { margin-top: 3rem; }
img { max-width: 100%; background: #fff; }
</style>
</head>
<body>
<h1>Dictionaries</h1>
<p>{{ rows | length }} dictionaries at {{ hook_points | length }} hook {{ "point" if hook_points | length == 1 else
"points" }}, measured on activations that none of them was trained on. In bold, the least unexplained variance.</p>
{% for hook_point in hook_points %}
<div class="wide">
<table>
<caption>{{ hook_point }}</caption>
<thead><tr><th>method</th><th>parameters</th>
{% for name in numbers %}<th class="number">{{ name.replace("_", " ") }}</th>{% endfor %}
<th>artifact</th></tr></thead>
<tbody>
{% for row in rows if row["hook_point"] == hook_point %}
<tr{% if row["ref"] in best %} class="best"{% endif %}><td>{{ row["method"] }}</td><td>{{ row["parameters"] }}</td>
{% for name in numbers %}<td class="number">{{ cell(row[name]) }}</td>{% endfor %}
<td><code>{{ row["ref"] }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
{{ explained(meanings) }}
<p>The same table: <a href="dictionaries.parquet">dictionaries.parquet</a>,
<a href="dictionaries.json">dictionaries.json</a>, <a href="report.md">report.md</a>.</p>
{% for table in studies %}
<h2>{{ table.title }}</h2>
<p>With 95 % intervals in brackets; a dash is undefined, and says why where it is pointed at.</p>
<div class="wide">
<table>
<thead><tr>{% for name in about %}<th>{{ name.replace("_", " ") }}</th>{% endfor %}
{% for name in table.meanings %}<th class="number">{{ name.replace("_", " ") }}</th>{% endfor %}
<th>artifact</th></tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for name in about %}<td>{{ row[name] }}</td>{% endfor %}
{% for name in table.meanings %}<td class="number"{% if row[name] is none %} title="{{ row["undefined"][name] }}"\
{% endif %}>{{ table.told(row, name) }}</td>{% endfor %}
<td><code>{{ row["ref"] }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{{ explained(table.meanings) }}
<p>The same table: <a href="{{ table.file }}">{{ table.file }}</a>; all of it: <a href="studies.json">studies.json</a>.
</p>
{% endfor %}
{% for compared in comparisons %}
<h2>Interpretability side by side</h2>
{% for figure in compared.figures %}
<p><a href="{{ figure }}"><img src="{{ figure }}" alt="{{ alternatives[loop.index0] }}"></a></p>
{% endfor %}
<p>Sparse autoencoders beside each baseline of their layer: difference of the mean scores with its 95 % interval, and
the two-sided p-value of Welch's test.</p>
<div class="wide">
<table>
<thead><tr><th>hook point</th><th>dictionary</th><th>baseline</th><th class="number">difference</th>
<th class="number">p</th></tr></thead>
<tbody>
{% for row in compared.differences %}
<tr><td>{{ row["hook_point"] }}</td><td>{{ row["dictionary"] }}</td><td>{{ row["baseline"] }}</td>
{% set why = row["undefined"] or "" %}
<td class="number" title="{{ why }}">\
{{ with_interval(row["difference"], none if row["low"] is none else [row["low"], row["high"]]) }}</td>
<td class="number" title="{{ why }}">{{ cell(row["p"], ".2g") }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
</body>
</html>
"""


ALTERNATIVES = (
    "Mean interpretability score of each dictionary, with 95 % intervals, layer by layer",
    "Distribution of the scores of each dictionary's features",
    "Score of each feature against its density, skew and kurtosis",
)
"""What the figures of a comparison show, in words."""


class Comparison(NamedTuple):
    """Dictionaries side by side."""

    figures: Sequence[str]
    """Files beside the page."""
    differences: Sequence[Mapping[str, Any]]


def page(
    rows: Sequence[Mapping[str, Any]],
    meanings: Mapping[str, str],
    studies: Sequence[StudyTable] = (),
    comparisons: Sequence[Comparison] = (),
) -> str:
    """The tables as a page that needs nothing but itself. All text in it is escaped."""
    hook_points = list(dict.fromkeys(entry["hook_point"] for entry in rows))
    best = []
    for hook_point in hook_points:
        here = [entry for entry in rows if entry["hook_point"] == hook_point and entry["fvu"] is not None]
        best += [min(here, key=lambda entry: entry["fvu"])["ref"]] if here else []
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
    return template.render(
        rows=rows,
        hook_points=hook_points,
        best=best,
        numbers=list(meanings),
        meanings=meanings,
        cell=cell,
        studies=studies,
        about=ABOUT,
        comparisons=comparisons,
        alternatives=ALTERNATIVES,
        with_interval=with_interval,
    )
