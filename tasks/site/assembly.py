"""The pages of a site, put together: which there are, and what each is given."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tasks.site.explanations import write_explanations
from tasks.site.material import Material
from tasks.site.overview import comparison, write_overview
from tasks.site.pages import Nav, write_assets, write_page
from tasks.site.plots import write_plots
from tasks.site.run_facts import write_run
from tasks.site.studies import page_name, page_of, study_pages
from tasks.study_tables import ABOUT


def write_site(place: Path, material: Material, meanings: Mapping[str, str]) -> None:
    """Write all pages beside the tables of a report. `meanings` are those of the table of dictionaries."""
    write_assets(place)
    studies = {table.name: f"{page_name(table)}.html" for table, _ in study_pages(material)}
    nav = pages(material)
    shared = {"site": material.about.name, "nav": nav}
    groups = write_plots(place, material)
    plots = [plot for group in groups for plot in group.plots]
    compared = [comparison(place, number, ref) for number, ref in enumerate(material.comparisons, 1)]
    write_overview(place, material, meanings, groups, compared, write_run(place, material), studies, **shared)
    for table, rows in study_pages(material):
        page = page_of(place, material, table, rows, plots)
        write_page(
            place, page.name, "study", title=page.title, here=f"{page.name}.html", page=page, about=ABOUT, **shared
        )
    for found in material.browsable.values():
        shutil.copytree(found.place / "browse", place / "browse", dirs_exist_ok=True)
    if material.browsable:
        write_explanations(place, material, studies)
    for label, name in LIVE.items():
        if label in nav:
            write_page(place, name, name, title=label, here=f"{name}.html", **shared)


LIVE = {"Features": "features", "Try it": "try"}
"""Pages whose scripts do everything: what they are called, and their template."""


def pages(material: Material) -> Nav:
    """All pages of the site in their order."""
    nav = {"Overview": "index.html"}
    if material.browsable:
        nav["Features"] = "features.html"
    nav |= {table.title: f"{page_name(table)}.html" for table, _ in study_pages(material)}
    return nav | {"Try it": "try.html"}
