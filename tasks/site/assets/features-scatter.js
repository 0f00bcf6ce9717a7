"use strict";
// Two columns of the table against each other, a point for each feature, which it opens.

saeflow.scatter = (() => {
  const { element } = saeflow;
  const MOST = 5000; // points that a chart of SVG bears
  const WIDE = 100; // of a column whose largest is as many times its smallest, and above 0, the logarithm is drawn

  const part = (id) => document.getElementById(id);
  let shown = null; // {dictionary, wish, change}

  const columns = () => {
    const { dictionary, wish } = shown;
    const names = [...dictionary.columns.keys()];
    const usual = { x: names[0], y: dictionary.columns.has("score") ? "score" : (names[1] ?? names[0]) };
    return ["x", "y"].map((axis) => dictionary.columns.get(wish.plot?.[axis]) ?? dictionary.columns.get(usual[axis]));
  };

  /** The features that the table shows, as far as both columns have them, in its order. */
  function points([x, y]) {
    const found = [];
    let all = 0;
    for (const feature of shown.dictionary.select(shown.wish)) {
      if (Number.isNaN(x.numbers[feature]) || Number.isNaN(y.numbers[feature])) continue;
      if (all < MOST) found.push(feature);
      all += 1;
    }
    return { found, all };
  }

  function axis({ name, numbers }, found, colour) {
    const values = found.map((feature) => numbers[feature]);
    const low = Math.min(...values),
      high = Math.max(...values);
    return {
      title: {
        text: saeflow.text.shown(name, { edges: false, limit: 60 }).textContent.replaceAll("<", "&lt;"),
        standoff: 8,
      },
      type: low > 0 && high > WIDE * low ? "log" : "linear",
      gridcolor: colour("line"),
      linecolor: colour("faint"),
      zerolinecolor: colour("line"),
      automargin: true,
      exponentformat: "power",
    };
  }

  async function draw() {
    const place = part("scatter").querySelector(".plot");
    const [x, y] = columns();
    const { found, all } = points([x, y]);
    const said =
      all > found.length
        ? `The first ${MOST.toLocaleString("en")} of ${all.toLocaleString("en")} features in the table's order.`
        : `${all.toLocaleString("en")} features that have both numbers.`;
    part("scatter").querySelector(".said").textContent = `${said} A point opens its feature.`;
    place.setAttribute(
      "aria-label",
      `${y.name} against ${x.name} of ${found.length} features, of which the table has the numbers.`,
    );
    const Plotly = await saeflow.plotly();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const values = ({ numbers }) => found.map((feature) => numbers[feature]);
    await Plotly.react(
      place,
      [
        {
          type: "scatter",
          mode: "markers",
          x: values(x),
          y: values(y),
          customdata: found,
          marker: { color: `rgba(${colour("fire")}, 0.55)`, size: 6 },
          hovertemplate: "feature %{customdata}<br>%{x}, %{y}<extra></extra>",
        },
      ],
      {
        height: 360,
        margin: { l: 60, r: 10, t: 10, b: 50 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
        xaxis: axis(x, found, colour),
        yaxis: axis(y, found, colour),
        hovermode: "closest",
      },
      { displayModeBar: false, responsive: true },
    );
    place.removeAllListeners("plotly_click");
    place.on("plotly_click", ({ points: [point] }) => {
      location.hash = shown.wish.with({ feature: point.customdata }).hash();
    });
  }

  function redraw() {
    if (!shown?.wish.plot) return;
    draw().catch((error) => {
      part("scatter").querySelector(".said").textContent = `No chart: ${error.message}.`;
    });
  }
  document.addEventListener("themechange", redraw);

  /** Show the chart if the wish has one; offer one in any case. */
  function show(dictionary, wish, change) {
    const fresh = shown?.dictionary !== dictionary;
    shown = { dictionary, wish, change };
    part("scatter").open = wish.plot !== null;
    const chosen = columns();
    ["x", "y"].forEach((axis, k) => {
      const select = part("scatter").querySelector(`[data-axis=${axis}]`);
      if (fresh)
        select.replaceChildren(
          ...[...dictionary.columns.keys()].map((name) =>
            element("option", { value: name }, saeflow.text.shown(name, { edges: false, limit: 60 }).textContent),
          ),
        );
      select.value = chosen[k].name;
    });
    redraw();
  }

  const plotted = () => Object.fromEntries(columns().map(({ name }, k) => [["x", "y"][k], name]));
  part("scatter").addEventListener("toggle", () => {
    if (shown && part("scatter").open !== (shown.wish.plot !== null)) {
      shown.change({ plot: part("scatter").open ? plotted() : null }, { keep: false });
    }
  });
  for (const select of part("scatter").querySelectorAll("select")) {
    select.addEventListener("change", () => {
      shown.change({ plot: { ...plotted(), [select.dataset.axis]: select.value } }, { keep: false });
    });
  }

  return { show };
})();
