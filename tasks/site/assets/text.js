"use strict";
// Text of models and corpora, shown as it is: what has no shape of its own becomes a sign, and no text can turn the
// direction of what stands around it.

saeflow.text = (() => {
  const { element } = saeflow;

  const SIGNS = new Map([
    ["\n", ["↵", "newline"]],
    ["\r", ["\\r", "carriage return"]],
    ["\t", ["⇥", "tab"]],
    [" ", ["·", "space"]],
    ["\u00a0", ["U+00A0", "no-break space"]],
    ["\u00ad", ["U+00AD", "soft hyphen"]],
    ["\u200b", ["U+200B", "zero-width space"]],
    ["\u200e", ["U+200E", "left-to-right mark"]],
    ["\u200f", ["U+200F", "right-to-left mark"]],
    ["\u202a", ["U+202A", "left-to-right embedding"]],
    ["\u202b", ["U+202B", "right-to-left embedding"]],
    ["\u202d", ["U+202D", "left-to-right override"]],
    ["\u202e", ["U+202E", "right-to-left override"]],
    ["\ufeff", ["U+FEFF", "byte order mark"]],
  ]);

  // Control and format characters (which hold those of direction), halves of surrogate pairs, private use, separators
  // other than the space; then letters that are blank: Hangul fillers, the empty Braille pattern.
  const SHAPELESS =
    /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u115f\u1160\u3164\uffa0\u2800]/u;
  // Marks on one letter are as high as a page if there are enough of them.
  const MARKS = 6;
  const PARTS = new RegExp(`\\p{M}{${MARKS + 1},}|${SHAPELESS.source}|[^]`, "gu");

  function sign(character) {
    const code = character.codePointAt(0);
    const number = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
    const [symbol, name] = SIGNS.get(character) ?? [
      number,
      code >= 0xd800 && code < 0xe000 ? "half of a surrogate pair" : null,
    ];
    return element("span", { class: symbol === number ? "sign code" : "sign", title: name }, symbol);
  }

  /**
   * Text as nodes, with signs for what would not be seen.
   *
   * `edges`: whether a space at either end is a sign too, which shows where a token begins. Text of nothing but spaces
   * always is signs. `limit`: characters after which it is cut, and says how many there are.
   */
  function shown(text, { edges = true, limit = Infinity } = {}) {
    const made = document.createDocumentFragment();
    if (text === "") {
      made.append(element("span", { class: "sign", title: "an empty text" }, "∅"));
      return made;
    }
    let end = Math.min(limit, text.length);
    if (end < text.length && /[\ud800-\udbff]/.test(text[end - 1])) end += 1; // a pair stays whole
    const blank = /^ +$/.test(text);
    const first = blank ? text.length : edges ? /^ */.exec(text)[0].length : 0;
    const last = edges ? text.length - / *$/.exec(text)[0].length : text.length;
    let plain = /^\p{M}/u.test(text) ? "◌" : ""; // an accent needs a letter to stand on
    let at = 0;
    for (const [character] of text.slice(0, end).matchAll(PARTS)) {
      if (/^\p{M}{2}/u.test(character)) {
        made.append(
          plain + character.slice(0, MARKS),
          element("span", { class: "sign" }, `+${character.length - MARKS} marks`),
        );
        plain = "";
      } else if (SHAPELESS.test(character) || (character === " " && (at < first || at >= last))) {
        made.append(plain, sign(character));
        plain = "";
      } else plain += character;
      at += character.length;
    }
    made.append(plain);
    if (end < text.length) {
      const all = text.length.toLocaleString("en");
      made.append(element("span", { class: "sign", title: `${all} characters in all` }, `… ${all} characters`));
    }
    return made;
  }

  /** A token that stands alone. */
  const token = (text, options) => element("bdi", { class: "word", dir: "ltr" }, shown(text, options));

  return { shown, token };
})();
