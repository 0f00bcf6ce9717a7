"use strict";
// Fragments of text in which a feature fires: each token as bright as the feature is strong there, and what it is worth
// when one points at it, or goes there by key.

saeflow.contexts = (() => {
  const { element, told } = saeflow;
  const BEFORE = 22,
    BEHIND = 10; // tokens around the peak that are shown at first
  const LONGEST = 40; // characters of a token there

  const facts = new WeakMap(); // token's element → what the readout says of it

  /** A context of a shard with its text: an array of values with zeros, effects by position. */
  function opened([window, maximum, rank, positions, activations, effects], kind, windows) {
    const [row, start, tokens] = windows[window];
    const values = new Float64Array(tokens.length);
    const losses = new Map();
    positions.forEach((position, k) => {
      values[position] = activations[k];
      if (effects) losses.set(position, effects[k]);
    });
    return { kind, rank, maximum, row, start, tokens, values, losses, peak: values.indexOf(Math.max(...values)) };
  }

  /** Text of a context; `whole` or cut around its peak. `simulated`: a value or null of each token, for a bar below. */
  function line(context, { texts, highest, whole, simulated = null, brightest = 1 }) {
    const { tokens, values, losses, peak } = context;
    const first = whole ? 0 : Math.max(0, peak - BEFORE);
    const end = whole ? tokens.length : Math.min(tokens.length, peak + BEHIND + 1);
    const made = element("p", { class: simulated ? "text simulated" : "text" });
    if (first > 0) made.append(element("span", { class: "faint" }, "…\u00a0"));
    for (let at = first; at < end; at++) {
      const text = texts[tokens[at]];
      const value = values[at];
      const word = element(
        "bdi",
        { class: "token", dir: "ltr", tabindex: at === peak ? 0 : -1 },
        saeflow.text.shown(text, { edges: false, limit: whole ? Infinity : LONGEST }),
      );
      if (value !== 0) {
        word.classList.add(value > 0 ? "hot" : "cold");
        word.style.setProperty("--heat", Math.min(1, Math.max(0.06, Math.abs(value) / highest)).toFixed(3));
      }
      if (at === peak) word.classList.add("peak");
      if (simulated) {
        if (simulated[at] === null || simulated[at] === undefined) word.classList.add("unsaid");
        else word.style.setProperty("--said", Math.min(1, Math.max(0, simulated[at] / brightest)).toFixed(3));
      }
      facts.set(word, {
        text,
        value,
        effect: losses.has(at) ? losses.get(at) : null,
        fires: value !== 0,
        simulated: simulated ? (simulated[at] ?? null) : undefined,
        place: `row ${context.row}, token ${context.start + at}`,
      });
      made.append(word);
    }
    if (end < tokens.length) made.append(element("span", { class: "faint" }, "\u00a0…"));
    return made;
  }

  /** A context as an entry of a list, which can be widened to the whole fragment. */
  function item(context, options) {
    const { peak, tokens } = context;
    const cut =
      peak > BEFORE ||
      peak + BEHIND + 1 < tokens.length ||
      tokens.some((token) => options.texts[token].length > LONGEST);
    let whole = options.whole;
    const made = element("li", {});
    const button = element("button", {
      type: "button",
      class: "widen controls",
      onclick: () => {
        whole = !whole;
        draw();
      },
    });
    function draw() {
      button.textContent = whole ? "less" : "more";
      button.setAttribute("aria-expanded", String(whole));
      button.setAttribute("aria-label", whole ? "Only around the peak" : "The whole fragment");
      made.querySelector(".text").replaceWith(line(context, { ...options, whole }));
    }
    made.append(
      element(
        "span",
        { class: "maximum", title: `maximum in row ${context.row}, from token ${context.start}` },
        told(context.maximum),
      ),
      element("p", { class: "text" }),
      ...(cut ? [button] : []),
    );
    draw();
    return made;
  }

  /** Every context of a shard's entry, by kind. */
  const all = (entry, windows) =>
    Object.fromEntries(
      Object.entries(entry.contexts).map(([kind, found]) => [kind, found.map((each) => opened(each, kind, windows))]),
    );

  // The readout: what a token is worth, beside it. One for the page, for the pointer and for the keyboard.

  let pointed = null;

  function point(word) {
    const readout = document.getElementById("readout");
    const { text, value, fires, effect, simulated, place } = facts.get(word);
    const line = (label, said) => [element("dt", {}, label), element("dd", {}, said)];
    readout.replaceChildren(
      saeflow.text.token(text, { limit: 120 }),
      element(
        "dl",
        {},
        ...line("value", told(value)),
        ...(simulated === undefined
          ? []
          : line("simulated", simulated === null ? "— (the simulator gave no value)" : told(simulated))),
        ...line(
          "loss effect",
          effect !== null ? `${told(effect)} nats` : fires ? "— (not measured here)" : "— (it does not fire here)",
        ),
      ),
      element("span", { class: "faint" }, place),
    );
    readout.hidden = false;
    pointed?.removeAttribute("aria-describedby");
    pointed = word;
    pointed.setAttribute("aria-describedby", "readout");
    follow();
  }

  /** Put the readout beside its token, wherever that was scrolled to. */
  function follow() {
    const readout = document.getElementById("readout");
    if (readout.hidden) return;
    const rectangles = [...pointed.getClientRects()];
    if (!rectangles.length) {
      // its page is gone
      leave();
      return;
    }
    // Of a token that is broken over lines, the longer part.
    const at = rectangles.reduce((one, other) => (other.width > one.width ? other : one));
    const { width, height } = readout.getBoundingClientRect();
    const left = Math.max(4, Math.min(at.left, document.documentElement.clientWidth - width - 4));
    const above = at.top - height - 6;
    readout.style.left = `${left}px`;
    readout.style.top = `${above > 0 ? above : at.bottom + 6}px`;
  }

  function leave() {
    document.getElementById("readout").hidden = true;
  }

  /** Point at tokens within an element by pointer and by focus, and go from one to the next by ← and →. */
  function listen(within) {
    const tokenOf = (event) => event.target.closest?.(".token");
    let clicked = null; // a click focuses too, but whoever clicked still turns the pages with the arrows
    within.addEventListener("pointerdown", (event) => {
      clicked = tokenOf(event);
    });
    within.addEventListener("pointerover", (event) => (tokenOf(event) ? point(tokenOf(event)) : leave()));
    within.addEventListener("pointerleave", leave);
    within.addEventListener("focusin", (event) => tokenOf(event) && point(tokenOf(event)));
    within.addEventListener("focusout", (event) => {
      leave();
      if (tokenOf(event) === clicked) clicked = null;
    });
    document.addEventListener("scroll", follow, { passive: true });
    within.addEventListener("keydown", (event) => {
      const word = tokenOf(event);
      if (!word || word === clicked || event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        word.blur();
      }
      const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const next = word[step];
      if (!next?.matches(".token")) return;
      word.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  return { all, item, listen };
})();
