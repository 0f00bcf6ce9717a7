"use strict";
// The page of one feature: what it says about itself in numbers, in words, and in the text where it fires.

saeflow.featurePage = (() => {
  const { element, told, numberOrWhy, text } = saeflow;
  const DEAD = "it never fires on held-out text";
  let whole = false; // fragments, from one feature to the next

  const LONG = 600; // characters of an explanation that are shown at once

  const dash = (why) => element("p", { class: "faint" }, numberOrWhy(null, why), " ", text.shown(why, { edges: false, limit: LONG }));

  function table(caption, heads, rows, why) {
    if (!rows.length) return [element("h3", {}, caption), dash(why)];
    const head = heads.map(([label, kind, meaning]) =>
      element("th", { scope: "col", class: kind || null, title: meaning ?? null }, label),
    );
    return [
      element(
        "table",
        {},
        element("caption", {}, caption),
        element("thead", {}, element("tr", {}, ...head)),
        element("tbody", {}, ...rows),
      ),
    ];
  }

  const numbers = (...values) =>
    values.map(([value, why]) => element("td", { class: "number" }, numberOrWhy(value, why)));

  function statistics({ dictionary, wish }) {
    const rows = [...dictionary.columns.values()].map((column) =>
      element(
        "tr",
        {},
        element(
          "th",
          { scope: "row" },
          element(
            "span",
            { title: column.meaning, class: "hint" },
            text.shown(column.name, { edges: false, limit: 60 }),
          ),
        ),
        ...numbers([column.value(wish.feature), column.why(wish.feature)]),
      ),
    );
    return element(
      "section",
      {},
      element("h2", {}, "Statistics"),
      element(
        "table",
        { class: "statistics" },
        element("caption", { class: "unseen" }, "Statistics of the feature"),
        element("tbody", {}, ...rows),
      ),
    );
  }

  function histogram({ entry, dead }) {
    if (entry.histogram) return element("section", {}, ...saeflow.histogram.section(entry.histogram));
    return element("section", {}, element("h2", {}, "Activations"), dash(dead ?? "no activation was kept"));
  }

  function logits({ dictionary, entry }) {
    const promoted = entry.promoted ?? [],
      suppressed = entry.suppressed ?? [];
    const strongest = Math.max(...[...promoted, ...suppressed].map(([, logit]) => Math.abs(logit)));
    const list = (caption, found, kind) =>
      element(
        "div",
        {},
        ...table(
          caption,
          [["token"], ["logit", "number"]],
          found.map(([token, logit]) => {
            const value = element("td", { class: `number bar ${kind}` }, told(logit));
            value.style.setProperty("--share", strongest > 0 ? Math.abs(logit) / strongest : 0);
            return element("tr", {}, element("td", {}, text.token(dictionary.tokens[token], { limit: 40 })), value);
          }),
        ),
      );
    const meaning =
      "what its written direction adds to the logits of the next token, through the last norm and the unembedding";
    const none = dictionary.about.logits_undefined ?? "none was computed";
    return element(
      "section",
      {},
      element("h2", { title: meaning, class: "hint" }, "Next tokens"),
      promoted.length + suppressed.length === 0
        ? dash(none)
        : element("div", { class: "pair" }, list("Promoted", promoted, "up"), list("Suppressed", suppressed, "down")),
    );
  }

  function others({ dictionary, entry, wish, dead }) {
    const feature = (number) =>
      element("td", { class: "number" }, element("a", { href: wish.with({ feature: number }).hash() }, String(number)));
    const about = (number) => element("td", {}, saeflow.featureTable.gist(dictionary, number));
    const neighbours = entry.neighbours.map(([other, cosine]) =>
      element("tr", {}, feature(other), ...numbers([cosine]), about(other)),
    );
    const partners = entry.partners.map(([other, rows, jaccard, phi]) =>
      element(
        "tr",
        {},
        feature(other),
        ...numbers([rows], [jaccard], [phi, "one of the two is active on every row"]),
        about(other),
      ),
    );
    return element(
      "section",
      {},
      element("h2", {}, "Other features"),
      ...table(
        "Nearest directions",
        [
          ["feature", "number"],
          ["cosine", "number", "of the decoder's directions, over the whole dictionary"],
          ["about"],
        ],
        neighbours,
        "the dictionary has no other feature",
      ),
      ...table(
        "Active together",
        [
          ["feature", "number"],
          ["rows", "number", "on which both are active"],
          ["Jaccard", "number", "rows with both / rows with either"],
          ["φ", "number", "correlation of being active"],
          ["about"],
        ],
        partners,
        dead ?? "it is never active together with another",
      ),
    );
  }

  function links({ dictionary, wish }) {
    const found = dictionary.links.get(wish.feature) ?? [];
    if (!found.length) return null;
    const heads = { upstream: "Upstream in circuits", downstream: "Downstream in circuits", study: "Studies" };
    const lists = Object.entries(heads).flatMap(([kind, label]) => {
      const items = found
        .filter(([its]) => its === kind)
        .map(([, said, href]) => {
          const name = element("bdi", {}, text.shown(said, { edges: false, limit: 200 }));
          // A page of this site: what names a scheme or another host leads elsewhere, or is a script.
          return element(
            "li",
            {},
            /^(\s*[a-z][a-z0-9+.-]*:|[/\\]{2})/i.test(href) ? name : element("a", { href }, name),
          );
        });
      return items.length ? [element("h3", {}, label), element("ul", {}, ...items)] : [];
    });
    return element("section", {}, element("h2", {}, "Links"), ...lists);
  }

  const NAMES = { top: "strongest", interval: "of the tenths", random: "random" };

  function explanation({ explained, contexts, options, dead }) {
    const said = explained?.flatMap((study) => ofStudy(study, contexts, options)) ?? [
      dash(dead ?? "this feature was not among those that were explained"),
    ];
    return element("section", { class: "explanation" }, element("h2", {}, "Explanation"), ...said);
  }

  /** What one study said of the feature, and how well that does. */
  function ofStudy({ title, text: said, reason, explainer, scores, simulated }, contexts, options) {
    const made = [element("h3", {}, element("bdi", {}, text.shown(title, { edges: false, limit: 200 })))];
    if (said === null) made.push(dash(reason));
    else {
      const quoted = (limit) =>
        element("blockquote", {}, element("bdi", {}, text.shown(said, { edges: false, limit })));
      made.push(quoted(LONG));
      if (said.length > LONG)
        made.push(element("details", {}, element("summary", {}, "The whole explanation"), quoted(Infinity)));
    }
    if (explainer)
      made.push(element("p", { class: "faint" }, "by ", element("bdi", {}, text.shown(explainer, { edges: false }))));
    if (scores.length) {
      made.push(
        element(
          "dl",
          { class: "scores" },
          ...scores.map(([name, value, why]) =>
            element(
              "div",
              {},
              element("dt", {}, text.shown(name, { edges: false, limit: 60 })),
              element("dd", {}, numberOrWhy(value, why)),
            ),
          ),
        ),
      );
    }
    if (simulated.length) made.push(simulation(simulated, contexts, options));
    return made;
  }

  /** Real above simulated, token by token. */
  function simulation(simulated, contexts, options) {
    const brightest =
      Math.max(...simulated.flatMap(([, , values]) => values.filter((value) => value !== null)), 0) || 1;
    let missing = 0;
    const items = simulated.flatMap(([kind, rank, values]) => {
      const context = contexts[kind]?.find((each) => each.rank === rank);
      if (context) return [saeflow.contexts.item(context, { ...options, simulated: values, brightest })];
      missing += 1;
      return [];
    });
    const kinds = [...new Set(simulated.map(([kind]) => NAMES[kind] ?? kind))].join(" and ");
    return element(
      "details",
      { open: true },
      element("summary", {}, "Real and simulated"),
      element(
        "p",
        { class: "faint" },
        `The ${kinds} fragments that it was scored on. Behind each token is the real activation; the bar below is what the ` +
          "simulator, which knew only the explanation, expected.",
        missing ? ` ${missing} more ${missing === 1 ? "is" : "are"} not among the fragments of this page.` : "",
      ),
      element("ol", { class: "contexts" }, ...items),
    );
  }

  const SECTIONS = [
    ["top", "Strongest fragments", "the fragments with its largest activations"],
    ["interval", "From weak to strong", "one fragment of each tenth of those in which it fires"],
    ["random", "Random fragments", "of all in which it fires"],
  ];

  function fragments({ contexts, options, dead }, redraw) {
    const toggle = element(
      "label",
      { class: "check controls" },
      element("input", {
        type: "checkbox",
        checked: whole,
        onchange: (event) => {
          whole = event.target.checked;
          redraw();
        },
      }),
      " whole fragments",
    );
    const lists = SECTIONS.map(([kind, title, meaning], k) => {
      const found = contexts[kind] ?? [];
      return element(
        "section",
        {},
        element(
          "div",
          { class: "head" },
          element("h2", { class: "hint", title: meaning }, title),
          ...(k === 0 ? [toggle] : []),
        ),
        found.length
          ? element("ol", { class: "contexts" }, ...found.map((each) => saeflow.contexts.item(each, options)))
          : dash(dead ?? "all fragments in which it fires are among the strongest"),
      );
    });
    return element("div", {}, ...lists);
  }

  function steps({ dictionary, wish, order, at }) {
    const step = (label, feature, relation, name) =>
      feature === undefined
        ? element("span", { class: "button off" }, label)
        : element(
            "a",
            { class: "button", rel: relation, "aria-label": name, href: wish.with({ feature }).hash() },
            label,
          );
    const told = (number) => number.toLocaleString("en");
    const page = at < 0 ? wish.page : saeflow.featureTable.pageOf(at);
    const back = wish.with({ feature: null, page });
    const there = `try.html#${encodeURIComponent(dictionary.about.slug)}/${wish.feature}`; // which a file cannot answer
    return element(
      "nav",
      { class: "steps controls", "aria-label": "Features" },
      element("a", { class: "button", href: back.hash(), "data-back": true }, "← all features"),
      element(
        "span",
        { class: "faint" },
        at < 0 ? `not among the ${told(order.length)} of this search` : `${told(at + 1)} of ${told(order.length)}`,
      ),
      step("‹ prev", order[at - 1], "prev", "Previous feature"),
      step("next ›", order[at + 1], "next", "Next feature"),
      location.protocol.startsWith("http") ? element("a", { class: "button", href: there }, "try it") : null,
    );
  }

  /** Draw the page of `wish.feature` into `view`. `data` is of Dictionary.feature, `order` the features of the wish. */
  function show(view, { dictionary, wish, order, at, data, name }) {
    const { entry, windows, explained } = data;
    const contexts = saeflow.contexts.all(entry, windows);
    const maxima = Object.values(contexts)
      .flat()
      .map((context) => context.maximum);
    const dead = dictionary.dead(wish.feature) === null ? null : DEAD;
    const page = {
      dictionary,
      wish,
      entry,
      explained,
      contexts,
      dead,
      order,
      at,
      options: { texts: dictionary.tokens, highest: Math.max(...maxima, 0) || 1, whole },
    };
    saeflow.histogram.clear();
    const column = element("div", {});
    const redraw = () => {
      page.options = { ...page.options, whole };
      column.replaceChildren(explanation(page), fragments(page, redraw));
      column.querySelector(".check input").focus({ preventScroll: true });
    };
    column.append(explanation(page), fragments(page, redraw));
    const facts = [statistics(page), histogram(page), logits(page), others(page), links(page)];
    view.replaceChildren(
      steps(page),
      element("h1", { id: "feature-title", tabindex: -1 }, `Feature ${wish.feature}`),
      element("p", { class: "faint" },
        element("bdi", {}, text.shown(name, { edges: false, limit: 300 })), " at ",
        element("bdi", {}, text.shown(dictionary.about.hook_point, { edges: false, limit: 300 }))),
      ...(dead ? [element("p", { class: "note" }, "This feature is dead: it never fires on the held-out text.")] : []),
      element("div", { class: "columns" }, column, element("div", { class: "facts" }, ...facts.filter(Boolean))),
    );
  }

  return { show };
})();
