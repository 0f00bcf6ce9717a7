"""Where a dictionary comes from, as far as it is known: what the peers' metadata fields are filled with."""

import re
from dataclasses import dataclass

_LAYER = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class Provenance:
    """Every field may be None, which says that it is not known."""

    model_name: str | None = None
    """The language model's name on the hub, or what it was called."""

    hook_name: str | None = None
    """TransformerLens' name of the hook point, such as `blocks.3.hook_resid_post`."""

    context_size: int | None = None
    """Tokens in a row of text."""

    prepend_bos: bool | None = None
    """Whether every row of text began with a beginning-of-sequence token."""

    dataset: str | None = None
    """The text that the activations come from."""

    @property
    def layer(self) -> int | None:
        """The layer that the hook point is in."""
        match = _LAYER.match(self.hook_name or "")
        return int(match[1]) if match else None
