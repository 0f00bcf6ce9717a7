"""Explanations without a language model: a feature is the tokens that it fires on (a baseline of Bills et al. 2023).

    v(token) = mean activation of the feature on that token in the fragments that explain it; 0 for tokens not in them

The explanation lists the tokens with the largest v, and the simulated activation of a token is v: what a feature does
is told by single tokens, or not at all. So a feature that fires on one word scores high, and one that follows a subject
or a grammatical role scores low, though a reader might name it.
"""

import json
from collections import defaultdict

from tasks.interpret.fragments import FeatureFragments
from tasks.interpret.interpreted import Explanation, Interpreted, Simulated

MODE = "token_lookup"
NAMED = 8
"""Tokens that an explanation lists."""


def look_up(fragments: FeatureFragments) -> Interpreted:
    """Explain a feature by its tokens, and simulate its fragments where there are any to name."""
    seen: dict[int, list[float]] = defaultdict(list)
    text_of: dict[int, str] = {}
    for fragment in fragments.train:
        for token, text, activation in zip(fragment.tokens, fragment.texts, fragment.activations, strict=True):
            seen[token].append(activation)
            text_of[token] = text
    value = {token: sum(activations) / len(activations) for token, activations in seen.items()}
    strongest = sorted((token for token in value if value[token] > 0), key=lambda token: -value[token])[:NAMED]
    explanation = _explanation([text_of[token] for token in strongest])
    if explanation.text is None:
        return Interpreted(fragments.feature, explanation, None)
    simulated = tuple(
        Simulated(tuple(value.get(token, 0.0) for token in fragment.tokens), MODE, None, None)
        for fragment in (*fragments.top, *fragments.random)
    )
    return Interpreted(fragments.feature, explanation, simulated)


def _explanation(texts: list[str]) -> Explanation:
    if not texts:
        return Explanation(None, "no token has a mean activation above zero")
    # Quoted: tokens may begin with a space, and hold anything.
    *others, last = (json.dumps(text, ensure_ascii=False) for text in texts)
    named = f"{', '.join(others)} and {last}" if others else last
    return Explanation(f"the token{'s' if others else ''} {named}", None)
