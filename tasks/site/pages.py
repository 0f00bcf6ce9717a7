"""Templates to pages, data to scripts that a page loads, and what every page of a site needs beside it.

A page that is opened by double-click may not `fetch`, but may load scripts that lie beside it. So data comes as
scripts: `saeflow.receive(NAME, DATA)` in `NAME.js`, which `saeflow.load(NAME)` of assets/site.js asks for. Text of
models and corpora reaches a page in two ways, and neither takes it for markup: through a template, which escapes it, or
as data, which scripts write with `textContent`.
"""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.cells import cell, with_interval

HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """All that is written with `{{ }}` is escaped, and a name that is not given is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(cell=cell, with_interval=with_interval)
    return made


def write_page(place: Path, name: str, template: str, **values: Any) -> None:
    """Write a page, which templates/base.html tells what to give.

    Args:
        place: the directory of the site, in which all pages lie.
        name: of the file, without `.html`.
        template: of templates/, without `.html`.
    """
    text = environment().get_template(f"{template}.html").render(**values)
    # Half of a surrogate pair, which a tokenizer may hold, has no UTF-8.
    (place / f"{name}.html").write_text(text, encoding="utf-8", errors="replace")


def write_script(place: Path, name: str, data: Any) -> None:
    """Write data as `NAME.js`. Raises ValueError for a number that is not finite: what is undefined is None."""
    file = place / f"{name}.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script(name, data), encoding="ascii")


def script(name: str, data: Any) -> str:
    """The script that hands data to whoever asked for it. It is ASCII, so that no text in it needs an encoding."""
    return f"saeflow.receive({json.dumps(name)},{json.dumps(data, allow_nan=False, separators=(',', ':'))});\n"


def write_assets(place: Path) -> None:
    """Copy what pages load: the project's own style and scripts, and Plotly's."""
    shutil.copytree(HERE / "assets", place / "assets", dirs_exist_ok=True)
    import plotly  # a second, for those who need it

    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", place / "assets" / "plotly.min.js")


Nav = Mapping[str, str]
"""The pages of a site: what a link says, and where it leads."""
