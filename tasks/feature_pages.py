"""What the pages of single features show: the numbers of one dictionary, in pieces that a browser loads one by one.

Below browse/SLUG/, where a report has them too, each of these scripts (tasks.site.pages) holds one JSON value:

    index.js        all features: their statistics, and the tokens that they are strongest on
    tokens.js       the text of all tokens that are shown; everything else has their places in this list
    shards/N.js     SHARD features: histogram, promoted and suppressed tokens, neighbours, partners, contexts

and about.json is the index without what it has of each feature. Numbers are rounded (tasks.cells); in full they are in

    table.parquet, logits.parquet, neighbours.parquet, contexts.parquet

beside them, the histograms and partners in the `features` artifact. Contexts are those of tasks.feature_contexts.

Shapes: n features, k tokens or neighbours, S rows of tokens, P positions, V vocabulary, T tokens that are shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from sae_core.interventions import writes
from sae_core.neighbours import neighbours
from storage.artifacts import ArtifactRef
from storage.latents import Latents
from storage.tables import read_table, write_table
from tasks.caching import artifacts, step
from tasks.cells import all_rounded, method_and_params, slug_of
from tasks.compute import Compute
from tasks.corpus import token_rows
from tasks.evaluate.logit_effects import in_stream
from tasks.evaluate.subject import load_subject
from tasks.feature_contexts import KINDS, Contexts, read_contexts
from tasks.feature_lens import Favoured, Lens, read_lens
from tasks.feature_tables import BINS
from tasks.features import FEATURES, FRAGMENTS, LATENTS, WINDOWS
from tasks.fragment_windows import Windows
from tasks.language_model import description, load, load_tokenizer
from tasks.loss_gradients import LossGradients
from tasks.pattern_matches import spelled, token_bytes
from tasks.progress import Progress
from tasks.site.pages import write_script

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROWSE = "browse"
SHARD = 64
NEIGHBOURS = 10
PEAK_TOKENS = 5

COLUMNS = {
    "density": "share of the held-out tokens on which it fires",
    "maximum": "its largest activation, of either sign",
    "mean": "its mean activation where it fires, of either sign",
    "skew": "skewness of its activations over all tokens",
    "kurtosis": "kurtosis of its activations over all tokens; 3 for a normal distribution",
    "fragments": "fragments of the text in which it fires",
    "nearest": "cosine of its direction with the nearest one of another feature",
}
TOLD_AS = {"never active": "never fires on the held-out text", "the same on every row": "the same on every token"}
"""The reasons of features.parquet."""

Columns = dict[str, pa.Array]


@step(kind="pages", code_version="1")
def feature_pages(
    place: Path,
    name: str,
    dictionary: ArtifactRef,
    features: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    gradients: ArtifactRef,
    hook_point: str,
    compute: Compute,
) -> dict[str, Any]:
    """Write what the pages of a dictionary's features show.

    Args:
        name: of the dictionary: pages name it, and a key holds only its digest.
        features: of this dictionary.
        model: whose tokens these are.
        gradients: of the loss on these tokens.
    """
    compute.apply()
    store, told = artifacts(), description(model)
    subject, source = load_subject(dictionary, told.width(hook_point), compute), store.path(features)
    length = store.manifest(features)["spec"]["fragment_length"]
    tokens_SP, tokenizer = np.asarray(token_rows(tokens, "held_out")[:]), load_tokenizer(model)

    writes_nd = writes(subject)
    lens, why_no_lens = None, f"{hook_point} is not of the residual stream, which the logit lens reads"
    if in_stream(hook_point):
        lens, why_no_lens = read_lens(load(model, "float32", compute.device), writes_nd, len(tokenizer)), None
    near = neighbours(subject.directions.detach().float(), NEIGHBOURS)
    near_nk, cosine_nk = near.feature_nk.cpu().numpy(), near.cosine_nk.cpu().numpy()
    at = read_table(source / WINDOWS)
    windows = Windows(at["row"].to_numpy(), at["start"].to_numpy(), length)
    contexts = read_contexts(
        read_table(source / FRAGMENTS),
        Latents.open(source / LATENTS / hook_point),
        windows,
        tokens_SP.shape,
        writes_nd.float().cpu(),
        LossGradients(store.path(gradients), hook_point),
    )
    shown = Tokens.of(tokens_SP, lens, tokenizer, told.vocabulary)

    slug = slug_of(subject.method, hook_point, name)
    statistics = read_table(source / FEATURES)
    table = table_of(statistics, cosine_nk)
    about = {
        "slug": slug,
        "ref": name,
        "hook_point": hook_point,
        "method": subject.method,
        "parameters": method_and_params(store.manifest(dictionary)["spec"])[1],
        "model": told.name,
        "n_features": subject.n_features,
        "shard_size": SHARD,
        "rows": tokens_SP.size,
        "fragment_length": length,
        "logits_undefined": why_no_lens,
    }
    site = Path(BROWSE) / slug
    (place / site).mkdir(parents=True)
    (place / site / "about.json").write_text(json.dumps({**about, "columns": COLUMNS}, indent=1, allow_nan=False))
    write_table(place / site / "table.parquet", table)
    write_table(place / site / "logits.parquet", logit_table(lens, shown))
    write_table(place / site / "neighbours.parquet", ranked(near_nk, other=near_nk, cosine=cosine_nk))
    write_table(place / site / "contexts.parquet", context_table(contexts, windows))

    place_SP, n = shown.place_V[tokens_SP], subject.n_features
    strongest = peak_tokens(contexts, windows, place_SP, n)
    write_script(place, f"{site}/index", {**about, "columns": told_columns(table), "tokens": strongest})
    write_script(place, f"{site}/tokens", shown.texts)
    parts = {
        "histogram": histograms(read_table(source / "histogram.parquet"), n),
        "promoted": favoured(lens and lens.promoted, shown, n),
        "suppressed": favoured(lens and lens.suppressed, shown, n),
        "neighbours": pairs(near_nk, cosine_nk),
        "partners": partners(read_table(source / "coactivation.parquet"), n),
    }
    with Progress("pages", n, "features") as progress:
        for number, first in enumerate(range(0, n, SHARD)):
            end = min(first + SHARD, n)
            listed, contexts_of = listed_contexts(contexts, windows, place_SP, first, end)
            entries = [
                {**{part: values[feature] for part, values in parts.items()}, "contexts": contexts_of[feature - first]}
                for feature in range(first, end)
            ]
            shard = {"first": first, "windows": listed, "features": entries}
            write_script(place, f"{site}/shards/{number:04d}", shard)
            progress.add(end - first)
    return {"slug": slug, "features": n}


class Tokens(NamedTuple):
    """The tokens that are shown, the commonest of the held-out text first."""

    token_T: Int[np.ndarray, " T"]
    texts: list[str]
    place_V: Int[np.ndarray, " V"]
    """Where each token is in these lists."""

    @classmethod
    def of(
        cls, tokens_SP: Int[np.ndarray, "S P"], lens: Lens | None, tokenizer: PreTrainedTokenizerBase, vocabulary: int
    ) -> Tokens:
        """Those of the text, and those that the lens has."""
        count_V = np.bincount(tokens_SP.ravel(), minlength=vocabulary)
        is_shown_V = count_V > 0
        for some in lens or ():
            is_shown_V[some.token_nk] = True
        token_T = np.flatnonzero(is_shown_V)
        token_T = token_T[np.argsort(-count_V[token_T], kind="stable")]
        spelling = token_bytes(tokenizer, token_T.tolist())
        texts = [spelled(spelling[token]) for token in token_T.tolist()]
        place_V = np.full(len(count_V), -1)
        place_V[token_T] = np.arange(len(token_T))
        return cls(token_T, texts, place_V)


def table_of(statistics: pa.Table, cosine_nk: np.ndarray) -> Columns:
    """One row per feature; what is undefined is null, and says why."""
    alone = cosine_nk.shape[1] == 0
    nearest = pa.nulls(len(cosine_nk), pa.float32()) if alone else pa.array(cosine_nk[:, 0])
    named = {"maximum": statistics["max"], "nearest": nearest}
    values = {name: named[name] if name in named else statistics[name] for name in COLUMNS}
    return {"feature": statistics["feature"], **values, "undefined": statistics["undefined"]}


def told_columns(table: Columns) -> list[dict[str, Any]]:
    """The columns as the index has them."""
    why_n = table["undefined"].to_pylist()
    told = []
    for name, meaning in COLUMNS.items():
        values = table[name].to_pylist()
        missing: dict[str, list[int]] = {}
        for feature, (value, why) in enumerate(zip(values, why_n, strict=True)):
            if value is None:
                reason = "there is no other feature" if name == "nearest" else TOLD_AS[why]
                missing.setdefault(reason, []).append(feature)
        told.append({"name": name, "meaning": meaning, "values": all_rounded(values), "missing": list(missing.items())})
    return told


def logit_table(lens: Lens | None, shown: Tokens) -> Columns:
    """One row per feature and token; none without a lens."""
    tables = [
        pa.table(
            {"kind": [kind] * some.token_nk.size, **ranked(some.token_nk, token=some.token_nk, logit=some.logit_nk)}
        )
        for kind, some in ({} if lens is None else lens._asdict()).items()
    ]
    if not tables:
        return {"feature": pa.array([], pa.int64())}
    table = pa.concat_tables(tables)
    place = shown.place_V[table["token"].to_numpy()]
    return {name: table[name] for name in table.column_names} | {"text": pa.array(shown.texts).take(pa.array(place))}


def ranked(like_nk: np.ndarray, **columns: np.ndarray) -> dict[str, Any]:
    """Arrays [n, k] as columns of a table, beside the feature and the rank that each number is of."""
    feature_nk, rank_nk = np.indices(like_nk.shape)
    return {name: values.ravel() for name, values in {"feature": feature_nk, "rank": rank_nk, **columns}.items()}


def context_table(contexts: Contexts, windows: Windows) -> Columns:
    """One row per context; its tokens are lists."""
    ends = pa.array(contexts.begin_C, pa.int32())
    lists = {"position": contexts.position_E, "activation": contexts.activation_E, "effect": contexts.effect_E}
    return {
        "feature": contexts.feature_C,
        "kind": pa.array(KINDS).take(pa.array(contexts.kind_C)),
        "rank": contexts.rank_C,
        "row": windows.row[contexts.window_C],
        "start": windows.start[contexts.window_C],
        "maximum": contexts.maximum_C,
        **{name: pa.ListArray.from_arrays(ends, pa.array(values)) for name, values in lists.items()},
    }


def peak_tokens(contexts: Contexts, windows: Windows, place_SP: Int[np.ndarray, "S P"], n: int) -> list[list[int]]:
    """Of each feature, the tokens that its top contexts are strongest on, the commonest first, by their places."""
    context_E = np.repeat(np.arange(len(contexts.feature_C)), np.diff(contexts.begin_C))
    by_strength = np.lexsort((-contexts.activation_E.astype(np.float32), context_E))
    position_C = contexts.position_E[by_strength[contexts.begin_C[:-1]]]
    place_C = place_SP[windows.row[contexts.window_C], windows.start[contexts.window_C] + position_C]
    top = contexts.kind_C == KINDS.index("top")
    both_C = np.stack([contexts.feature_C[top], place_C[top]])
    (feature_G, place_G), strongest_G, count_G = np.unique(both_C, axis=1, return_index=True, return_counts=True)
    told: list[list[int]] = [[] for _ in range(n)]
    for at in np.lexsort((strongest_G, -count_G, feature_G)).tolist():
        if len(told[feature_G[at]]) < PEAK_TOKENS:
            told[feature_G[at]].append(int(place_G[at]))
    return told


def histograms(table: pa.Table, n: int) -> list[dict[str, Any] | None]:
    """Of each feature, None where it has no activations."""
    low, high = (all_rounded(table[name].to_pylist()) for name in ("low", "high"))
    counts: list[int] = table["activations"].to_pylist()
    told: list[dict[str, Any] | None] = [None] * n
    for start, feature in zip(range(0, len(counts), BINS), table["feature"].to_pylist()[::BINS], strict=True):
        last = start + BINS - 1
        told[feature] = {"low": low[start], "high": high[last], "counts": counts[start : last + 1]}
    return told


def partners(table: pa.Table, n: int) -> list[list[list[Any]]]:
    """Of each feature, [other, rows, Jaccard, φ] of those that it is active with, as often as any first."""
    told: list[list[list[Any]]] = [[] for _ in range(n)]
    columns = [table["other"].to_pylist(), table["rows"].to_pylist()]
    columns += [all_rounded(table[name].to_pylist()) for name in ("jaccard", "phi")]
    for feature, *entry in zip(table["feature"].to_pylist(), *columns, strict=True):
        told[feature].append(entry)
    return told


def favoured(some: Favoured | None, shown: Tokens, n: int) -> Sequence[list[list[Any]] | None]:
    """Of each feature, [token, logit]; None without a lens."""
    return [None] * n if some is None else pairs(shown.place_V[some.token_nk], some.logit_nk)


def pairs(which_nk: np.ndarray, value_nk: np.ndarray) -> list[list[list[Any]]]:
    """Two arrays as lists of pairs."""
    return [
        list(map(list, zip(which, all_rounded(values), strict=True)))
        for which, values in zip(which_nk.tolist(), value_nk.tolist(), strict=True)
    ]


def listed_contexts(
    contexts: Contexts, windows: Windows, place_SP: Int[np.ndarray, "S P"], first: int, end: int
) -> tuple[list[list[Any]], list[dict[str, list[Any]]]]:
    """The windows that some features are shown in, and the contexts of each of these features by kind."""
    mine = contexts.of(first, end)
    used, number_C = np.unique(contexts.window_C[mine], return_inverse=True)
    row, start = windows.row[used], windows.start[used]
    places = place_SP[row[:, None], start[:, None] + np.arange(windows.length)]
    listed = [list(entry) for entry in zip(row.tolist(), start.tolist(), places.tolist(), strict=True)]

    begins = contexts.begin_C[mine.start : mine.stop + 1].tolist()
    tokens = slice(begins[0], begins[-1])
    position = contexts.position_E[tokens].tolist()
    activation, effect = (
        all_rounded(contexts.activation_E[tokens].tolist()),
        all_rounded(contexts.effect_E[tokens].tolist()),
    )
    told: list[dict[str, list[Any]]] = [{kind: [] for kind in KINDS} for _ in range(first, end)]
    columns = (contexts.feature_C[mine], contexts.kind_C[mine], number_C, contexts.rank_C[mine])
    maximum = all_rounded(contexts.maximum_C[mine].tolist())
    for at, (feature, kind, number, rank) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        span = slice(begins[at] - begins[0], begins[at + 1] - begins[0])
        entry = [number, maximum[at], rank, position[span], activation[span], effect[span]]
        told[feature - first][KINDS[kind]].append(entry)
    return listed, told
