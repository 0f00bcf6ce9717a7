"""Which tokens a corpus goes on from.

`corpus.extends` names them: by an experiment that used them, or by their key. The natural use is an experiment that
extends itself once there are more documents. From then on its name stands for the extended tokens, and the same command
again must find them and not extend them once more. So: where the tokens that are named already are what is asked for,
made from whichever base, that one is the base.
"""

from typing import Any

from flows.experiment_records import ExperimentRecords
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.corpus import LocatedCorpus, tokenize
from tasks.errors import ExperimentError
from tasks.references import find_name
from tasks.samples import find_samples, sample_text
from tasks.specs import CorpusSpec

Tokens = dict[str, tuple[ArtifactRef, dict[str, Any]]]
"""Reference and manifest by name, tokens/KEY."""


def find_base(
    spec: CorpusSpec, model: ArtifactRef, corpus: LocatedCorpus, samples: dict[str, Any] | None
) -> ArtifactRef | None:
    """The `base` with which `tokenize` makes what `spec` asks for.

    Args:
        corpus: what `spec` was located as.
        samples: the inputs of `sample_text`, where the corpus has samples.

    Raises:
        ExperimentError: `extends` names nothing, or tokens that this corpus cannot go on from.
        StorageError: the tokens to extend are damaged, or the experiment's record is.
    """
    if spec.extends is None:
        return None

    there: Tokens = {str(ref): (ref, manifest) for ref, manifest in artifacts().list(tokenize.kind)}
    written = _written(samples, there) if samples else ()

    def answer(base: ArtifactRef | None) -> str:
        inputs = {"model": model, "corpus": corpus, "base": base, "samples": written}
        return f"{tokenize.kind}/{tokenize.key(inputs)}"

    named = _named(spec.extends, there)
    found = latest({name: there[name] for name in named if name in there})
    if found is None:
        if answer(None) in named:  # deleted, and about to be made again
            return None
        raise ExperimentError(
            f"corpus.extends: the tokens of experiment {spec.extends!r} ({', '.join(named)}) are not in "
            f"{artifacts().uri} any more. Run it as it was before, or extend others."
        )
    tokens, manifest = found
    base = _base(manifest)
    if answer(base) == str(tokens):
        return base
    artifacts().verify(tokens)
    _check(spec, model, tokens, manifest)
    return tokens


def _written(inputs: dict[str, Any], tokens: Tokens) -> tuple[ArtifactRef, ...]:
    """The samples, also where they were deleted since tokens were made from them; empty before they are written."""
    found = find_samples(inputs)
    if found is not None:
        return (found,)
    recorded = (manifest["inputs"].get("samples.0") for _, manifest in tokens.values())
    key = sample_text.key(inputs)
    return next(((ArtifactRef(**ref),) for ref in recorded if ref and ref["key"] == key), ())


def _named(name: str, there: Tokens) -> list[str]:
    """The tokens that an experiment's name, `tokens/KEY` or the beginning of a key stands for."""
    records = ExperimentRecords(artifacts().home_location)
    experiments = records.names()
    found = find_name(
        name,
        [*experiments, *there],
        artifacts().uri,
        what="corpus.extends",
        no_such="is no experiment that was run (one that extends itself is first run without) and no tokens",
    )
    if found not in experiments:
        return [found]
    named = [used for used in records.read(found).get("artifacts", ()) if used.startswith(f"{tokenize.kind}/")]
    if not named:
        raise ExperimentError(
            f"corpus.extends: the record of experiment {found!r} names no tokens. Run it again, or give tokens/KEY."
        )
    return named


def latest(tokens: Tokens) -> tuple[ArtifactRef, dict[str, Any]] | None:
    """An experiment uses tokens and their base: what no other was made from; the newest if a run did not finish."""
    bases = [_base(manifest) for _, manifest in tokens.values()]
    ends = [entry for entry in tokens.values() if entry[0] not in bases]
    return max(ends, key=lambda entry: entry[1]["created"], default=None)


def _base(manifest: dict[str, Any]) -> ArtifactRef | None:
    recorded = manifest["inputs"].get("base")
    return ArtifactRef(**recorded) if recorded else None


def _check(spec: CorpusSpec, model: ArtifactRef, tokens: ArtifactRef, manifest: dict[str, Any]) -> None:
    """Refuse tokens that cannot be extended to what is asked for."""
    if "segments" not in manifest["notes"]:
        raise ExperimentError(
            f"corpus.extends: {tokens} was made by an earlier version of saeflow, which did not note which documents "
            "it holds. Run the experiment that made it again, and extend the result."
        )
    earlier = manifest["spec"]["corpus"]["spec"]
    for field in ("context_length", "held_out_tokens"):
        if getattr(spec, field) != earlier[field]:
            raise ExperimentError(
                f"corpus.{field} is {getattr(spec, field)}, and {tokens}, which corpus.extends names, has "
                f"{earlier[field]}. Set it to that, or extend other tokens."
            )
    if manifest["inputs"]["model"]["digest"] != model.digest:
        raise ExperimentError(
            f"model: {tokens}, which corpus.extends names, was made with the tokenizer of another model, or of other "
            "weights. Use that model, or extend other tokens."
        )
    count = manifest["notes"]["rows"]["train"] * spec.context_length
    if count >= spec.tokens:
        raise ExperimentError(
            f"corpus.tokens is {spec.tokens:,}, and {tokens}, which corpus.extends names, has {count:,} to train on "
            "already. Raise it: it is the total, the earlier ones included."
        )
