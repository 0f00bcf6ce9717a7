"use strict";
// The table of all features of a dictionary: a hundred rows at a time, and what chooses and orders them.

saeflow.featureTable = (() => {
  const { element, numberOrWhy } = saeflow;
  const ROWS = 100;
  const GIST = 180; // characters of an explanation in a row

  const part = (id) => document.getElementById(id);
  let drawn = null; // the dictionary whose columns head the table

  /** What a feature is about, in a line: its explanation, or else the strongest tokens. */
  function gist(dictionary, feature) {
    const explanation = dictionary.explanations.get(feature);
    if (explanation !== undefined) {
      return element("bdi", { class: "gist" }, saeflow.text.shown(explanation, { edges: false, limit: GIST }));
    }
    const tokens = dictionary.strongestTokens(feature);
    if (!tokens.length)
      return numberOrWhy(null, dictionary.dead(feature) ?? "it has neither explanation nor fragments");
    const words = tokens.map((text) => saeflow.text.token(text, { limit: 24 }));
    return element("span", { class: "gist words" }, ...words);
  }

  /** `change` takes settings of a wish. */
  function head(dictionary, change) {
    const sort = (name, wish) =>
      change({
        sort: name,
        // First from small to large by number, from large to small by what is measured; then the other way round.
        down: wish.sort === name ? !wish.down : name !== null,
        page: 1,
      });
    const cell = (name, label, meaning, kind) =>
      element(
        "th",
        { scope: "col", class: kind, "data-column": name ?? "" },
        element(
          "button",
          { type: "button", title: meaning, onclick: () => sort(name, drawn.wish) },
          saeflow.text.shown(label, { edges: false, limit: 60 }),
        ),
      );
    part("features").tHead.rows[0].replaceChildren(
      cell(null, "Feature", "its number in the dictionary", "number"),
      element("th", { scope: "col" }, "Explanation, or strongest tokens"),
      ...[...dictionary.columns.values()].map(({ name, meaning }) => cell(name, name, meaning, "number")),
    );
    part("ranges")
      .querySelector(".ranges")
      .replaceChildren(...[...dictionary.columns.values()].map((column) => range(column, change)));
  }

  function range({ name, meaning }, change) {
    function changed(end, text) {
      const missing = end === "low" ? -Infinity : Infinity;
      const number = text.trim() === "" ? missing : Number(text);
      if (Number.isNaN(number)) return;
      const ranges = new Map(drawn.wish.ranges);
      const wanted = { low: -Infinity, high: Infinity, ...ranges.get(name), [end]: number };
      if (wanted.low === -Infinity && wanted.high === Infinity) ranges.delete(name);
      else ranges.set(name, wanted);
      change({ ranges, page: 1 }, { keep: false });
    }
    const field = (end, label) =>
      element(
        "label",
        {},
        `${label} `,
        element("input", {
          type: "number",
          step: "any",
          "data-column": name,
          "data-end": end,
          "aria-label": `${label}imum of ${name}`,
          oninput: (event) => changed(end, event.target.value),
        }),
      );
    return element(
      "div",
      { class: "range" },
      element("span", { class: "name" }, saeflow.text.shown(name, { edges: false, limit: 60 })),
      element("span", { class: "faint meaning" }, saeflow.text.shown(meaning, { edges: false, limit: 300 })),
      field("low", "min"),
      field("high", "max"),
    );
  }

  /** Show fields as the wish has them, save the one that is typed in. */
  function fill(wish) {
    const set = (field, property, value) => {
      if (field !== document.activeElement || property === "checked") field[property] = value;
    };
    set(part("query"), "value", wish.query);
    set(part("alive"), "checked", wish.alive);
    set(part("explained"), "checked", wish.explained);
    part("clear").hidden = !wish.narrows();
    for (const field of part("ranges").querySelectorAll("input")) {
      const bound = wish.ranges.get(field.dataset.column)?.[field.dataset.end];
      set(field, "value", Number.isFinite(bound) ? String(bound) : "");
    }
    const ranges = wish.ranges.size;
    part("ranges").querySelector("summary").textContent = ranges
      ? `Filter by numbers (${ranges})`
      : "Filter by numbers";
    if (ranges) part("ranges").open = true;
    for (const cell of part("features").tHead.rows[0].cells) {
      const column = cell.dataset.column;
      if (column === undefined) continue;
      if (column === (wish.sort ?? "")) cell.setAttribute("aria-sort", wish.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  function row(dictionary, feature, wish) {
    const columns = [...dictionary.columns.values()];
    return element(
      "tr",
      { "data-feature": feature },
      element(
        "th",
        { scope: "row", class: "number" },
        element("a", { href: wish.with({ feature }).hash() }, String(feature)),
      ),
      element("td", {}, gist(dictionary, feature)),
      ...columns.map((column) =>
        element("td", { class: "number" }, numberOrWhy(column.value(feature), column.why(feature))),
      ),
    );
  }

  function pages(wish, count, change) {
    const last = Math.max(1, Math.ceil(count / ROWS));
    const page = Math.min(wish.page, last);
    const to = (label, target, name) =>
      element(
        "button",
        {
          type: "button",
          "aria-label": name,
          disabled: target === page || target < 1 || target > last,
          onclick: () => {
            change({ page: target });
            part("table-view").scrollIntoView();
          },
        },
        label,
      );
    part("pages").hidden = last === 1;
    part("pages").replaceChildren(
      to("«", 1, "First page"),
      to("‹", page - 1, "Previous page"),
      element(
        "label",
        {},
        "Page ",
        element("input", {
          type: "number",
          min: 1,
          max: last,
          value: page,
          onchange: (event) =>
            change({ page: Math.min(last, Math.max(1, Math.floor(Number(event.target.value)) || 1)) }),
        }),
        ` of ${last.toLocaleString("en")}`,
      ),
      to("›", page + 1, "Next page"),
      to("»", last, "Last page"),
    );
    return page;
  }

  /** Draw what a wish asks for. `change(settings)` is called with what the reader changes in it. */
  function show(dictionary, wish, change) {
    if (drawn?.dictionary !== dictionary) {
      drawn = { dictionary };
      head(dictionary, change);
    }
    drawn.wish = wish;
    const features = dictionary.select(wish);
    fill(wish);
    const page = pages(wish, features.length, change);
    const first = (page - 1) * ROWS;
    const rows = [...features.subarray(first, first + ROWS)].map((feature) => row(dictionary, feature, wish));
    part("features").tBodies[0].replaceChildren(...rows);
    saeflow.scatter.show(dictionary, wish, change);
    part("features").caption.textContent = `Features of ${dictionary.about.ref}`;
    part("count").textContent = counted(features.length, dictionary.size, first, rows.length, wish);
  }

  function counted(found, all, first, rows, wish) {
    const told = (number) => number.toLocaleString("en");
    const which = wish.narrows() ? `${told(found)} of ${told(all)} features` : `${told(all)} features`;
    if (found) return rows < found ? `${which}; rows ${told(first + 1)} to ${told(first + rows)}` : which;
    return all
      ? `None of the ${told(all)} features is like that. Search for less, or clear the filters.`
      : "This dictionary has no features.";
  }

  return { show, gist };
})();
