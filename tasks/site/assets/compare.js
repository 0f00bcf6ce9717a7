"use strict";
// How close the features of two dictionaries are: a histogram of each pair, drawn once it comes into view.

saeflow.compare = (() => {
  const { element, load } = saeflow;
  const drawn = new Map(); // place → data, to draw again when the theme changes

  async function draw(place, data) {
    const Plotly = await saeflow.plotly();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = { gridcolor: colour("line"), linecolor: colour("faint"), zeroline: false, fixedrange: true };
    const used = data.low.filter((_, bin) => data.counts.a[bin] || data.counts.b[bin]);
    const bars = (name, of, fill) => ({
      type: "bar", name: `features of ${of}`, x: data.low.map((low) => low + data.width / 2), y: data.shares[name],
      customdata: data.low.map((low, bin) => [`${low.toFixed(2)} to ${(low + data.width).toFixed(2)}`, data.counts[name][bin]]),
      hovertemplate: `cosine %{customdata[0]}<br>%{customdata[1]} features of ${of}, %{y:.1%}<extra></extra>`, marker: { color: fill },
    });
    const edge = (x, text) => ({
      shape: { type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: colour("faint"), dash: "dot" } },
      label: { x, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, text, font: { color: colour("faint") } },
    });
    const edges = [edge(data.lost, "lost, gained below"), edge(data.kept, "kept from here")];
    await Plotly.react(place, [
      bars("a", "A", colour("accent")), bars("b", "B", `rgb(${colour("fire")})`),
    ], {
      height: 350, margin: { l: 56, r: 8, t: 28, b: 76 }, bargap: 0.08, barmode: "group",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
      legend: { orientation: "h", x: 0, y: -0.24 },
      shapes: edges.map(({ shape }) => shape), annotations: edges.map(({ label }) => label),
      xaxis: { ...axis, range: [Math.min(...used, data.lost - data.width), 1], title: { text: "cosine with the nearest of the other" } },
      yaxis: { ...axis, title: { text: "share of the features" } },
    }, { displayModeBar: false, responsive: true });
  }

  async function show(place) {
    try {
      drawn.set(place, await load(place.dataset.load));
      await draw(place, drawn.get(place));
    } catch (error) {
      place.replaceChildren(element("p", { class: "faint" }, `No plot: ${error.message}. matches.parquet has the numbers.`));
    }
  }

  document.addEventListener("themechange", () => drawn.forEach((data, place) => draw(place, data).catch(() => {})));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      seen.unobserve(entry.target);
      show(entry.target);
    }
  }, { rootMargin: "200px" });
  document.querySelectorAll(".plot[data-load]").forEach((place) => seen.observe(place));

  return { drawn };
})();
