"""How fast the servers of language models are asked, who pays, and how much: part of `compute`, and of no key."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Price(BaseModel):
    """What a model costs, in whatever currency the budget is in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="As its server calls it.")
    input: float = Field(ge=0, description="For a million tokens that it reads.")
    output: float = Field(ge=0, description="For a million tokens that it writes.")


class Access(BaseModel):
    """How fast a server is asked, who pays, and how much."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(default=8, ge=1, description="Requests under way at once, for each dictionary evaluated.")
    timeout: float = Field(default=120, gt=0, description="Seconds until a request counts as unanswered.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Of the whole run; empty is no limit.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Read and written; empty is no limit.")
    prices: tuple[Price, ...] = Field(default=(), description="Of the models that are asked, for estimate and budget.")
    budget_tokens: int | None = Field(
        default=None, ge=1, description="Tokens that a run may use, read and written; the next run may use as many."
    )
    budget_currency: float | None = Field(default=None, gt=0, description="What a run may cost; needs `prices`.")
    secret: str | None = Field(
        default=None, min_length=1, description="A Prefect Secret block with the key; empty takes $OPENAI_API_KEY."
    )

    @model_validator(mode="after")
    def check_prices(self) -> "Access":
        if self.budget_currency is not None and not self.prices:
            raise ValueError("budget_currency needs prices of the models")
        return self

    def cost(self, model: str, input_tokens: int, output_tokens: int) -> float | None:
        """What so many tokens cost; None where the model has no price."""
        price = next((price for price in self.prices if price.model == model), None)
        if price is None:
            return None
        return (input_tokens * price.input + output_tokens * price.output) / 1e6
