"use strict";
// The features of a dictionary as a table in memory: numbers in typed arrays, so that to sort, filter and search a
// hundred thousand features takes no longer than a key press. It knows nothing of the page.

saeflow.dictionary = (() => {
  const PER_FEATURE = 5; // strongest tokens
  const SHARDS = 24; // that are kept: a step to either side in any order, and some of what was seen before

  /** A column as an array with NaN for what is missing, and the reason for each that is. */
  function column({ name, meaning, values, missing = [] }, n) {
    const dense = Array.isArray(values);
    const numbers = new Float64Array(n).fill(NaN);
    if (dense) for (let feature = 0; feature < n; feature++) numbers[feature] = values[feature] ?? NaN;
    else for (const [feature, value] of Object.entries(values)) numbers[feature] = value ?? NaN;
    let reasons = null;
    function why(feature) {
      reasons ??= new Map(missing.flatMap(([reason, features]) => features.map((each) => [each, reason])));
      return reasons.get(feature) ?? (dense ? null : "not among the features that this was measured of");
    }
    const value = (feature) => (Number.isNaN(numbers[feature]) ? null : numbers[feature]);
    return { name, meaning, numbers, value, why };
  }

  class Dictionary {
    constructor(index, more, tokens) {
      const { columns, tokens: strongest, ...about } = index;
      this.about = about;
      this.slug = index.slug;
      this.size = index.n_features;
      this.tokens = tokens;
      this.columns = new Map();
      for (const each of [...columns, ...more.columns]) {
        const name = this.unused(each.name);
        this.columns.set(name, column({ ...each, name }, this.size));
      }
      this.explanations = new Map(Object.entries(more.explanations).map(([feature, text]) => [Number(feature), text]));
      this.links = new Map(Object.entries(more.links).map(([feature, links]) => [Number(feature), links]));
      this.explainedShards = new Set(more.explained);
      this.strongest = new Int32Array(this.size * PER_FEATURE).fill(-1);
      strongest.forEach((found, feature) => this.strongest.set(found.slice(0, PER_FEATURE), feature * PER_FEATURE));
      this.lowerTokens = tokens.map((text) => text.toLowerCase());
      this.lowerExplanations = new Map([...this.explanations].map(([feature, text]) => [feature, text.toLowerCase()]));
      this.orders = new Map();
      this.selected = { key: null, features: null };
      this.shardNames = []; // from the longest unused to the last used
    }

    /** The name of a column, of which two studies may have one: the second is told as such. */
    unused(name) {
      let number = 1;
      const told = () => (number === 1 ? name : `${name} (${number})`);
      while (this.columns.has(told())) number += 1;
      return told();
    }

    /** The texts of the commonest tokens of a feature's strongest fragments. */
    strongestTokens(feature) {
      const found = this.strongest.subarray(feature * PER_FEATURE, (feature + 1) * PER_FEATURE);
      return [...found].filter((token) => token >= 0).map((token) => this.tokens[token]);
    }

    /** Why a feature has nothing to show: it never fires. Null where it does. */
    dead(feature) {
      const density = this.columns.get("density");
      return density && !(density.numbers[feature] > 0)
        ? (density.why(feature) ?? "never fires on held-out text")
        : null;
    }

    /** All features by a column, missing ones last; equal ones by number. */
    order(name, down) {
      const key = `${down} ${name}`;
      if (!this.orders.has(key)) {
        performance.mark("sort");
        const numbers = this.columns.get(name)?.numbers;
        const features = Uint32Array.from({ length: this.size }, (_, feature) => feature);
        if (numbers) {
          const there = features.filter((feature) => !Number.isNaN(numbers[feature]));
          const missing = features.filter((feature) => Number.isNaN(numbers[feature]));
          there.sort(down ? (a, b) => numbers[b] - numbers[a] || a - b : (a, b) => numbers[a] - numbers[b] || a - b);
          features.set(there);
          features.set(missing, there.length);
        } else if (down) features.reverse();
        this.orders.set(key, features);
        performance.measure("sort", "sort");
      }
      return this.orders.get(key);
    }

    /** The features that a wish (features-wish.js) leaves, in its order. */
    select(wish) {
      const key = wish.key();
      if (this.selected.key === key) return this.selected.features;
      const order = this.order(wish.sort, wish.down);
      performance.mark("select");
      const keep = new Uint8Array(this.size).fill(1);
      const density = this.columns.get("density")?.numbers;
      for (let feature = 0; feature < this.size; feature++) {
        if (wish.alive && density && !(density[feature] > 0)) keep[feature] = 0;
        if (wish.explained && !this.explanations.has(feature)) keep[feature] = 0;
      }
      for (const [name, { low, high }] of wish.ranges) {
        const numbers = this.columns.get(name)?.numbers;
        if (!numbers) continue;
        // What is missing is in no range, which a comparison with NaN says.
        for (let feature = 0; feature < this.size; feature++) {
          if (!(numbers[feature] >= low && numbers[feature] <= high)) keep[feature] = 0;
        }
      }
      for (const word of wish.words()) this.keepMatches(word, keep);
      this.selected = { key, features: order.filter((feature) => keep[feature]) };
      performance.measure("select", "select");
      return this.selected.features;
    }

    /** Leave the features that have a word in the explanation or in a strongest token, or as their number. */
    keepMatches(word, keep) {
      const matches = Uint8Array.from(this.lowerTokens, (text) => text.includes(word));
      const number = /^\d+$/.test(word) ? Number(word) : -1;
      for (let feature = 0; feature < this.size; feature++) {
        if (!keep[feature] || feature === number) continue;
        let found = this.lowerExplanations.get(feature)?.includes(word) ?? false;
        for (let at = feature * PER_FEATURE; !found && at < (feature + 1) * PER_FEATURE; at++) {
          found = this.strongest[at] >= 0 && matches[this.strongest[at]] === 1;
        }
        if (!found) keep[feature] = 0;
      }
    }

    /** What the page of a feature shows: its entry in its shard, the windows of that, what each study said or null. */
    async feature(number) {
      const shard = Math.floor(number / this.about.shard_size);
      const digits = String(shard).padStart(4, "0");
      const names = [`browse/${this.slug}/shards/${digits}`];
      if (this.explainedShards.has(shard)) names.push(`browse/${this.slug}/explained/${digits}`);
      const [data, explained] = await Promise.all(names.map((name) => this.shard(name)));
      return {
        entry: data.features[number - data.first],
        windows: data.windows,
        explained: explained?.[number] ?? null,
      };
    }

    shard(name) {
      this.shardNames = [...this.shardNames.filter((each) => each !== name), name];
      while (this.shardNames.length > SHARDS) saeflow.forget(this.shardNames.shift());
      return saeflow.load(name);
    }
  }

  const opened = new Map();

  async function read(slug) {
    const names = ["index", "more", "tokens"].map((name) => `browse/${slug}/${name}`);
    const [index, more, tokens] = await Promise.all(names.map(saeflow.load));
    names.slice(0, 2).forEach(saeflow.forget); // the typed arrays have it now
    return new Dictionary(index, more, tokens);
  }

  /** The dictionary of a name in data/dictionaries, which is read once. */
  function open(slug) {
    if (!opened.has(slug)) {
      const reading = read(slug);
      opened.set(slug, reading);
      reading.catch(() => opened.delete(slug)); // the next attempt reads again
    }
    return opened.get(slug);
  }

  return { open };
})();
