"use strict";
// Draws the plots of a page when they come into sight, in the colours of the theme.

(() => {
  function colours() {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(["paper", "ink", "faint", "line"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  /** What the theme says of a layout; the axes are those that it has. */
  function themed(layout) {
    const { paper, ink, faint, line } = colours();
    const made = {
      ...layout, paper_bgcolor: paper, plot_bgcolor: paper, autosize: true,
      font: { ...layout.font, color: ink, family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: paper, bordercolor: faint, font: { color: ink } },
      shapes: (layout.shapes ?? []).map((shape) => ({ ...shape, line: { ...shape.line, color: faint } })),
    };
    for (const name of ["xaxis", "yaxis"]) {
      made[name] = {
        ...layout[name], gridcolor: line, linecolor: faint, zerolinecolor: line, tickcolor: faint, automargin: true,
      };
    }
    return made;
  }

  async function draw(place) {
    try {
      const [figures, Plotly] = await Promise.all([saeflow.load("data/plots"), saeflow.plotly()]);
      const { data, layout } = figures[place.dataset.plot];
      await Plotly.react(place, data, themed(layout), { responsive: true, displayModeBar: false });
      place.dataset.drawn = "";
    } catch (error) {
      place.textContent = `This plot cannot be drawn: ${error.message}.`;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const places = document.querySelectorAll("[data-plot]");
    const watching = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watching.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "300px" });
    places.forEach((place) => watching.observe(place));
    document.addEventListener("themechange", () => places.forEach((place) => "drawn" in place.dataset && draw(place)));
    window.addEventListener("beforeprint", () => places.forEach(draw));
  });
})();
