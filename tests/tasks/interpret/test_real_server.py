"""A real server with a real model, weak as it is: `transformers serve` with SmolLM2."""

import os
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tasks import language_model
from tasks.caching import artifacts
from tasks.interpret.access import Access
from tasks.interpret.fragments import FeatureFragments, Fragment
from tasks.interpret.llm import check, interpret
from tasks.interpret.servers import ServerSpec
from tasks.specs import ModelSpec
from tests.flows.ports import free_ports
from tests.flows.services import process, wait_until

WITH = ["The red cat sat on the mat .", "A dog and a cat ran away .", "My cat likes fresh fish ."]
WITHOUT = ["The red car stood in the street .", "A dog and a bird ran away .", "My uncle likes fresh fish ."]


def fragments(sentences: list[str]) -> tuple[Fragment, ...]:
    made = []
    for row, sentence in enumerate(sentences):
        texts = tuple(f" {word}" for word in sentence.split())
        made.append(Fragment(row, 0, tuple(range(len(texts))), texts, tuple(5.0 * (text == " cat") for text in texts)))
    return tuple(made)


@pytest.mark.services
@pytest.mark.timeout(900)
def test_a_local_server_explains_and_scores(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    prepared = language_model.prepare_model.build(located=language_model.locate(ModelSpec()))
    model = str(artifacts().path(prepared) / "weights")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--port", str(port)]
    log = tmp_path / "serve.log"
    with process([*command, "--host", "127.0.0.1", "--device", "cpu"], dict(os.environ), log) as running:
        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"{address}/health") as response:
                return response.status == 200
            return False

        wait_until(answers, 300, running)
        server = ServerSpec(explainer=model, scorer=model, base_url=f"{address}/v1")
        access = Access(concurrency=1, timeout=300)
        simulation, chat = check(server, access, ["simulation", "detection"])
        assert simulation == chat == ("text", 0, False), "it gives no log-probabilities"
        yes, no = fragments(WITH), fragments(WITHOUT)
        feature = FeatureFragments(0, yes, yes[:1], yes[1:2], yes, no, no)
        scorers = ("simulation", "detection", "intruder")
        found = interpret([feature], "llm", scorers, server, access, lambda text: len(text) // 4, seed=0)
    (one,) = found.features
    assert one.explanation.text
    for simulated in one.simulated or ():
        assert simulated.mode == "text"
        assert any(value is not None for value in simulated.values) or simulated.reason
    assert one.detection is not None
    assert one.detection.answered or one.detection.reason
