"""Where a regular expression is in text that is given as tokens, and what the model has there.

The expression is run over the text of a whole token row, so it may look ahead and behind across tokens. A token
matches where a match covers a character, or a part of a character, of it. Special tokens are no text: none matches, and
no match reaches across one, so the documents of a row are told apart.

What the model has there is read as it was harvested: computed and stored in the experiment's precision (bfloat16 or
int8, say), and without the rows that its filter leaves out.

Shapes: S rows of tokens, P positions, d the hook point's width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from tasks.corpus import spread
from tasks.errors import ExperimentError
from tasks.evaluation_specs import PATTERNS
from tasks.rows import open_store, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AS_THEMSELVES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _AS_THEMSELVES]
BYTE_LETTERS = {chr(byte): byte for byte in _AS_THEMSELVES} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}
"""How vocabularies of byte-level BPE (GPT-2's and most since) spell each byte as a letter."""

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""How vocabularies of SentencePiece spell a token that is one byte."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a name in PATTERNS, or this one.

    Raises:
        ExperimentError: it is no regular expression; shows where.
    """
    try:
        return re.compile(PATTERNS.get(pattern, pattern))
    except re.error as error:
        at = "" if error.pos is None else f"\n  {pattern}\n  {' ' * error.pos}^"
        raise ExperimentError(
            f"pattern {pattern!r} is no regular expression: {error.msg}.{at}\nNames of patterns: {', '.join(PATTERNS)}."
        ) from None


def matching_tokens(
    tokenizer: PreTrainedTokenizerBase, token_rows: Int[np.ndarray, "S P"], pattern: str
) -> Bool[np.ndarray, "S P"]:
    """Which tokens match."""
    expression = compile_pattern(pattern)
    spelling = token_bytes(tokenizer, np.unique(token_rows).tolist())
    special = set(tokenizer.all_special_ids)
    found = np.zeros(token_rows.shape, dtype=bool)
    for row, tokens in zip(found, token_rows.tolist(), strict=True):
        for text in _texts(tokens, special):
            row[text] = _matching([spelling[token] for token in tokens[text]], expression)
    return found


def token_bytes(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> dict[int, bytes]:
    """The bytes that each token stands for inside a text, in UTF-8."""
    # Behind another token, as some tokenizers drop the space that a text begins with.
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    before = str(tokenizer.decode([anchor]))

    def text(token: int) -> str:
        return str(tokenizer.decode([anchor, token], clean_up_tokenization_spaces=False)).removeprefix(before)

    return {token: _spelling(tokenizer, token, text(token)) for token in tokens}


def spelled(piece: bytes) -> str:
    r"""The bytes of a token as text; a part of a character has none, so its bytes are told, as \xNN."""
    return piece.decode(errors="backslashreplace")


def _spelling(tokenizer: PreTrainedTokenizerBase, token: int, text: str) -> bytes:
    if "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character, of which only the vocabulary knows the bytes
        entry = str(tokenizer.convert_ids_to_tokens(token))
        if byte := BYTE_TOKEN.fullmatch(entry):
            return bytes.fromhex(byte[1])
        if all(letter in BYTE_LETTERS for letter in entry):
            return bytes(BYTE_LETTERS[letter] for letter in entry)
    return text.encode()


def _texts(tokens: Sequence[int], special: set[int]) -> Iterator[slice]:
    """The stretches between special tokens."""
    start = 0
    for stop in [*(at for at, token in enumerate(tokens) if token in special), len(tokens)]:
        if start < stop:
            yield slice(start, stop)
        start = stop + 1


def _matching(pieces: Sequence[bytes], expression: re.Pattern[str]) -> Bool[np.ndarray, " pieces"]:
    # What is cut off at an end, or broken, becomes one character a byte, so that every character has its bytes.
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    first_byte = [0, *accumulate(len(character.encode("utf-8", "surrogateescape")) for character in text)]
    piece_of_byte = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    found = np.zeros(len(pieces), dtype=bool)
    for match in expression.finditer(text):
        found[piece_of_byte[first_byte[match.start()] : first_byte[match.end()]]] = True
    return found


class HeldOut(NamedTuple):
    """Held-out token rows, with what the model has at a hook point and where a pattern matches."""

    tokens_SP: Int[np.ndarray, "S P"]
    documents_SP: Int[np.ndarray, "S P"]
    matches_SP: Bool[Tensor, "S P"]
    x_SPd: Float[Tensor, "S P d"]
    """On the CPU, in float32."""
    kept_SP: Bool[Tensor, "S P"]
    """Without the sinks that the experiment's row filter leaves out."""

    def halves(self) -> tuple[HeldOut, HeldOut]:
        """The first and the second half of the rows, which are in order: at most one document is in both."""
        middle = (len(self.tokens_SP) + 1) // 2
        return self._make(rows[:middle] for rows in self), self._make(rows[middle:] for rows in self)

    @property
    def x_Bd(self) -> Float[Tensor, "B d"]:
        """The activations that are kept."""
        return self.x_SPd[self.kept_SP]

    @property
    def tokens_B(self) -> Int[np.ndarray, " B"]:
        """Their tokens."""
        return self.tokens_SP[self.kept_SP.numpy()]

    @property
    def documents_B(self) -> Int[np.ndarray, " B"]:
        """The documents that they are in."""
        return self.documents_SP[self.kept_SP.numpy()]

    @property
    def matches_B(self) -> Bool[Tensor, " B"]:
        """Which of these tokens match."""
        return self.matches_SP[self.kept_SP]

    def why_no_feature(self) -> str:
        """Where sae_core.pattern_features finds none on these."""
        if self.matches_B.any():
            return "no feature fires on a token that matches the pattern"
        return f"none of the {len(self.matches_B):,} tokens that features are sought on matches the pattern"


def read_held_out(
    tokenizer: PreTrainedTokenizerBase,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    hook_points: Sequence[str],
    rows: RowFilter,
    pattern: str,
    max_tokens: int,
) -> list[HeldOut]:
    """Held-out rows, spread evenly, of at most `max_tokens` in all (one row at least), as each hook point has them.

    Args:
        activations: those of `tokens`.
    """
    tokens_SP, documents_SP, numbers_S = spread(tokens, max_tokens)
    matches_SP = torch.from_numpy(matching_tokens(tokenizer, tokens_SP, pattern))
    store = open_store(activations, "held_out")
    return [
        HeldOut(tokens_SP, documents_SP, matches_SP, *rows_of(store, hook_point, rows, numbers_S))
        for hook_point in hook_points
    ]
