"""Explain and score features by asking a server: `check` first, `estimate` what it costs, `interpret`."""

import asyncio
import sys
from collections.abc import Collection, Coroutine, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

from tasks.interpret.access import Access
from tasks.interpret.answers import chat_answer
from tasks.interpret.client import Client, CountTokens, NoReply, ServerError, all_of, most_used
from tasks.interpret.detect import batches, detect, detect_requests
from tasks.interpret.explain import explain, explain_request, sentence
from tasks.interpret.fragments import FeatureFragments
from tasks.interpret.interpreted import Interpreted
from tasks.interpret.intruder import find_intruders, intruder_requests, trials
from tasks.interpret.ledger import Clock, Ledger, ledger_of_this_run
from tasks.interpret.modes import ABILITIES, Ability, find_ability, remembered_ability
from tasks.interpret.prompts import version
from tasks.interpret.replies import Replies, Request, replies_of
from tasks.interpret.servers import OPENAI, Mode, ServerSpec, credentials
from tasks.interpret.simulate import simulate, simulate_request
from tasks.progress import Progress

Explainer = Literal["llm", "contrastive"]
Scorer = Literal["simulation", "detection", "fuzzing", "intruder"]

TYPICAL = "words and names that have to do with one subject, or stand in one place of a sentence"
"""In the place of an explanation that is not written yet, where its length matters."""


class Abilities(NamedTuple):
    """How the server is asked for probabilities; null where no scorer needs to know."""

    simulation: Ability | None
    chat: Ability | None
    """For detection and fuzzing."""


class Interpretation(NamedTuple):
    """All features, and how they were asked about."""

    features: list[Interpreted]
    abilities: Abilities
    prompts: dict[str, str]
    """Hashes of the prompts, by explainer and scorer."""


class Estimate(NamedTuple):
    """What a run would use at most. Tokens are those of the subject's tokenizer: servers may count others."""

    requests: int
    """That were never answered; repairs are not foreseen."""
    input_tokens: int
    output_tokens: int
    cost: float | None
    """In the currency of the prices; null where a model has none."""

    def __str__(self) -> str:
        told = f"{self.requests:,} requests, about {self.input_tokens:,} tokens to read and at most "
        told += f"{self.output_tokens:,} to write, as the subject's tokenizer counts them"
        return told + (f"; at most {self.cost:,.2f}" if self.cost is not None else "")


def check(server: ServerSpec, access: Access, scorers: Sequence[Scorer], clock: Clock | None = None) -> Abilities:
    """See within seconds whether the server can do what will be asked of it, and how.

    Raises ExperimentError: no key or a wrong one, a server that cannot be reached, a model that it does not know, a
    mode that it does not have. A few short questions are in nobody's budget.
    """
    unlimited = access.model_copy(update={"budget_tokens": None, "budget_currency": None})

    async def see(client: Client) -> Abilities:
        async with client:
            await client.reach()
            for model in dict.fromkeys((server.explainer, server.scorer)):
                try:
                    # The shortest question decides. Some servers list their models to anybody, whatever the key, and
                    # some answer for models that they do not list.
                    await client.greet(model)
                except NoReply as error:
                    told = f"{client.base_url} does not chat with {model!r}: {error}.{client.offers()}"
                    raise ServerError(told) from None
            return await _abilities(client, server, scorers)

    with TemporaryDirectory() as place:
        ledger = Ledger(Path(place) / "check.json")
        return asyncio.run(see(Client(credentials(server, access), unlimited, _about, ledger, clock or Clock())))


def interpret(
    features: Sequence[FeatureFragments],
    explainer: Explainer,
    scorers: Sequence[Scorer],
    server: ServerSpec,
    access: Access,
    count_tokens: CountTokens,
    seed: int,
    clock: Clock | None = None,
) -> Interpretation:
    """Explain every feature and score the explanations, many at a time.

    Raises ServerError or BudgetSpent when it cannot go on. What was answered by then is found again by the next run.
    """

    ledger = ledger_of_this_run()
    client = Client(credentials(server, access), access, count_tokens, ledger, clock or Clock())

    async def run() -> Interpretation:
        async with client:
            abilities = await _abilities(client, server, scorers)
            told = estimate(features, explainer, scorers, server, access, count_tokens, seed)
            print(f"interpret  {told}", file=sys.stderr, flush=True)
            with Progress("interpret", len(features), "features") as progress:

                async def one(fragments: FeatureFragments) -> Interpreted:
                    done = await _interpret(client, fragments, explainer, scorers, server, abilities, seed)
                    progress.add(1)
                    return done

                interpreted = await all_of(map(one, features))
            return Interpretation(interpreted, abilities, {name: version(name) for name in (explainer, *scorers)})

    return asyncio.run(run())


