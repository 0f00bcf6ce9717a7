"use strict";
// What every page shares: data that comes in scripts, elements made without markup, the theme, tables that sort.

const saeflow = (() => {
  const waiting = new Map(); // name → {promise, resolve}

  /** Called by a data script: what `load` of the same name waits for. */
  function receive(name, data) {
    const entry = waiting.get(name);
    if (!entry) return;
    entry.received = true;
    entry.resolve(data);
  }

  /** The data of `NAME.js` beside the page, which is loaded once. */
  function load(name) {
    if (!waiting.has(name)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => {
        entry.resolve = resolve;
        const script = document.createElement("script");
        script.src = name.split("/").map(encodeURIComponent).join("/") + ".js";
        script.onerror = () => {
          waiting.delete(name); // so that the next attempt asks again
          reject(new Error(`${name}.js cannot be loaded`));
        };
        script.onload = () => {
          script.remove();
          if (entry.received) return;
          waiting.delete(name);
          reject(new Error(`${name}.js holds no data: it was not written to its end, or of another version`));
        };
        document.head.append(script);
      });
      waiting.set(name, entry);
    }
    return waiting.get(name).promise;
  }

  /** Let go of data that was loaded: whoever wants it again loads it again. */
  function forget(name) {
    waiting.delete(name);
  }

  let drawing = null;

  /** Plotly, which is loaded when the first chart is drawn: 5 MB that no page waits for. */
  function plotly() {
    drawing ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "assets/plotly.min.js";
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => {
        drawing = null;
        reject(new Error("assets/plotly.min.js cannot be loaded"));
      };
      document.head.append(script);
    });
    return drawing;
  }

  /** An element with attributes and children, of which texts stay text. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  /** A number as tables tell it: four digits; "—" where it is missing. */
  function told(value) {
    if (value === null || value === undefined) return "—";
    if (Number.isInteger(value)) return String(value);
    const size = Math.abs(value);
    return size >= 1e-4 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(3);
  }

  /** A cell's content: the number, or a dash that says on hover, and to a screen reader, why there is none. */
  function numberOrWhy(value, why) {
    if (value !== null && value !== undefined) return document.createTextNode(told(value));
    return why ? element("abbr", { title: why }, "—") : document.createTextNode("—");
  }

  const theme = {
    get: () => document.documentElement.dataset.theme,
    set(name) {
      document.documentElement.dataset.theme = name;
      const button = document.getElementById("theme");
      if (button) button.textContent = name === "dark" ? "Light" : "Dark";
      document.dispatchEvent(new CustomEvent("themechange"));
    },
  };
  let kept = null;
  try { kept = localStorage.getItem("saeflow-theme"); } catch { /* a browser may refuse storage to files */ }
  theme.set(kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

  /** Let the header cells of a table sort its rows: numbers by `data-value` where a cell has it, text otherwise. */
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = element("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending" && head.classList.contains("number")
          || head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => {
          const cell = row.cells[column];
          if (!head.classList.contains("number")) return cell.textContent;
          return cell.dataset.value === undefined || cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
        };
        for (const body of table.tBodies) {
          const rows = [...body.rows].map((row) => [key(row), row]);
          rows.sort(([a], [b]) => {
            if (typeof a === "string") return down ? b.localeCompare(a) : a.localeCompare(b);
            if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // missing ones last
            return down ? b - a : a - b;
          });
          body.append(...rows.map(([, row]) => row));
        }
      });
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    theme.set(theme.get()); // the button is there now
    document.getElementById("theme")?.addEventListener("click", () => {
      const name = theme.get() === "dark" ? "light" : "dark";
      try { localStorage.setItem("saeflow-theme", name); } catch { /* not kept, then */ }
      theme.set(name);
    });
    document.querySelectorAll("table.sortable").forEach(sortable);
  });

  return { receive, load, forget, plotly, element, told, numberOrWhy, theme, sortable };
})();
