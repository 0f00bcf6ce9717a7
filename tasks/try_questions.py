"""What can be asked of a report's dictionaries, and how much at once.

Without the libraries that answer it (tasks.try_it): who only checks a question need not wait for them.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

CHARACTERS = 2000
TOKENS = 256
NEW_TOKENS = 64
STRENGTH = 1e6


class Question(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Which dictionary is to read which text."""

    dictionary: str = Field(description="As reports name it in the addresses of its features.")
    text: str = Field(max_length=CHARACTERS)

    @field_validator("text", mode="before")
    @classmethod
    def in_whole_characters(cls, text: Any) -> Any:
        """Half of a surrogate pair, which JSON holds and no tokenizer reads, becomes a replacement character."""
        if not isinstance(text, str):
            return text
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class FeaturesQuestion(Question, frozen=True):
    """Which features fire on the text."""

    feature: int | None = Field(default=None, ge=0, description="One whose activations are told at every token.")


class ContinuationQuestion(Question, frozen=True):
    """How the model goes on from the text, as it is and with a feature changed."""

    feature: int = Field(ge=0)
    edit: Literal["steer", "clamp", "ablate"] = Field(
        description="Add `strength` to the feature's activation, set it to `strength`, or set it to 0."
    )
    strength: float = Field(
        default=0.0, ge=-STRENGTH, le=STRENGTH, description="In the units of the feature's activations."
    )
    new_tokens: int = Field(default=32, ge=1, le=NEW_TOKENS)
    sampling: Literal["greedy", "sampled"] = "greedy"
    seed: int = Field(default=0, ge=0, lt=1 << 63)
