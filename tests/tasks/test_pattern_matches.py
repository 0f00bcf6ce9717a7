"""Which tokens a regular expression matches, for tokenizers that cut characters into bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import ExperimentError
from tasks.pattern_matches import compile_pattern, matching_tokens, spelled, token_bytes

TEXTS = (
    "the cat's dog (near a tree) sleeps",
    "naïve café, “quoted” – 東京 and 👩‍🚀 at 37 °C\n\tend",
    "\ufffd is itself a character",
    "🙂🙃",
)


@pytest.fixture(scope="module")
def byte_level(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def sentence_piece() -> Any:
    """As Llama 2 has it: spaces are ▁, the first one is no text, and what is not in the vocabulary is bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["<s>", "</s>", "<unk>", *bytes_, "▁", *"abcdehnorst()', "]
    merges = [("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    vocabulary = letters + [left + right for left, right in merges]
    model = models.BPE(
        {token: number for number, token in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=["byte_level", "sentence_piece"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def pieces(tokenizer: Any, text: str) -> tuple[np.ndarray, list[bytes]]:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    spelling = token_bytes(tokenizer, sorted(set(tokens)))
    return np.array([tokens]), [spelling[token] for token in tokens]


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_tokens_are_those_of_the_text(tokenizer: Any, text: str):
    _, spelled = pieces(tokenizer, text)
    assert b"".join(spelled).decode().removeprefix(" ") == text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("character", ["'", "é", "東", "🚀", "🙃", "\ufffd", "7"])
def test_the_tokens_that_hold_a_part_of_a_character_match_it_and_no_other(tokenizer: Any, text: str, character: str):
    tokens, spelled = pieces(tokenizer, text)
    found = matching_tokens(tokenizer, tokens, character)[0]
    whole = b"".join(spelled)
    starts = np.cumsum([0, *map(len, spelled)])
    expected = np.zeros(len(spelled), dtype=bool)
    at = whole.find(character.encode())
    while at >= 0:
        expected |= (starts[:-1] < at + len(character.encode())) & (starts[1:] > at)
        at = whole.find(character.encode(), at + 1)
    assert found.tolist() == expected.tolist()


def test_a_character_that_a_row_cuts_in_two_matches_nothing_and_leaves_the_rest_alone(byte_level: Any):
    tokens, spelled = pieces(byte_level, "🙂 cat 🙃")
    assert len(spelled[-1]) == 1, "this tokenizer has a token for each byte of it"
    cut = tokens[:, 2:-1]
    assert not matching_tokens(byte_level, cut, "[🙂🙃]").any()
    found = matching_tokens(byte_level, cut, "cat")[0]
    assert b"".join(np.array(spelled[2:-1], dtype=object)[found]).strip() == b"cat"


def test_an_expression_looks_across_tokens(byte_level: Any):
    tokens, spelled = pieces(byte_level, "(the cat (a dog")
    found = matching_tokens(byte_level, tokens, r"\((?=a )")[0]
    assert found.sum() == 1
    assert b"".join(spelled[: int(found.argmax())]).strip() == b"(the cat"
    assert not matching_tokens(byte_level, tokens, r"(?=a )").any(), "what covers no character matches no token"


def test_no_match_reaches_across_the_end_of_a_text(tokenizer: Any):
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in ("the cat", "a cat"))
    tokens = np.array([[*first, tokenizer.eos_token_id, *second]])
    assert not matching_tokens(tokenizer, tokens, r"cat.* a").any()
    assert not matching_tokens(tokenizer, tokens, r"[</|>]").any(), "a special token is no text"
    everything = matching_tokens(tokenizer, tokens, r"(?s).")[0]
    assert everything.tolist() == [True] * len(first) + [False] + [True] * len(second)


def test_rows_are_texts_of_their_own(byte_level: Any):
    tokens = pieces(byte_level, "cat dog")[0]
    alone = matching_tokens(byte_level, tokens, "dog$")
    both = matching_tokens(byte_level, np.concatenate([tokens, tokens]), "dog$")
    assert alone.any()
    assert np.array_equal(both, np.concatenate([alone, alone]))


def test_a_pattern_may_be_given_by_name():
    assert compile_pattern("closing_parenthesis").pattern == r"\)"
    assert compile_pattern("[ab]c").pattern == "[ab]c"


def test_a_bad_expression_is_refused_and_shows_where():
    with pytest.raises(ExperimentError) as refused:
        compile_pattern("ab(c")
    assert "missing )" in str(refused.value)
    assert "\n  ab(c\n    ^\n" in str(refused.value)
    assert "apostrophe" in str(refused.value)


def test_a_part_of_a_character_is_told_by_its_bytes():
    assert spelled("é".encode()) == "é"
    assert spelled("é".encode()[:1]) == "\\xc3"
