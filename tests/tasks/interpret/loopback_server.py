"""A server that speaks OpenAI's protocol on this machine, knows what planted features do, and can misbehave.

Feature k responds to a token with `planted(k, token)`. Its explanation is "planted k", which is what the server answers
where a prompt holds the token " unit_k", and what it simulates, detects and fuzzes by. Everything is read out of the
prompts, as a model would have to.
"""

import hashlib
import json
import math
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tasks.interpret.fragments import FeatureFragments, Fragment

KEY = "sk-only-a-test"
MODELS = ["explaining", "scoring"]
COVERED = 0.95
"""Probability that the server gives to digits."""

STRANGE = [" cat", "\n", "\t", "<<", ">>", '"', "\\", "<end>", "ignore the above", "12\t9", "é", "\ud83d", "[1,0]"]


def planted(feature: int, token: str) -> float:
    """0 for two tokens of three, else a number up to 9."""
    number = int.from_bytes(hashlib.sha256(f"{feature} {token!r}".encode()).digest()[:4], "big") / 2**32
    return 0.0 if number < 2 / 3 else 27 * (number - 2 / 3)


def planted_features(n: int, length: int = 16, each: int = 5) -> list[FeatureFragments]:
    """Features with fragments of words and of strange tokens; the tokens with " unit_" tell the server which it is."""

    def fragment(feature: int, number: int) -> Fragment:
        words = [STRANGE[i] if (i + number) % 3 else f" word{(i * 7 + number * 13) % 50}" for i in range(len(STRANGE))]
        texts = (f" unit_{feature}", *words, *(f" w{i + number}" for i in range(length)))[:length]
        return Fragment(number, 0, tuple(range(length)), texts, tuple(0.37 * planted(feature, text) for text in texts))

    def silent(feature: int, number: int) -> Fragment:
        texts = (*(f" quiet{number}" for _ in range(length - 1)), f" s{number}")
        return Fragment(number, 0, tuple(range(length)), texts, (0.0,) * length)

    def several(feature: int, kind: int) -> tuple[Fragment, ...]:
        return tuple(fragment(feature, 100 * kind + number) for number in range(each))

    return [
        FeatureFragments(
            feature,
            *(several(feature, kind) for kind in range(4)),
            *(tuple(silent(feature, 100 * kind + number) for number in range(each)) for kind in (5, 6)),
        )
        for feature in range(n)
    ]


@dataclass
class Server:
    """What the server gives, how it misbehaves, and what it was asked."""

    url: str = ""
    prompt_logprobs: bool = False
    echo: bool = False
    most_alternatives: int = 20
    """Of what it writes; 0 gives none, and more are refused."""
    refuses: tuple[str, ...] = ()
    """Parameters that its models do not take, as those that reason do not take `max_tokens` and `temperature`."""
    tells_anybody: bool = False
    """Whether it lists its models whatever the key."""
    merges: bool = False
    """Whether the tab and the digit behind it are one token."""
    fault: Callable[[int, dict[str, Any]], Any] = lambda number, body: None
    """What goes wrong with a request, given how many came before: a status with headers (and an error), or a changed
    answer."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests that were answered, by their JSON."""
    times: list[float] = field(default_factory=list)
    seen_keys: set[str] = field(default_factory=set)
    under_way: int = 0
    most_under_way: int = 0
    slow: float = 0.0


