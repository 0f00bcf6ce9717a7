"""A site with feature browsers, as a report would leave it, made of nothing: its text is Python's own documentation.

Dictionaries of it are `tidy`, in which everything is there, `large`, of 100,000 features of which the pages of the
first 128 are there, and `hostile`, whose text is what would break a page that takes text for markup. To look at them:

    python -m tests.browser.site_data PLACE
"""

import argparse
import inspect
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.site.pages import write_assets, write_page, write_script

FRAGMENT = 64
SHARD = 64
STUDIES = ("interpretability llm", "interpretability contrastive")
NAV = {"Overview": "index.html", "Features": "features.html"}

LONG_WORD = "W" * 10_240
HOSTILE = [
    "<script>alert(1)</script>", "</textarea>", "</script><script>alert(2)</script>",
    "</title><img src=x onerror=alert(3)>",
    "\"><svg onload=alert(4)>", "'-alert(5)-'", "<!--", "{{7*7}}", "javascript:alert(6)", "__proto__", "&lt;b&gt;",
    "\u202eevil\u202c", "\u200f", "\u2066", "שלום", " مرحبا", "\ud800", "\udfff\ud800", "\x00", "\x1b[31m",
    "\x7f", "\x85",
    "\n", "\t", " ", "    ", "\r\n", "\u2028", "\ufeff", "\u200b", "\u3164", "e" + "\u0301" * 200, "\u0301",
    "👨‍👩‍👧",
    "\\xe2\\x80", "", LONG_WORD,
]  # fmt: skip


def words() -> list[str]:
    """Tokens of English text with code in it."""
    import argparse
    import collections
    import datetime
    import logging
    import pathlib
    import random
    import subprocess
    import threading

    modules = (argparse, collections, datetime, inspect, logging, pathlib, random, re, subprocess, threading)
    parts = [
        inspect.getdoc(each) or "" for module in modules for _, each in sorted(vars(module).items()) if callable(each)
    ]
    return re.findall(r" ?\w+| ?[^\w\s]+|\s", "\n".join(parts))