def estimate(
    features: Sequence[FeatureFragments],
    explainer: Explainer,
    scorers: Sequence[Scorer],
    server: ServerSpec,
    access: Access,
    count_tokens: CountTokens,
    seed: int,
) -> Estimate:
    """What `interpret` would use, without asking the server anything. What was answered before costs nothing.

    Until the server has shown what it can do, it is taken to give the log-probabilities of what it writes.
    """
    replies = replies_of(server.resolved().base_url or OPENAI)
    abilities = Abilities(
        *(
            remembered_ability(replies, server.scorer, modes) or _assumed(modes) if modes else None
            for modes in _modes(server, scorers)
        )
    )
    requests = [
        request
        for fragments in features
        for request in _requests(replies, fragments, explainer, scorers, server, abilities, seed)
        if not replies.has(request)
    ]
    usages = [most_used(request, count_tokens) for request in requests]
    costs = [access.cost(request.model, *usage) for request, usage in zip(requests, usages, strict=True)]
    known = [cost for cost in costs if cost is not None]
    return Estimate(
        len(requests),
        sum(usage.input for usage in usages),
        sum(usage.output for usage in usages),
        sum(known) if access.prices and len(known) == len(costs) else None,
    )


def _about(text: str) -> int:
    """Tokens of a text, where no tokenizer is at hand."""
    return len(text) // 4


def _modes(server: ServerSpec, scorers: Sequence[Scorer]) -> tuple[Collection[Mode], Collection[Mode]]:
    """Those that will do for simulation, and for detection and fuzzing; none where these are not asked for."""
    simulation = get_args(Mode) if server.mode == "auto" else (server.mode,)
    chat: tuple[Mode, ...] = ("text",) if server.mode == "text" else ("generated_logprobs", "text")
    return (
        simulation if "simulation" in scorers else (),
        chat if "detection" in scorers or "fuzzing" in scorers else (),
    )


def _assumed(modes: Collection[Mode]) -> Ability:
    mode = "generated_logprobs" if "generated_logprobs" in modes else next(iter(modes))
    return next(ability for ability in ABILITIES if ability.mode == mode)


async def _abilities(client: Client, server: ServerSpec, scorers: Sequence[Scorer]) -> Abilities:
    found = [await find_ability(client, server.scorer, modes) if modes else None for modes in _modes(server, scorers)]
    return Abilities(*found)


async def _interpret(
    client: Client,
    fragments: FeatureFragments,
    explainer: Explainer,
    scorers: Sequence[Scorer],
    server: ServerSpec,
    abilities: Abilities,
    seed: int,
) -> Interpreted:
    model = server.scorer
    explanation = await explain(client, server.explainer, fragments, explainer == "contrastive")
    asked: dict[Scorer, Coroutine[Any, Any, Any]] = {}
    if explanation.text is not None:
        if abilities.simulation is not None:
            scored = (*fragments.top, *fragments.random)
            asked["simulation"] = simulate(client, model, explanation.text, scored, abilities.simulation)
        for kind in ("detection", "fuzzing"):
            if kind in scorers and abilities.chat is not None:
                alternatives = abilities.chat.alternatives
                asked[kind] = detect(client, model, explanation.text, fragments, kind, alternatives, seed)
    if "intruder" in scorers:
        asked["intruder"] = find_intruders(client, model, fragments, seed)
    said = dict(zip(asked, await all_of(asked.values()), strict=True))
    return Interpreted(fragments.feature, explanation, *(said.get(scorer) for scorer in get_args(Scorer)))


def _requests(
    replies: Replies,
    fragments: FeatureFragments,
    explainer: Explainer,
    scorers: Sequence[Scorer],
    server: ServerSpec,
    abilities: Abilities,
    seed: int,
) -> Iterator[Request]:
    """Every request that `_interpret` sends, if no answer has to be asked for again."""
    model = server.scorer
    if "intruder" in scorers:
        yield from intruder_requests(model, trials(fragments, seed))
    contrastive = explainer == "contrastive"
    if not fragments.train or (contrastive and not fragments.lookalike):
        return
    request = explain_request(server.explainer, fragments, contrastive)
    yield request
    reply = replies.find(request)
    explanation = (sentence(chat_answer(reply)) if reply else None) or TYPICAL
    if abilities.simulation is not None:
        for fragment in (*fragments.top, *fragments.random):
            yield simulate_request(model, explanation, fragment, abilities.simulation)
    if abilities.chat is not None:
        shown = batches(fragments, seed)
        for kind in ("detection", "fuzzing"):
            if kind in scorers:
                yield from detect_requests(model, explanation, shown, kind, abilities.chat.alternatives)
