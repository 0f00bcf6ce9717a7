"use strict";
// The feature browser: shows what the URL wishes (features-wish.js), and makes URLs of what the reader does.

(() => {
  const { element } = saeflow;
  const TYPING = 120; // milliseconds after which a search follows the last key

  const part = (id) => document.getElementById(id);
  const title = document.title;
  let wish = null; // what is on the screen
  let turn = 0; // of showing: data that comes late for an earlier one is not shown
  let returning = 0; // how far down the table was

  const dictionaries = saeflow.load("data/dictionaries");

  /** Show what the URL asks for. */
  async function show() {
    const mine = ++turn;
    performance.mark("show");
    const asked = saeflow.Wish.read(location.hash);
    if (wish === null) part("table-view").hidden = asked.feature !== null;
    const waiting = setTimeout(() => {
      part("loading").hidden = false;
    }, 300);
    try {
      const known = await dictionaries;
      const chosen = asked.slug === null ? known[0] : known.find(({ slug }) => slug === asked.slug);
      if (mine === turn) choose(known, chosen);
      if (!chosen)
        throw new Missing(
          asked.slug === null
            ? "This report has no dictionary to look into."
            : `This report has no dictionary '${asked.slug}'.`,
          known,
        );
      const dictionary = await saeflow.dictionary.open(chosen.slug);
      const next = asked.with({ slug: chosen.slug });
      if (next.feature !== null && next.feature >= dictionary.size) {
        throw new Missing(
          `There is no feature ${next.feature} in ${chosen.slug}, which has ${dictionary.size.toLocaleString("en")}` +
            `${dictionary.size ? `: 0 to ${dictionary.size - 1}` : ""}.`,
          [chosen],
        );
      }
      const data = next.feature === null ? null : await dictionary.feature(next.feature);
      if (mine === turn) draw(dictionary, chosen, next, data);
    } catch (error) {
      if (mine === turn) complain(error);
    } finally {
      clearTimeout(waiting);
      if (mine === turn) part("loading").hidden = true;
    }
  }

  function draw(dictionary, chosen, next, data) {
    part("message").replaceChildren();
    const before = wish;
    if (before && before.feature === null && next.feature !== null) returning = window.scrollY;
    wish = next;
    part("table-view").hidden = data !== null;
    part("feature-view").hidden = data === null;
    if (data === null) {
      saeflow.histogram.clear();
      part("feature-view").replaceChildren();
      part("about").replaceChildren(about(dictionary));
      document.title = title;
      saeflow.featureTable.show(dictionary, next, change);
      if (before && before.feature !== null) comeBack(before.feature);
    } else {
      const order = dictionary.select(next);
      const at = order.indexOf(next.feature);
      document.title = `Feature ${next.feature} · ${title}`;
      saeflow.featurePage.show(part("feature-view"), { dictionary, wish: next, order, at, data, name: chosen.name });
      // From feature to feature one compares the same part of the page.
      if (before?.feature == null) window.scrollTo(0, 0);
      if (before) part("feature-title").focus({ preventScroll: true });
      (window.requestIdleCallback ?? setTimeout)(() => {
        const near = [order[at + 1], order[at - 1]].filter((feature) => feature !== undefined);
        for (const feature of near) dictionary.feature(feature).catch(() => {}); // told when it is opened
      });
    }
    requestAnimationFrame(() => setTimeout(() => performance.measure(data ? "feature" : "table", "show")));
  }

  /** To where the reader left the table, with the feature that was looked at last in focus. */
  function comeBack(feature) {
    const row = part("features").querySelector(`tr[data-feature="${feature}"] a`);
    window.scrollTo(0, returning);
    (row ?? part("table-title")).focus({ preventScroll: true });
    row?.scrollIntoView({ block: "nearest" });
  }

  function about(dictionary) {
    const { model, hook_point, method, rows, parameters } = dictionary.about;
    const told = Object.entries(parameters)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
    const said = [model, hook_point, [method, ...told].join(" "), `${rows.toLocaleString("en")} held-out tokens`];
    return element("bdi", {}, saeflow.text.shown(said.join(" · "), { edges: false, limit: 600 }));
  }

  function choose(known, chosen) {
    const select = part("dictionary");
    if (select.disabled) {
      select.replaceChildren(
        ...known.map(({ slug, name }) => {
          const option = element("option", { value: slug });
          option.append(saeflow.text.shown(name, { edges: false, limit: 120 }).textContent);
          return option;
        }),
      );
      select.disabled = known.length === 0;
    }
    if (chosen) select.value = chosen.slug;
  }

  class Missing extends Error {
    constructor(message, instead) {
      super(message);
      this.instead = instead;
    }
  }

  /** Say what is not there, and where to go instead. */
  function complain(error) {
    wish = null;
    part("table-view").hidden = true;
    part("feature-view").hidden = true;
    const missing = error instanceof Missing;
    if (!missing && !/cannot be loaded|holds no data/.test(error.message))
      setTimeout(() => {
        throw error;
      }); // ours: let it be seen
    const instead = missing ? error.instead : [];
    const said = saeflow.text.shown(error.message, { edges: false, limit: 300 });
    part("message").replaceChildren(
      element(
        "div",
        { class: "note" },
        element("h1", {}, missing ? "Not in this report" : "Data is missing"),
        element("p", {}, element("bdi", {}, said)),
        missing
          ? null
          : element(
              "p",
              {},
              "The report's folder must be copied whole: features.html with assets, browse and data beside it. " +
                "If it is whole, make the report again.",
            ),
        ...(instead.length
          ? [
              element("p", {}, "Look at:"),
              element(
                "ul",
                {},
                ...instead.map(({ slug, name }) =>
                  element(
                    "li",
                    {},
                    element(
                      "a",
                      { href: new saeflow.Wish({ slug }).hash() },
                      element("bdi", {}, saeflow.text.shown(name, { edges: false, limit: 120 })),
                    ),
                  ),
                ),
              ),
            ]
          : []),
      ),
    );
  }

  /** Follow a change that the reader makes. With `keep`, what was before is one step back. */
  function change(settings, { keep = true } = {}) {
    const hash = wish.with(settings).hash();
    if (hash === location.hash) return null;
    if (keep) history.pushState(null, "", hash);
    else history.replaceState(null, "", hash);
    return show();
  }

  window.addEventListener("hashchange", (event) => {
    // The link that skips to the content has its own "#": it moves the focus, and what is shown stays.
    if (location.hash === "#content")
      history.replaceState(null, "", new URL(event.oldURL).hash || location.pathname + location.search);
    else show();
  });

  part("dictionary").addEventListener("change", (event) => {
    const { query = "", sort = null, down = false } = wish ?? {};
    location.hash = new saeflow.Wish({ slug: event.target.value, query, sort, down }).hash();
  });
  let typing;
  async function search() {
    clearTimeout(typing);
    if (wish && wish.query !== part("query").value)
      await change({ query: part("query").value, page: 1 }, { keep: false });
  }
  part("query").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, TYPING);
  });
  part("query").addEventListener("keydown", async (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    await search();
    part("features").tBodies[0].querySelector("a")?.click();
  });
  part("wish").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["alive", "explained"]) {
    part(name).addEventListener("change", (event) => change({ [name]: event.target.checked, page: 1 }));
  }
  part("clear").addEventListener("click", () => {
    part("query").focus();
    part("query").value = "";
    change({ query: "", alive: false, explained: false, ranges: new Map(), page: 1 });
  });
  part("features").tBodies[0].addEventListener("click", (event) => {
    const marking = String(getSelection()) !== "";
    if (!marking && !event.target.closest("a, abbr")) event.target.closest("tr")?.querySelector("a").click();
  });
  saeflow.contexts.listen(part("feature-view"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !wish) return;
    const inField = event.target.matches("input, select, textarea") && event.target.type !== "checkbox";
    if (event.key === "Escape" && inField) event.target.blur();
    else if (event.key === "Escape" && wish.feature !== null) location.hash = wish.with({ feature: null }).hash();
    else if (inField) return;
    else if (event.key === "/") {
      event.preventDefault();
      if (wish.feature !== null) change({ feature: null });
      // The table is drawn as soon as its data is at hand, which it is: the feature came from it.
      setTimeout(() => part("query").focus());
    } else if (wish.feature !== null && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      part("feature-view")
        .querySelector(`[rel=${event.key === "ArrowLeft" ? "prev" : "next"}]`)
        ?.click();
    }
  });

  show();
})();