class Synthetic:
    """One dictionary: each feature fires on a token of the text that is its own, and somewhat on the next."""

    def __init__(self, slug: str, method: str, n_features: int, seed: int, stream: Sequence[str]) -> None:
        self.slug, self.method, self.n = slug, method, n_features
        self.luck = random.Random(seed)
        counts = Counter(stream)
        self.texts = [text for text, _ in counts.most_common()]
        number = {text: index for index, text in enumerate(self.texts)}
        self.stream = [number[text] for text in stream]
        self.places: dict[int, list[int]] = {}
        for place, token in enumerate(self.stream):
            self.places.setdefault(token, []).append(place)
        self.dead = {feature for feature in range(n_features) if feature % 11 == 7}
        self.own = [self.luck.randrange(min(len(self.texts), 900)) for _ in range(n_features)]
        self.maximum = [
            None if f in self.dead else round(self.luck.lognormvariate(1.5, 0.5), 4) for f in range(n_features)
        ]
        self.parameters: dict[str, Any] = {"expansion": 4, "k": 32, "lr": 0.0004, "l1_coefficient": None}
        self.explanations = {
            feature: f"the token {self.texts[self.own[feature]]!r}, mostly in documentation of functions and arguments"
            for feature in range(0, n_features, 3)
            if feature not in self.dead
        }
        self.links: dict[str, list[list[str]]] = {}
        self.said: Callable[[str], str] = str
        self.studies = 1  # that scored it

    def entry(self) -> dict[str, Any]:
        return {
            "slug": self.slug, "ref": f"dictionary/{self.slug[-8:]}",
            "name": self.said(f"{self.method} (expansion=4, k=32)"),
            "hook_point": self.said("blocks.3.hook_resid_post"), "method": self.said(self.method),
            "parameters": self.parameters, "n_features": self.n,
        }  # fmt: skip

    def write(self, place: Path, shards: int | None = None) -> None:
        browse = f"browse/{self.slug}"
        write_script(place, f"{browse}/index", self.index())
        write_script(place, f"{browse}/more", self.more())
        write_script(place, f"{browse}/tokens", self.texts)
        total = -(-self.n // SHARD)
        for shard in range(total if shards is None else shards):
            features = range(shard * SHARD, min((shard + 1) * SHARD, self.n))
            data, explained = self.shard(features)
            write_script(place, f"{browse}/shards/{shard:04}", data)
            write_script(place, f"{browse}/explained/{shard:04}", explained)

    def index(self) -> dict[str, Any]:
        dead = [[self.said("never fires on held-out text"), sorted(self.dead)]]

        def some(draw: Any) -> list[float | None]:
            return [None if feature in self.dead else float(f"{draw():.6g}") for feature in range(self.n)]

        luck = self.luck
        alive = [0 if feature in self.dead else luck.randrange(1, 900) for feature in range(self.n)]
        columns = [
            ["density", "share of the held-out tokens on which it fires", [fires / 400_000 for fires in alive], []],
            ["maximum", "largest activation", self.maximum, dead],
            ["mean", "mean activation where it fires", some(lambda: luck.lognormvariate(0.4, 0.4)), dead],
            ["skew", "third standardised moment of its activations", some(lambda: luck.lognormvariate(3, 0.6)), dead],
            ["kurtosis", "fourth standardised moment", some(lambda: luck.lognormvariate(6, 1.2)), dead],
            ["fragments", "fragments of 64 tokens in which it fires", alive, []],
        ]  # fmt: skip
        return {
            **self.entry(), "model": self.said("SmolLM2-135M-Instruct"), "shard_size": SHARD,
            "rows": 400_000, "fragment_length": FRAGMENT,
            "columns": [
                {"name": name, "meaning": self.said(meaning), "values": values, "missing": missing}
                for name, meaning, values, missing in columns
            ],
            "tokens": [
                [] if feature in self.dead else [own, *self.luck.sample(range(len(self.texts)), 2)]
                for feature, own in enumerate(self.own)
            ],
        }  # fmt: skip

    def more(self) -> dict[str, Any]:
        scores = {str(feature): round(self.luck.betavariate(3, 2), 4) for feature in list(self.explanations)[:-2]}
        unscored = [[self.said("the simulator gave the same value everywhere"), list(self.explanations)[-2:]]]
        return {
            "columns": [
                {"name": self.said("score"), "meaning": self.said("correlation of real and simulated activations"),
                 "values": scores, "missing": unscored}
            ] * self.studies,
            "explanations": {str(feature): text for feature, text in self.explanations.items()},
            "explained": sorted({feature // SHARD for feature in self.explanations})[:64],
            "links": self.links,
        }  # fmt: skip

    def shard(self, features: range) -> tuple[dict[str, Any], dict[str, Any]]:
        windows: dict[int, int] = {}
        told = [self.feature(feature, windows) for feature in features]
        shown = [[start // 512, start % 512, self.stream[start : start + FRAGMENT]] for start in windows]
        explained = {
            str(feature): [
                self.explained(feature, study, told[feature - features[0]]["contexts"]) for study in range(self.studies)
            ]
            for feature in features
            if feature in self.explanations
        }
        return {"first": features[0], "windows": shown, "features": told}, explained

    def explained(self, feature: int, study: int, contexts: dict[str, list[Any]]) -> dict[str, Any]:
        def simulated(context: list[Any]) -> list[float | None]:
            values: list[float | None] = [round(max(0.0, self.luck.gauss(-1, 1)), 3) for _ in range(FRAGMENT)]
            for position, activation in zip(context[3], context[4], strict=True):
                values[position] = round(min(10.0, max(0.0, activation + self.luck.gauss(0, 1))), 3)
            values[5] = None
            return values

        return {
            "title": self.said(STUDIES[study]), "text": self.explanations[feature] if study == 0 else None,
            "explainer": self.said("SmolLM2-135M-Instruct, by generated_logprobs"),
            "reason": None if study == 0 else self.said("the server gave no answer"),
            "scores": [[self.said("top and random"), 0.6123, None], ["top", 0.7, None],
                       ["random", None, self.said("no random fragment was left")],
                       ["detection", 0.71, None], ["token table, the baseline", 0.55, None]],
            "simulated": [*([kind, rank, simulated(contexts[kind][rank])] for kind in ("top", "random")
                            for rank in range(min(2, len(contexts[kind])))), ["random", 19, [0.0] * FRAGMENT]],
        }  # fmt: skip

    def feature(self, feature: int, windows: dict[int, int]) -> dict[str, Any]:
        luck = self.luck
        others = [other for other in luck.sample(range(min(self.n, 2 * SHARD)), min(10, self.n)) if other != feature]
        partners = (
            []
            if feature in self.dead
            else [[o, luck.randrange(5, 90), 0.31, None if o % 5 == 0 else 0.22] for o in others]
        )
        logits = sorted((round(luck.gauss(0, 2), 4) for _ in range(20)), reverse=True)
        some = luck.sample(range(len(self.texts)), 20)
        paired = [list(pair) for pair in zip(some, logits, strict=True)]
        contexts = self.contexts(feature, windows)
        low = 0.05
        histogram = {"low": low, "high": self.maximum[feature], "counts": [int(900 * 0.45**bin) for bin in range(10)]}
        return {
            "histogram": None if feature in self.dead else histogram,
            "promoted": paired[:10], "suppressed": paired[:9:-1],
            "neighbours": [[other, round(0.9 - 0.06 * rank, 4)] for rank, other in enumerate(others)],
            "partners": partners, "contexts": contexts,
        }  # fmt: skip

    def contexts(self, feature: int, windows: dict[int, int]) -> dict[str, list[Any]]:
        maximum = self.maximum[feature]
        if maximum is None:
            return {"top": [], "interval": [], "random": []}
        places = self.places[self.own[feature]]
        counts = {"top": 20, "interval": 10, "random": 5}
        peaks = [self.luck.choice(places) for _ in range(sum(counts.values()))]
        made: dict[str, list[Any]] = {}
        for kind, count in counts.items():
            for rank in range(count):
                strength = {"top": 1 - rank / 30, "interval": (rank + 1) / 12, "random": self.luck.random()}[kind]
                made.setdefault(kind, []).append(self.context(peaks.pop(), maximum * strength, rank, feature, windows))
        return made

    def context(self, peak: int, strongest: float, rank: int, feature: int, windows: dict[int, int]) -> list[Any]:
        start = min(max(0, peak - self.luck.randrange(FRAGMENT)), len(self.stream) - FRAGMENT)
        window = windows.setdefault(start, len(windows))
        values = {peak - start: strongest}
        for position in range(FRAGMENT):
            if self.stream[start + position] == self.own[feature]:
                values.setdefault(position, strongest * self.luck.uniform(0.3, 0.9))
                if position + 1 < FRAGMENT:
                    values.setdefault(position + 1, strongest * self.luck.uniform(0.05, 0.3))
        positions = sorted(values)
        activations = [round(values[position], 4) for position in positions]
        effects = None if rank % 7 == 6 else [round(value * self.luck.gauss(0.02, 0.02), 5) for value in activations]
        return [window, max(activations), rank, positions, activations, effects]


def tidy(seed: int = 0) -> Synthetic:
    made = Synthetic("topk-blocks.3.hook_resid_post-0a1b2c3d", "topk", 320, seed, words())
    made.links = {
        "0": [
            ["upstream", "feature 5 of relu at blocks.2.hook_resid_post, effect 0.31", f"features.html#{made.slug}/5"],
            [
                "downstream",
                "feature 9 of relu at blocks.4.hook_resid_post, effect −0.08",
                f"features.html#{made.slug}/9",
            ],
            ["study", "Indirect object identification", "index.html"],
        ]
    }
    return made


def large(seed: int = 1) -> Synthetic:
    return Synthetic("relu-blocks.3.hook_resid_post-99990000", "relu", 100_000, seed, words())


def hostile(seed: int = 2) -> Synthetic:
    luck = random.Random(seed)
    made = Synthetic("pca-blocks.3.hook_resid_post-eeeeffff", "pca", 128, seed, luck.choices(HOSTILE, k=6000))
    made.explanations = {feature: HOSTILE[feature % len(HOSTILE)] for feature in range(128) if feature not in made.dead}
    made.said = lambda text: f"{text} <img src=x onerror=alert(8)>\u202e"
    made.studies = 2
    made.parameters = {text: text for text in HOSTILE[:6]} | {"__proto__": HOSTILE[0]}
    made.links = {"0": [["study", text, "javascript:alert(7)"] for text in HOSTILE[:4]]}
    return made


def write_site(place: Path, *dictionaries: Synthetic, shards: int | None = None) -> Path:
    """Write a site with the browsers of these dictionaries; returns its page of features."""
    write_assets(place)
    write_page(
        place, "features", "features", title="Features", site="a synthetic experiment", nav=NAV, here="features.html"
    )
    write_page(place, "index", "base", title="Overview", site="a synthetic experiment", nav=NAV, here="index.html")
    write_script(place, "data/dictionaries", [dictionary.entry() for dictionary in dictionaries])
    for dictionary in dictionaries:
        dictionary.write(place, 2 if dictionary.n > 10_000 else shards)
    return place / "features.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    print(write_site(parser.parse_args().place, tidy(), large(), hostile()))
