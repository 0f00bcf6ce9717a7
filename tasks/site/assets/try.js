"use strict";
// Try it: which features fire on a text as it is typed, and what the model writes with one of them changed.
// The report server answers (flows/try_routes.py); elsewhere the page says how to start it.

(() => {
  const { element, told } = saeflow;
  const FIRST = 5; // features of a token that are shown before somebody asks for all of them
  const PAUSE = 250; // milliseconds without a key before the text is read
  const BUSY = 503;
  const LONG = 300; // characters of an explanation or of a token of a feature

  const at = (id) => document.getElementById(id);
  const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

  let dictionaries = [];
  let featuresPage = false;
  let known = {}; // of the chosen dictionary: what is told of its features, where the report has it
  let answer = { tokens: [], feature: null, n_features: null };
  let strengthIsMine = false; // typed, and not proposed

  const dictionary = () => dictionaries.find((each) => each.slug === at("dictionary").value);
  const feature = () => {
    const value = at("feature").value;
    return /^\d+$/.test(value) ? Number(value) : null;
  };

  /** Whether it is the report server that gives out this page. */
  async function isServed() {
    if (!location.protocol.startsWith("http")) return false;
    try {
      const page = await fetch(location.pathname, { method: "HEAD" });
      return page.headers.get("Saeflow-Reports") === "try";
    } catch {
      return false;
    }
  }

  /** The response to a question; waits while the server answers another. Throws what is wrong, in words. */
  async function ask(route, question, waiting, signal) {
    for (;;) {
      const asked = question && {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal,
      };
      let response;
      try {
        response = await fetch(`try/${route}`, asked || {});
      } catch (error) {
        throw error.name === "AbortError" ? error : new Error("The report server does not answer. Is it still running?");
      }
      if (response.ok) return response;
      if (response.status !== BUSY) {
        const wrong = await response.json().catch(() => null);
        throw new Error(wrong?.error ?? `The server answers ${response.status}.`);
      }
      waiting("The server is answering another question; this one comes next.");
      await sleep(1000);
      signal?.throwIfAborted();
    }
  }

  function say(id, text, bad = false) {
    at(id).textContent = text;
    at(id).classList.toggle("bad", bad);
  }

  // What fires

  let reading = false;
  let readAgain = false;

  /** Ask which features fire; what is typed meanwhile is asked next, and only the last of it. */
  async function read() {
    readAgain = reading;
    if (reading) return;
    reading = true;
    do {
      readAgain = false;
      await readOnce();
    } while (readAgain);
    reading = false;
  }

  async function readOnce() {
    const slow = setTimeout(() => say("state", "Reading… The first time, the model is loaded."), 1500);
    const number = feature();
    try {
      const question = { dictionary: dictionary().slug, text: at("text").value, feature: number };
      const response = await ask("features", question, (text) => say("state", text));
      answer = { ...(await response.json()), number };
      const count = answer.tokens.length;
      say("state", `${count} token${count === 1 ? "" : "s"}, ${answer.n_features.toLocaleString("en")} features`);
      at("feature").max = answer.n_features - 1;
    } catch (error) {
      answer = { ...answer, number, tokens: [], feature: null };
      say("state", error.message, true);
    }
    clearTimeout(slow);
    show();
  }

  /** What a feature stands for, as nodes: its explanation, or the tokens at which it is strongest. */
  function description(number) {
    const said = (text) => element("bdi", {}, saeflow.text.shown(text, { edges: false, limit: LONG }));
    const explained = known.more?.explanations?.[number];
    if (explained) return [said(explained)];
    const tokens = known.index?.tokens?.[number] ?? [];
    return tokens.flatMap((token, place) => [place ? ", “" : "at “", said(known.tokens[token]), "”"]);
  }

  const statistic = (number, name) =>
    known.index?.columns.find((column) => column.name === name)?.values[number] ?? null;

  function link(number, ...content) {
    return featuresPage && dictionary().browse
      ? element("a", { href: `features.html#${dictionary().slug}/${number}` }, ...content)
      : element("span", {}, ...content);
  }

  let shown = null; // what the table shows

  function show() {
    showStrip();
    // Left alone where it would be the same again: whoever is in it with the keyboard stays where they are.
    const now = JSON.stringify([dictionary().slug, known.index !== undefined, answer.tokens]);
    if (now !== shown) showTokens();
    shown = now;
    showFeature();
  }

  function showStrip() {
    const values = answer.number === feature() ? answer.feature : null;
    const most = Math.max(...(values ?? []).map(Math.abs), 0);
    at("strip").replaceChildren(...answer.tokens.map((token, place) => {
      const value = values?.[place] ?? 0;
      const button = element("button", {
        type: "button",
        title: values ? `feature ${answer.number}: ${told(value)}` : `${token.active} features`,
        class: value ? `fires${value < 0 ? " negative" : ""}` : null,
        onclick: () => pick(place),
      }, saeflow.text.shown(token.text, { edges: false }));
      if (value) button.style.setProperty("--share", Math.abs(value) / most);
      return button;
    }));
  }

  function showTokens() {
    at("tokens").tBodies[0].replaceChildren(...answer.tokens.map((token) => {
      const list = element("ol", {}, ...entries(token, FIRST));
      const cell = element("td", {}, list);
      if (token.features.length > FIRST) {
        const all = element("button", {
          type: "button",
          onclick: () => { list.replaceChildren(...entries(token, Infinity)); all.remove(); },
        }, token.features.length < token.active
          ? `the ${token.features.length} strongest of ${token.active}` : `all ${token.active}`);
        cell.append(all);
      }
      return element("tr", {},
        element("th", { scope: "row" }, element("span", { class: "token mono" }, saeflow.text.shown(token.text))),
        element("td", { class: "number" }, String(token.active)),
        cell);
    }));
  }

  /** The features of a token, as items of a list. */
  function entries(token, count) {
    return token.features.slice(0, count).map((number, place) => element("li", {},
      link(number, String(number)),
      element("button", {
        type: "button",
        "aria-pressed": String(number === feature()),
        "aria-label": `Choose feature ${number}, which is ${told(token.values[place])}`,
        "data-feature": number,
        onclick: () => choose(number),
      }, told(token.values[place])),
      element("span", { class: "what" }, ...description(number))));
  }

  function pick(place) {
    const rows = [...at("tokens").tBodies[0].rows];
    rows.forEach((row, each) => row.classList.toggle("picked", each === place));
    rows[place].scrollIntoView({ block: "nearest" });
    const button = rows[place].querySelector("li button");
    if (button) button.focus({ preventScroll: true });
  }

  // The chosen feature

  function choose(number) {
    at("feature").value = number;
    strengthIsMine = false;
    featureChanged();
  }

  function featureChanged() {
    const number = feature();
    history.replaceState(null, "", `#${dictionary().slug}${number === null ? "" : `/${number}`}`);
    for (const button of at("tokens").querySelectorAll("button[data-feature]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.feature) === number));
    }
    read();
  }

  function showFeature() {
    const number = feature();
    at("page-of").replaceChildren(...(number === null || !(featuresPage && dictionary().browse) ? [] : [link(number, "its page")]));
    if (number === null) {
      at("about").textContent = "Choose one by its number, or by its activation at a token: it colours the text.";
      at("go").disabled = writing === null;
      return;
    }
    at("go").disabled = false;
    const here = Math.max(...(answer.number === number ? answer.feature ?? [] : []).map(Math.abs), 0);
    const [mean, maximum] = [statistic(number, "mean"), statistic(number, "maximum")];
    const sentences = [
      description(number),
      [here ? `Here it is at most ${told(here)}.` : "It does not fire on this text."],
      maximum === null ? [] : [`On held-out text: ${mean === null ? "" : `${told(mean)} on average where it fires, `}at most ${told(maximum)}.`],
    ].filter((sentence) => sentence.length);
    at("about").replaceChildren(...sentences.flatMap((sentence, place) => (place ? [" · ", ...sentence] : sentence)));
    if (!strengthIsMine) at("strength").value = Number((2 * (maximum || here) || 10).toPrecision(3));
  }

  // Writing on

  let writing = null; // what stops it

  function showFields() {
    for (const [id, shown] of [["strength", at("edit").value !== "ablate"], ["seed", at("sampling").value === "sampled"]]) {
      at(id).hidden = !shown;
      document.querySelector(`label[for="${id}"]`).hidden = !shown;
    }
  }

  async function writeOn() {
    if (writing) return writing.abort();
    writing = new AbortController();
    at("go").textContent = "Stop";
    say("progress", "Writing…");
    const text = at("text").value;
    try {
      const number = (id) => Number(at(id).value);
      const question = {
        dictionary: dictionary().slug, text, feature: feature(), edit: at("edit").value, strength: number("strength"),
        new_tokens: number("new_tokens"), sampling: at("sampling").value, seed: number("seed"),
      };
      const response = await ask("continuation", question, (told) => say("progress", told), writing.signal);
      at("written").hidden = false;
      say("progress", "Writing…");
      for await (const line of lines(response)) {
        if (line.error) throw new Error(line.error);
        showWritten(text, line);
      }
      say("progress", "Done.");
    } catch (error) {
      if (error.name === "AbortError") say("progress", "Stopped.");
      else say("progress", error.message, true);
    } finally {
      writing = null;
      at("go").textContent = "Write on";
      showFeature();
    }
  }

  /** The objects of a stream that has one on each line. */
  async function* lines(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  }

  /** Both continuations; of the changed one, what the model itself does not write is marked. */
  function showWritten(text, { unsteered, steered }) {
    const letters = [...steered];
    const own = [...unsteered];
    let same = 0;
    while (same < letters.length && letters[same] === own[same]) same += 1;
    const given = () => element("span", { class: "given" }, text);
    at("unsteered").replaceChildren(given(), unsteered);
    const other = letters.slice(same).join("");
    at("steered").replaceChildren(given(), letters.slice(0, same).join(""), ...(other ? [element("mark", {}, other)] : []));
  }

  // The beginning

  /** Read what the report tells of the features of the chosen dictionary. */
  async function meet() {
    const { slug, browse, more } = dictionary();
    known = {};
    if (!browse) return;
    try {
      const names = [`browse/${slug}/index`, `browse/${slug}/tokens`, ...(more ? [`browse/${slug}/more`] : [])];
      const [index, tokens, others] = await Promise.all(names.map(saeflow.load));
      if (dictionary().slug !== slug) return;
      known = { index, tokens, more: others };
      show();
    } catch { /* features are told by their numbers, then */ }
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // a "%" that someone typed
    }
  }

  function takeHash() {
    const [slug, number] = decoded(location.hash.slice(1)).split("/");
    if (dictionaries.some((each) => each.slug === slug)) {
      at("dictionary").value = slug;
      at("feature").value = /^\d+$/.test(number ?? "") ? number : "";
    }
  }

  async function begin() {
    if (!(await isServed())) return;
    at("unserved").hidden = true;
    try {
      const about = await (await ask("dictionaries", null, () => {})).json();
      dictionaries = about.dictionaries;
      featuresPage = about.features_page;
      at("text").maxLength = about.limits.characters;
      at("new_tokens").max = about.limits.new_tokens;
    } catch (error) {
      return say("refused", error.message, true);
    }
    if (!dictionaries.length) return say("refused", "This report has no dictionaries.");
    at("served").hidden = false;
    at("dictionary").append(...dictionaries.map(({ slug, name }) => element("option", { value: slug }, name)));
    takeHash();
    showFields();

    let typed;
    const soon = () => { clearTimeout(typed); typed = setTimeout(read, PAUSE); };
    at("text").addEventListener("input", soon);
    at("dictionary").addEventListener("change", () => { at("feature").value = ""; strengthIsMine = false; meet(); featureChanged(); });
    at("feature").addEventListener("change", () => { strengthIsMine = false; featureChanged(); });
    at("strength").addEventListener("input", () => { strengthIsMine = true; });
    at("edit").addEventListener("change", showFields);
    at("sampling").addEventListener("change", showFields);
    at("go").addEventListener("click", writeOn);
    addEventListener("hashchange", () => { takeHash(); meet(); read(); });
    meet();
    read();
  }

  begin();
})();
