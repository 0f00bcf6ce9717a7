"use strict";
// How strong a feature is where it is active: a chart for the eye, which is drawn after all that is text, when the reader
// stays, and a table for everyone.

saeflow.histogram = (() => {
  const { element, told } = saeflow;
  const STAYS = 200; // milliseconds: Plotly takes longer than that to be loaded, and nothing else happens meanwhile
  let coming; // the timer of the next drawing
  let shown = null; // what to draw again when the theme changes
  let logarithmic = false; // from one feature to the next

  async function draw({ place, low, high, counts }) {
    const Plotly = await saeflow.plotly();
    if (!place.isConnected) return; // the reader has gone on
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const width = (high - low) / counts.length || 1;
    const axis = { gridcolor: colour("line"), linecolor: colour("faint"), zeroline: false, fixedrange: true };
    await Plotly.react(
      place,
      [
        {
          type: "bar",
          x: counts.map((_, bin) => low + (bin + 0.5) * width),
          y: counts,
          width: counts.map(() => width),
          customdata: counts.map((_, bin) => [told(low + bin * width), told(low + (bin + 1) * width)]),
          hovertemplate: "%{customdata[0]} to %{customdata[1]}<br>%{y} tokens<extra></extra>",
          marker: { color: `rgb(${colour("fire")})`, line: { color: colour("paper"), width: 1 } },
        },
      ],
      {
        height: 210,
        margin: { l: 48, r: 8, t: 8, b: 38 },
        bargap: 0,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
        xaxis: { ...axis, title: { text: "activation", standoff: 6 } },
        yaxis: {
          ...axis,
          title: { text: "tokens", standoff: 6 },
          type: logarithmic ? "log" : "linear",
          dtick: logarithmic ? 1 : undefined,
        },
      },
      { displayModeBar: false, responsive: true },
    );
  }

  function redraw() {
    if (!shown) return;
    draw(shown).catch((error) =>
      shown.place.replaceChildren(
        element("p", { class: "faint" }, `No chart: ${error.message}. The table below has the same numbers.`),
      ),
    );
  }
  document.addEventListener("themechange", redraw);

  /** The chart with its switch and its table; drawn once it is in the page and the text is painted. */
  function section({ low, high, counts }) {
    const place = element("div", {
      class: "chart",
      role: "img",
      "aria-label":
        `Histogram of ${counts.reduce((sum, count) => sum + count, 0)} activations from ${told(low)} to ` +
        `${told(high)} in ${counts.length} bins, of which the table below has the numbers.`,
    });
    const scale = element(
      "button",
      {
        type: "button",
        class: "controls",
        "aria-pressed": String(logarithmic),
        onclick: () => {
          logarithmic = !logarithmic;
          scale.setAttribute("aria-pressed", String(logarithmic));
          redraw();
        },
      },
      "log scale",
    );
    const width = (high - low) / counts.length;
    const rows = counts.map((count, bin) =>
      element(
        "tr",
        {},
        element("td", { class: "number" }, told(low + bin * width)),
        element("td", { class: "number" }, told(low + (bin + 1) * width)),
        element("td", { class: "number" }, told(count)),
      ),
    );
    const heads = ["from", "to", "tokens"].map((label) => element("th", { scope: "col", class: "number" }, label));
    shown = { place, low, high, counts };
    clearTimeout(coming);
    coming = setTimeout(redraw, STAYS);
    return [
      element("div", { class: "head" }, element("h2", {}, "Activations"), scale),
      place,
      element(
        "details",
        {},
        element("summary", {}, "As a table"),
        element(
          "table",
          {},
          element("caption", { class: "unseen" }, "Histogram of activations"),
          element("thead", {}, element("tr", {}, ...heads)),
          element("tbody", {}, ...rows),
        ),
      ),
    ];
  }

  /** There is no chart on the page any more. */
  function clear() {
    clearTimeout(coming);
    shown = null;
  }

  return { section, clear };
})();
