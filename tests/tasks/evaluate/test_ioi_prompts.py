"""What is true of every pair of prompts."""

from collections import Counter

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tasks.evaluate.ioi_prompts import NAMES, OBJECTS, PLACES, TEMPLATES, Pair, Words, pairs, words
from tests.tasks.evaluate.namers import KNOWN, write_namer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(write_namer(tmp_path_factory.mktemp("namer")))


@pytest.fixture(scope="module")
def drawn(tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    return pairs(tokenizer, words(tokenizer, None), 60, seed=0)


def test_there_are_fifteen_templates_and_more_than_a_hundred_names():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 15
    assert len(NAMES) == len(set(NAMES)) >= 120


def test_only_words_of_one_known_token_are_used(tokenizer: PreTrainedTokenizerBase):
    known = words(tokenizer, None)
    assert (tuple(known.names), tuple(known.places), tuple(known.objects)) == (KNOWN, PLACES, OBJECTS)
    assert known.lacking is None
    assert tuple(words(tokenizer, 5).names) == KNOWN[:5]


def test_a_pair_differs_in_the_indirect_object_alone(tokenizer: PreTrainedTokenizerBase, drawn: list[Pair]):
    for pair in drawn:
        assert len({pair.indirect_object, pair.subject, pair.other_name}) == 3
        differing = [two for two in zip(pair.tokens, pair.other_tokens, strict=True) if two[0] != two[1]]
        assert differing == [(pair.indirect_object, pair.other_name)]
        assert pair.tokens.count(pair.subject) == pair.other_tokens.count(pair.subject) == 2


def test_the_tokens_are_those_of_the_texts_behind_the_end_of_text(
    tokenizer: PreTrainedTokenizerBase, drawn: list[Pair]
):
    for pair in drawn:
        for text, tokens in ((pair.text, pair.tokens), (pair.other_text, pair.other_tokens)):
            assert tokens == [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            assert tokenizer.unk_token_id not in tokens


def test_the_order_says_who_is_named_first(drawn: list[Pair]):
    for pair in drawn:
        named = [token for token in pair.tokens if token in (pair.indirect_object, pair.subject)]
        first = pair.subject if pair.order == "BABA" else pair.indirect_object
        assert named[0] == first
        assert named[2] == pair.subject
        assert pair.text.endswith(" to")


def test_every_template_comes_in_both_orders_equally_often(drawn: list[Pair]):
    assert Counter(pair.order for pair in drawn) == {"BABA": 30, "ABBA": 30}
    assert Counter(pair.order for pair in drawn[:30]) == {"BABA": 15, "ABBA": 15}
    assert len({pair.text for pair in drawn}) == 60


def test_the_seed_decides_the_pairs(tokenizer: PreTrainedTokenizerBase, drawn: list[Pair]):
    known = words(tokenizer, None)
    assert pairs(tokenizer, known, 60, seed=0) == drawn
    assert pairs(tokenizer, known, 8, seed=0) == drawn[:8]
    assert pairs(tokenizer, known, 60, seed=1) != drawn


def test_too_few_words_of_one_token_are_told():
    two = {"Mary": 5, "John": 6}
    assert Words(two, {"store": 1}, {"ring": 2}).lacking == (
        "of the names only 2 are one token of the model's tokenizer, and 3 are needed"
    )
    assert "places only 0" in str(Words({**two, "Emma": 7}, {}, {"ring": 2}).lacking)
