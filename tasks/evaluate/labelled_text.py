"""Labelled text for probes: built-in sentences, or a file of the user's.

A text has a label and may have an attribute, which is independent of it. The built-in sentences are in the past or the
future tense; one of their two clauses is about one of four topics, and the other about everyday life. What is said is
put together of parts at random, so no single word tells the topic:

    Last week the twins melted the butter in a pan before dinner, and my sister closed the gate.      cooking, past
    Before long our teacher will find the key, and an old friend will sell her shares on credit.      money, future

A file is .jsonl or .parquet with the columns `text`, `label` and, if it has one, `attribute`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel

from tasks.errors import ExperimentError
from tasks.evaluation_specs import ProbingSpec

FEWEST_TEXTS = 20  # of a label

PEOPLE = (
    "my sister", "the neighbours", "an old friend", "the twins", "her uncle", "our teacher", "two students",
    "the visitors", "his cousin", "the whole family", "a colleague", "my parents",
)  # fmt: skip

TENSES = {
    "past": ("Yesterday", "Last week", "Some days ago", "Back then", "Earlier this year", "Two summers ago"),
    "future": ("Tomorrow", "Next week", "In some days", "Before long", "Later this year", "Two summers from now"),
}
"""What sentences in each tense begin with."""

EVERYDAY = (
    ("closed", "close", "the gate"), ("found", "find", "the key"), ("called", "call", "a taxi"),
    ("painted", "paint", "the fence"), ("wrote", "write", "a long letter"), ("missed", "miss", "the train"),
    ("cleaned", "clean", "the windows"), ("read", "read", "the newspaper"), ("moved", "move", "the sofa"),
    ("fed", "feed", "the cat"), ("forgot", "forget", "an umbrella"), ("fixed", "fix", "the old radio"),
)  # fmt: skip
"""What is done, (past, infinitive, object), in sentences about any topic."""

TOPICS = {
    "sport": (
        (
            ("kicked", "kick", "the ball over the bar"), ("won", "win", "the second set"),
            ("ran", "run", "the marathon"), ("trained", "train", "with the new coach"),
            ("scored", "score", "from the penalty spot"), ("lost", "lose", "the semi-final"),
            ("joined", "join", "a rowing club"), ("swam", "swim", "ten lengths"),
            ("watched", "watch", "the cup match"), ("broke", "break", "the club record"),
            ("served", "serve", "three aces"), ("cheered", "cheer", "for the home side"),
        ),
        ("at the stadium", "in extra time", "before the whistle", "in front of the fans", "during the tournament"),
    ),
    "cooking": (
        (
            ("peeled", "peel", "the carrots"), ("melted", "melt", "the butter in a pan"),
            ("baked", "bake", "a loaf of rye bread"), ("stirred", "stir", "the onion soup"),
            ("chopped", "chop", "some garlic"), ("grilled", "grill", "the mackerel"),
            ("whisked", "whisk", "six egg whites"), ("seasoned", "season", "the lentils"),
            ("rolled", "roll", "out the dough"), ("simmered", "simmer", "the tomato sauce"),
            ("tasted", "taste", "the gravy"), ("drained", "drain", "the noodles"),
        ),
        ("in the kitchen", "before dinner", "on the stove", "with a pinch of salt", "for the guests at lunch"),
    ),
    "weather": (
        (
            ("sheltered", "shelter", "from the hail"), ("waited", "wait", "for the fog to lift"),
            ("shivered", "shiver", "in the icy wind"), ("measured", "measure", "the rainfall"),
            ("saw", "see", "lightning over the hills"), ("felt", "feel", "the first frost"),
            ("got", "get", "soaked in a shower"), ("enjoyed", "enjoy", "the clear sky"),
            ("heard", "hear", "the thunder roll"), ("shovelled", "shovel", "the fresh snow"),
            ("fled", "flee", "from the flood water"), ("noticed", "notice", "dark clouds in the west"),
        ),
        ("during the storm", "in the heat", "at sunrise", "when the breeze turned cold", "in the pouring rain"),
    ),
    "money": (
        (
            ("sold", "sell", "her shares"), ("paid", "pay", "the electricity bill"),
            ("signed", "sign", "for a mortgage"), ("opened", "open", "a savings account"),
            ("borrowed", "borrow", "two thousand euros"), ("checked", "check", "the exchange rate"),
            ("filed", "file", "a tax return"), ("invested", "invest", "in government bonds"),
            ("raised", "raise", "the rent"), ("owed", "owe", "the lender interest"),
            ("counted", "count", "the cash"), ("planned", "plan", "the household budget"),
        ),
        ("at the bank", "after the audit", "in spite of the fees", "on credit", "when the market fell"),
    ),
}  # fmt: skip
"""Of each topic what is done, and where or when."""


class LocatedData(BaseModel, frozen=True):
    """Labelled text that was found."""

    path: str | None = None
    """None is the built-in sentences."""
    sha256: str | None = None


class LabelledText(NamedTuple):
    text: str
    label: str
    attribute: str | None


def locate(spec: ProbingSpec) -> LocatedData:
    """Find the text, see that probes can be fitted on it, and identify it.

    Raises:
        ExperimentError: there is no such file, or it is not what a probe needs.
    """
    if spec.data is None:
        return LocatedData()
    path = Path(spec.data).expanduser().resolve()
    if not path.is_file() or path.suffix not in {".jsonl", ".parquet"}:
        raise ExperimentError(
            f"labelled text {spec.data!r} is no .jsonl or .parquet file. Correct the `data` of probing."
        )
    counts = Counter(item.label for item in _of_file(path))
    if len([count for count in counts.values() if count >= FEWEST_TEXTS]) < 2:
        found = ", ".join(f"{label} ({count})" for label, count in counts.most_common(5)) or "no text"
        raise ExperimentError(
            f"labelled text {path}: column `label` needs two or more values with {FEWEST_TEXTS} texts each, and has "
            f"{found}. Add texts."
        )
    return LocatedData(path=str(path), sha256=_sha256(path))


def labelled_texts(data: LocatedData, per_label: int) -> list[LabelledText]:
    """At most `per_label` texts of each label, as evenly over the attributes as there are texts.

    Raises:
        ExperimentError: the file is not any more what was located.
    """
    if data.path is None:
        return [text for topic in TOPICS for text in _sentences(topic, per_label)]
    path = Path(data.path)
    if not path.is_file() or _sha256(path) != data.sha256:
        raise ExperimentError(f"labelled text {path} was changed or removed after the run had started. Run again.")
    return _chosen(list(_of_file(path)), per_label)


def _sentences(topic: str, count: int) -> Iterator[LabelledText]:
    """Distinct sentences, in the two tenses by turns."""
    generator = torch.Generator().manual_seed(list(TOPICS).index(topic))
    actions, tails = TOPICS[topic]
    seen: set[str] = set()

    def one_of(parts: Sequence[Any]) -> Any:
        return parts[int(torch.randint(len(parts), (1,), generator=generator))]

    def clause(tense: str, actions: Sequence[tuple[str, str, str]]) -> str:
        past, infinitive, what = one_of(actions)
        return f"{one_of(PEOPLE)} {past if tense == 'past' else f'will {infinitive}'} {what}"

    while len(seen) < count:
        tense = list(TENSES)[len(seen) % 2]
        about, beside = f"{clause(tense, actions)} {one_of(tails)}", clause(tense, EVERYDAY)
        first, second = one_of([(about, beside), (beside, about)])
        text = f"{one_of(TENSES[tense])} {first}, and {second}."
        if text not in seen:
            seen.add(text)
            yield LabelledText(text, topic, tense)


def _chosen(items: list[LabelledText], per_label: int) -> list[LabelledText]:
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    number: Counter[tuple[str, str | None]] = Counter()
    turns = []
    for place in order:
        item = items[place]
        turns.append((number[item[1:]], item))  # the first of every label and attribute, then the second, …
        number[item[1:]] += 1
    taken: Counter[str] = Counter()
    chosen = []
    for _, item in sorted(turns, key=lambda turn: turn[0]):
        if taken[item.label] < per_label:
            taken[item.label] += 1
            chosen.append(item)
    return [item for item in chosen if taken[item.label] >= FEWEST_TEXTS]


def _of_file(path: Path) -> Iterator[LabelledText]:
    for where, record in _records(path):
        for column in ("text", "label"):
            if not isinstance(record, dict) or record.get(column) in (None, ""):
                raise ExperimentError(
                    f"labelled text {where} has no `{column}`. Every record needs `text` and `label`."
                )
        attribute = record.get("attribute")
        yield LabelledText(str(record["text"]), str(record["label"]), None if attribute is None else str(attribute))


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Records, each with where it stands."""
    try:
        if path.suffix == ".parquet":
            for number, record in enumerate(pq.read_table(path).to_pylist(), start=1):
                yield f"{path}, row {number},", record
            return
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number},", json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise ExperimentError(f"labelled text {path} is no valid {path.suffix} file: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
