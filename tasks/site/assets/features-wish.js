"use strict";
// What a reader wishes to see, as a URL says it: `#SLUG/123?q=month&sort=-density&min.maximum=2&page=3`. The page has
// no other state, so whatever is on the screen can be shared, reloaded and gone back to.

saeflow.Wish = class Wish {
  /** `feature` is null for the table; `page` counts from 1; `plot` names two columns, `x` and `y`. */
  constructor(settings = {}) {
    Object.assign(this, {
      slug: null,
      feature: null,
      query: "",
      sort: null,
      down: false,
      alive: false,
      explained: false,
      ranges: new Map(),
      page: 1,
      plot: null,
      ...settings,
    });
  }

  /** This wish with some settings changed. */
  with(settings) {
    return new Wish({ ...this, ...settings });
  }

  static read(hash) {
    const [path, search = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
    const [, name, digits] = /^(.*?)(?:\/(\d+))?$/s.exec(path);
    const given = new URLSearchParams(search);
    const ranges = new Map();
    for (const [key, value] of given) {
      const [, end, column] = /^(min|max)\.(.*)$/s.exec(key) ?? [];
      const number = Number(value);
      if (!end || value.trim() === "" || Number.isNaN(number)) continue;
      const range = ranges.get(column) ?? { low: -Infinity, high: Infinity };
      ranges.set(column, { ...range, [end === "min" ? "low" : "high"]: number });
    }
    const sort = given.get("sort") ?? "";
    return new Wish({
      slug: Wish.#decoded(name) || null,
      feature: digits === undefined ? null : Number(digits),
      query: given.get("q") ?? "",
      sort: sort.replace(/^-/, "") || null,
      down: sort.startsWith("-"),
      alive: given.has("alive"),
      explained: given.has("explained"),
      ranges,
      page: Math.max(1, Math.floor(Number(given.get("page"))) || 1),
      plot: given.has("x") && given.has("y") ? { x: given.get("x"), y: given.get("y") } : null,
    });
  }

  static #decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // a "%" that someone typed
    }
  }

  /** What chooses and orders the features, as a text. */
  key() {
    const said = new URLSearchParams();
    if (this.query.trim()) said.set("q", this.query.trim());
    if (this.sort || this.down) said.set("sort", `${this.down ? "-" : ""}${this.sort ?? ""}`);
    if (this.alive) said.set("alive", "");
    if (this.explained) said.set("explained", "");
    for (const [column, { low, high }] of this.ranges) {
      if (low > -Infinity) said.set(`min.${column}`, low);
      if (high < Infinity) said.set(`max.${column}`, high);
    }
    return said.toString();
  }

  hash() {
    const view = new URLSearchParams(this.plot ?? {});
    if (this.page > 1) view.set("page", this.page);
    const search = [this.key(), view.toString()].filter(Boolean).join("&");
    const feature = this.feature === null ? "" : `/${this.feature}`;
    return `#${encodeURIComponent(this.slug ?? "")}${feature}${search ? `?${search}` : ""}`;
  }

  /** The words of the query, all of which a feature must have. */
  words() {
    return this.query.toLowerCase().split(/\s+/).filter(Boolean);
  }

  /** Whether anything is searched or filtered. */
  narrows() {
    return this.words().length > 0 || this.alive || this.explained || this.ranges.size > 0;
  }
};
