"""Which rows a reader leaves out. The store keeps every row, so changing one's mind costs no new harvest."""

from pydantic import BaseModel, ConfigDict, Field


class RowFilter(BaseModel):
    """Leaves out attention sinks: a few positions whose norm is two hundred times that of the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip_first_position: bool = Field(
        default=True, description="Leave out position 0 of every sequence, which most models use as a sink."
    )
    max_norm_ratio: float | None = Field(
        default=10.0,
        gt=0,
        description="Leave out rows with a norm above this many times the median norm at their hook point.",
    )
