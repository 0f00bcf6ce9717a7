"""The parameters of an experiment: at once the UI's form, the YAML file and what the cache keys are made of."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from tasks.errors import ExperimentError
from tasks.evaluation_specs import CircuitSpec, EvaluationSpec
from tasks.specs import (
    BaselineSpec,
    ComputeSpec,
    CorpusSpec,
    DictionarySpec,
    GateSpec,
    ModelSpec,
    Spec,
    StageName,
    StorageSpec,
    TrainingSpec,
)

HookPoint = Annotated[str, Field(min_length=1)]


class ExperimentConfig(Spec):
    """One experiment: a model, a corpus, hook points, and the dictionaries that are compared on them."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Experiment")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=80,
        description="Names the experiment in tables and in the home directory.",
    )
    model: ModelSpec = ModelSpec()
    corpus: CorpusSpec = CorpusSpec()
    hook_points: tuple[HookPoint, ...] = Field(
        min_length=1,
        description="Where activations are read, in TransformerLens' names: blocks.9.hook_resid_post.",
    )
    storage: StorageSpec = StorageSpec()
    training: TrainingSpec = TrainingSpec()
    dictionaries: tuple[DictionarySpec, ...] = Field(
        default=(), description="Dictionaries trained on every hook point."
    )
    baselines: tuple[BaselineSpec, ...] = Field(
        default=(), description="What the trained dictionaries are compared with, fitted on every hook point."
    )
    evaluations: tuple[EvaluationSpec, ...] = Field(
        default=(),
        description="What every dictionary is asked beyond how well it reconstructs, baselines included.",
    )
    feature_pages: bool = Field(
        default=True,
        description="Pages of single features for each trained dictionary, of the report; for baselines where an "
        "evaluation reads their features and at most a quarter of their codes are not zero.",
    )
    random_model: bool = Field(
        default=False,
        description="Control: also harvest the same model with random weights, train the first of the dictionaries on "
        "it, and evaluate that. Takes as long as another harvest.",
    )
    compute: ComputeSpec = ComputeSpec()
    invalidate_from: StageName | None = Field(
        default=None,
        description="Make this stage and all after it anew, though they are there. Removes what was made, also where "
        "other experiments share it; they find the new one.",
    )

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        if not self.dictionaries and not self.baselines:
            raise ValueError("dictionaries and baselines are both empty: there is nothing to make")
        for field in ("hook_points", "dictionaries", "baselines", "evaluations"):
            entries = getattr(self, field)
            repeated = [entry for index, entry in enumerate(entries) if entry in entries[:index]]
            if repeated:
                raise ValueError(f"{field} lists this twice: {repeated[0]}")
        if self.random_model and not self.dictionaries:
            raise ValueError("random_model trains the first of the dictionaries on a random model, and there is none")
        return self

    @model_validator(mode="after")
    def _circuits_have_layers(self) -> Self:
        layers = {name.split(".")[1] for name in self.hook_points if name.count(".") > 1}
        if any(isinstance(spec, CircuitSpec) for spec in self.evaluations) and not (
            1 < len(layers) == len(self.hook_points)
        ):
            raise ValueError("a circuit leads from layer to layer: name hook_points of two or more, one of each")
        return self


class RetrainConfig(Spec):
    """The retraining of an experiment's dictionaries on what its corpus has new, and when the new ones are promoted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: ExperimentConfig = Field(
        description="What is trained, and on what. corpus.tokens is what the first training begins with; from then on "
        "the corpus grows.",
    )
    new_tokens: int = Field(
        default=100_000, gt=0, description="How many tokens of new documents one retraining adds at most."
    )
    gate: GateSpec = GateSpec()
    ce_tokens: int = Field(
        default=8192,
        gt=0,
        description="Held-out tokens on which the model's loss with each dictionary is measured; in whole rows.",
    )

    @model_validator(mode="after")
    def _can_be_retrained(self) -> Self:
        if not self.experiment.dictionaries:
            raise ValueError("experiment.dictionaries is empty: baselines are not trained, so there is nothing to do")
        if self.experiment.invalidate_from is not None:
            raise ValueError("experiment.invalidate_from makes an experiment anew, and a retraining goes on from it")
        if self.experiment.compute.train_deployment is not None:
            raise ValueError("experiment.compute.train_deployment: a retraining trains in its own run, so leave it out")
        return self


def presets() -> dict[str, Path]:
    """The experiments that come with saeflow, by name."""
    folder = Path(str(files("flows") / "presets"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def about(file: Path) -> str:
    """What the comments of a preset say about it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def load_config(source: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a preset or a YAML file and apply `a.b=value` overrides, whose values are YAML.

    Raises:
        ExperimentError: no such preset or file, bad YAML, or a field that is wrong; names each one.
    """
    file = presets().get(source, Path(source).expanduser())
    if not file.is_file():
        raise ExperimentError(
            f"{source!r} is neither a preset ({', '.join(presets())}) nor a YAML file. "
            "`saeflow presets` describes the former."
        )
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{file} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ExperimentError(f"{file} holds no mapping of parameters; see `saeflow presets` for examples.")
    data.setdefault("name", file.stem)
    for override in overrides:
        _apply(data, override)
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        told = "\n".join(f"  {problem}" for problem in problems(error))
        raise ExperimentError(f"{file.name} has parameters that cannot be used:\n{told}") from error


def problems(error: ValidationError) -> list[str]:
    """What is wrong with which parameter, for each of them."""
    return [f"{_where(problem['loc'])}: {_what(problem)}" for problem in error.errors()]


def _apply(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ExperimentError(f"--set {override!r} is not of the form a.b=value, such as corpus.tokens=100000.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"--set {override!r}: the value is not YAML: {error}") from error
    *parents, last = path.split(".")
    target: Any = data
    for name in parents:
        if isinstance(target, dict):
            target.setdefault(name, {})
        target = target[_index(target, name, override)]
    target[_index(target, last, override)] = value


def _index(target: Any, name: str, override: str) -> int | str:
    """What to index a mapping or a list of parameters with."""
    if isinstance(target, dict):
        return name
    if isinstance(target, list) and name.isdigit() and int(name) < len(target):
        return int(name)
    what = f"a list of {len(target)} entries, 0 first" if isinstance(target, list) else "a single value"
    raise ExperimentError(f"--set {override!r}: {name!r} names nothing in {what}.")


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "the experiment"


def _what(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return "there is no such parameter"
    given = problem.get("input")
    return message if isinstance(given, dict | list | tuple) or given is None else f"{message} (given: {given!r})"