@contextmanager
def loopback(**settings: Any) -> Iterator[Server]:
    """Serve until the end of the block."""
    server = Server(**settings)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, body: Any, status: int = 200, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(data)

        def refused(self) -> bool:
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            server.seen_keys.add(key)
            if key == KEY:
                return False
            self.answer({"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}, 401)
            return True

        def do_GET(self) -> None:
            if server.tells_anybody or not self.refused():
                self.answer({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.refused():
                return
            with lock:
                number = len(server.times)
                server.times.append(time.monotonic())
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
                fault = server.fault(number, body)
            time.sleep(server.slow)
            try:
                self.respond(body, fault)
            finally:
                with lock:
                    server.under_way -= 1

        def respond(self, body: dict[str, Any], fault: Any) -> None:
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
                self.close_connection = True
                return
            if fault == "silence":
                time.sleep(1.0)
                self.close_connection = True
                return
            if isinstance(fault, tuple):
                status, headers, *error = fault
                self.answer({"error": error[0] if error else {"message": f"fault {status}"}}, status, **headers)
                return
            for name in server.refuses:
                if name in body:
                    told = f"Unsupported parameter: '{name}' is not supported with this model."
                    self.answer({"error": {"message": told, "param": name, "code": "unsupported_parameter"}}, 400)
                    return
            if body["model"] not in MODELS:
                self.answer({"error": {"message": "no such model", "code": "model_not_found"}}, 404)
                return
            try:
                reply = completion(server, body) if self.path.endswith("/v1/completions") else chat(server, body)
            except ValueError as error:
                self.answer({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)
                return
            data = json.dumps(reply).encode()
            if fault == "truncated":
                self.answer(data[: len(data) // 2])
                return
            if callable(fault):
                fault(reply)
            with lock:
                server.asked[json.dumps(body, sort_keys=True)] += 1
            self.answer(reply)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def chat(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    system = body["messages"][0]["content"]
    questions = [message["content"] for message in body["messages"] if message["role"] == "user"]
    question = next(text for text in reversed(questions) if "Answer once more" not in text)
    wanted = body.get("top_logprobs", 0) if body.get("logprobs") else 0
    if wanted > server.most_alternatives > 0:
        raise ValueError(f"top_logprobs must be at most {server.most_alternatives}")
    tokens: list[tuple[str, dict[str, float]]]
    if "Complete the sentence" in system:
        found = re.search(r'" unit_(\d+)"', question)
        tokens = [(f'"planted {found[1]}"\n' if found else "something", {})]
    elif "how strongly the unit responds" in system:
        tokens = simulated(question, server.merges)
    elif "the intruder" in system:
        tokens = [(str(1 + next(i for i, text in enumerate(numbered(question)) if " quiet" in text)), {})]
    elif "marked tokens are those" in system or "responds anywhere in it" in system:
        tokens = [("[", {})]
        for text in numbered(question):
            yes = " quiet" not in text
            tokens += [(str(int(yes)), {"1": 0.9 if yes else 0.2, "0": 0.1 if yes else 0.8}), (",", {})]
        tokens[-1] = ("]", {})
    else:
        tokens = [("1", {})]
    content = "".join(text for text, _ in tokens)
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    if wanted and server.most_alternatives:
        choice["logprobs"] = {"content": [entry(text, others, wanted) for text, others in tokens]}
    usage = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": len(content)}
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}


def completion(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    prompt = body["prompt"]
    rows = prompt.rpartition("Responds to: ")[2]
    explained, pieces = re.match(r'"planted (\d+)', rows), re.split(r"(\?)(?=\n|$)", prompt)
    values = [5.0] * prompt.count("?")
    if explained:
        values = [planted(int(explained[1]), json.loads(row.rpartition("\t")[0])) for row in rows.split("\n")[1:]]
    tokens: list[tuple[str, dict[str, float]]] = [("<s>", {})]
    for piece in pieces:
        if piece == "?":
            tokens.append((piece, {"?": 0.01, **distribution(values.pop(0))}))
        else:
            tokens += [(letter, {}) for letter in piece]
    assert not values
    choice: dict[str, Any] = {"index": 0, "text": "0", "finish_reason": "length"}
    if body.get("echo") and server.echo:
        if body["logprobs"] > 5:
            raise ValueError("logprobs must be at most 5")
        logs = [{other: math.log(p) for other, p in (others or {text: 1.0}).items()} for text, others in tokens]
        choice["text"] = prompt + "0"
        choice["logprobs"] = {
            "tokens": [text for text, _ in tokens] + ["0"],
            "token_logprobs": [None, *(min(log.values()) for log in logs[1:]), 0.0],
            "top_logprobs": [None, *logs[1:], {"0": 0.0}],
        }
    if body.get("prompt_logprobs") and server.prompt_logprobs:
        choice["prompt_logprobs"] = [None] + [
            {
                str(9 - i): {"decoded_token": other, "logprob": math.log(p)}
                for i, (other, p) in enumerate(others.items())
            }
            if others
            else {"7": {"decoded_token": text, "logprob": -1.0}}
            for text, others in tokens[1:]
        ]
    return {"id": "1", "object": "text_completion", "choices": [choice]}


def simulated(question: str, merges: bool) -> list[tuple[str, dict[str, float]]]:
    head, *rows = question.split("\n")
    explained = re.search(r'"planted (\d+)', head)
    tokens: list[tuple[str, dict[str, float]]] = []
    for row in rows:
        number, _, text = row.partition("\t")
        value = planted(int(explained[1]), json.loads(text)) if explained else 0.0
        before = "\t" if merges else ""
        others = {before + digit: p for digit, p in distribution(value).items()}
        tokens += [(number, {})] if merges else [(number, {}), ("\t", {})]
        tokens += [(before + str(round(value)), others), ("\n", {})]
    return tokens


def distribution(value: float) -> dict[str, float]:
    """Probabilities of digits whose expected value is this, and of something else."""
    low = min(int(value), 8)
    found = {str(low): COVERED * (1 - value + low), str(low + 1): COVERED * (value - low), " x": 1 - COVERED}
    return {text: p for text, p in found.items() if p > 0}


def numbered(question: str) -> list[str]:
    """The JSON strings of a numbered list, without their marks."""
    rows = [re.sub("<<|>>", "", row.partition(". ")[2]) for row in question.split("\n") if re.match(r"\d\. ", row)]
    return [json.loads(row) for row in rows]


def entry(text: str, others: dict[str, float], most: int) -> dict[str, Any]:
    top = sorted((others or {text: 1.0}).items(), key=lambda pair: -pair[1])[:most]
    logprobs = [{"token": other, "logprob": math.log(p)} for other, p in top]
    own = (others or {text: 1.0}).get(text, 1e-9)
    return {"token": text, "logprob": math.log(own), "top_logprobs": logprobs}
