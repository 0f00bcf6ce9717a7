"""What an experiment's dictionaries are asked, one frozen model per evaluation (see tasks.specs)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.forms import Tabs
from tasks.interpret.servers import ServerSpec
from tasks.specs import Spec

Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    Field(min_length=1, description="Each repeats the whole with other prompts; intervals are over them."),
]

PATTERNS = {
    "apostrophe": r"'",
    "opening_parenthesis": r"\(",
    "closing_parenthesis": r"\)",
    "digit": r"[0-9]",
    "newline": r"\n",
}
"""Regular expressions that have names."""

Pattern = Annotated[
    str,
    Field(
        min_length=1,
        description=f"What the feature should be about: {', '.join(PATTERNS)}, or a regular expression. A token "
        "matches where a match of the expression in the text covers a character of it.",
    ),
]


class FaithfulnessSpec(Spec):
    """What the model predicts with the reconstruction in place of the activations."""

    evaluation: Literal["faithfulness"] = "faithfulness"
    tokens: int = Field(default=8192, gt=0, description="Held-out tokens, in whole rows.")


class IOISpec(Spec):
    """Indirect object identification: how many features, and how large an edit, have the model name somebody else."""

    evaluation: Literal["ioi"] = "ioi"
    prompts: int = Field(default=32, ge=2, description="Prompts for each seed.")
    names: int | None = Field(
        default=None, ge=3, description="First names that prompts are made of; empty takes all that are one token."
    )
    seeds: Seeds = (0, 1, 2)
    sweep_prompts: int = Field(
        default=8,
        gt=0,
        description="Prompts of the first seed on which features are patched one by one: to check attribution, and in "
        "the paper's threshold sweep.",
    )
    sweep_features: int = Field(
        default=64,
        ge=0,
        description="Features that the sweep begins with: those with the largest attribution. 0 leaves the sweep out.",
    )


class ErasureSpec(Spec):
    """Concept erasure: the gender of a name, taken out of the activations."""

    evaluation: Literal["erasure"] = "erasure"
    prompts: int = Field(
        default=32, ge=4, description="Prompts for each class and seed, with names that nothing was fitted on."
    )
    seeds: Seeds = (0, 1, 2)
    side_effect_tokens: int = Field(
        default=1024, gt=0, description="Held-out tokens on which the change of all other predictions is measured."
    )


class PatternSpec(Spec):
    """The features that fire where a pattern is in the text, and what the model does without the best of them."""

    evaluation: Literal["pattern"] = "pattern"
    pattern: Pattern = "apostrophe"
    tokens: int = Field(default=32_768, gt=0, description="Held-out tokens that are read, in whole rows.")
    contexts: int = Field(default=64, gt=0, description="Places at which the feature is ablated.")


class CircuitSpec(Spec):
    """Which features of earlier layers make a feature fire: the dictionaries of one method, layer by layer."""

    evaluation: Literal["circuit"] = "circuit"
    pattern: Pattern = "closing_parenthesis"
    feature: int | None = Field(
        default=None, ge=0, description="The feature of the last layer; empty finds the best one for the pattern."
    )
    contexts: int = Field(default=20, ge=2, description="Places where the feature fires at half its maximum or more.")
    children: int = Field(default=5, gt=0, description="Features that are kept below each feature.")
    tokens: int = Field(default=32_768, gt=0, description="Held-out tokens that contexts are taken from.")
    seed: int = Field(default=0, ge=0, description="Decides the contexts and the random features beside the children.")


class ProbingSpec(Spec):
    """Sparse probing, spurious correlation removal (SCR) and targeted probe perturbation (TPP) on labelled text."""

    evaluation: Literal["probing"] = "probing"
    data: str | None = Field(
        default=None,
        min_length=1,
        description="A .jsonl or .parquet file with columns `text` and `label`, and `attribute` for SCR; empty takes "
        "the built-in sentences.",
    )
    texts: int = Field(default=256, ge=40, description="Texts for each label.")
    seeds: Seeds = (0, 1, 2)


class SteeringSpec(Spec):
    """What the model writes with a feature added to its activations."""

    evaluation: Literal["steering"] = "steering"
    pattern: Pattern = "digit"
    feature: int | None = Field(default=None, ge=0, description="Empty takes the best feature for the pattern.")
    prompt: str = Field(default="Last week we went to the", min_length=1, description="What the text begins with.")
    strengths: tuple[float, ...] = Field(
        default=(0.0, 1.0, 2.0, 4.0),
        min_length=1,
        description="How much is added at every position, in units of the feature's mean where it fires.",
    )
    new_tokens: int = Field(default=32, gt=0, description="Tokens that are written.")
    samples: int = Field(default=8, gt=0, description="Texts for each strength.")
    tokens: int = Field(
        default=16_384, gt=0, description="Held-out tokens on which the feature is found and its mean is taken."
    )
    seed: int = Field(default=0, ge=0, description="Decides the texts.")


class InterpretabilitySpec(Spec):
    """Automatic interpretability: how well what is said of a feature predicts its activations."""

    evaluation: Literal["interpretability"] = "interpretability"
    explainer: Literal["token_lookup", "llm", "contrastive"] = Field(
        default="token_lookup",
        description="Who says what a feature responds to. token_lookup lists the tokens that it fires on, and needs no "
        "language model; llm is a model on a server; contrastive shows that as well where the feature is silent.",
    )
    scorers: tuple[Literal["simulation", "detection", "fuzzing", "intruder"], ...] = Field(
        default=("simulation",),
        min_length=1,
        description="What an explanation is put to: simulating activations; telling texts in which the feature fires "
        "from others (detection), and right marks from wrong ones (fuzzing). intruder asks of the texts alone.",
    )
    server: ServerSpec | None = Field(default=None, description="The models that llm and contrastive ask.")
    features: int | None = Field(
        default=100,
        gt=1,
        description="Features of each dictionary, at random among those that fire in 20 fragments or more; empty takes "
        "all of them.",
    )
    fragment_length: int = Field(default=64, ge=4, description="Tokens of a fragment.")
    seed: int = Field(default=0, ge=0, description="Decides the features and the fragments.")

    @model_validator(mode="after")
    def _models_are_on_servers(self) -> Self:
        if (self.server is None) != (self.explainer == "token_lookup"):
            raise ValueError("explainer: llm and contrastive need a server, and token_lookup has none")
        if self.explainer == "token_lookup" and self.scorers != ("simulation",):
            raise ValueError("explainer: token_lookup is scored by simulation alone; the other scorers ask a model")
        return self

    def resolved(self) -> Self:
        """The same with the address of the server that is meant."""
        return self if self.server is None else self.model_copy(update={"server": self.server.resolved()})


EvaluationSpec = Annotated[
    FaithfulnessSpec
    | IOISpec
    | ErasureSpec
    | PatternSpec
    | CircuitSpec
    | ProbingSpec
    | SteeringSpec
    | InterpretabilitySpec,
    Field(discriminator="evaluation"),
    Tabs("evaluation"),
]
