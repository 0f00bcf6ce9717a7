"""Every step is found before it is made: the cache policy, its serializer, and the `step` decorator.

Prefect's own policies do not hold for this work. `INPUTS` collides between tasks with equal arguments, a tensor
never hashes to the same key twice, a Zarr path hashes the same after its data changed, and `TASK_SOURCE` sees
only the function's own text. So steps exchange small references to artifacts, and the key of a step is a hash of
its kind, its declared code version, its specs as canonical JSON and the *digests* of the artifacts it reads.

A record in Prefect's result storage counts as a hit only if its artifact is still there and whole: the
serializer verifies while it loads, and Prefect takes any exception there for a miss. The artifact store then
repairs what is damaged. What stays unprotected: a library upgrade that changes results. Raise the code version of
the steps it touches.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.serializers import JSONSerializer
from prefect.transactions import get_transaction
from pydantic import BaseModel, Field

from storage.artifacts import AnyStore, ArtifactRef, ArtifactStore, content_key
from storage.errors import DamagedChunk
from storage.locations import remove_file
from storage.manifests import Filled
from tasks.compute import gpu_slot
from tasks.output import outlive_readers

P = ParamSpec("P")

# Where and how wide a step runs never changes what it makes.
NOT_IN_KEY = frozenset({"compute"})


def artifacts() -> AnyStore:
    """The store of this process: $SAEFLOW_HOME, which the processes of a pool inherit."""
    return ArtifactStore.from_environment()


class Step(Generic[P]):
    """A function that fills a directory, made into one that returns a reference to the finished artifact.

    The function's first parameter is the directory, its first argument when it runs; callers give the others, by
    name. It may return a JSON-able dict of notes (counts, warnings) for the manifest.
    """

    def __init__(self, make: Callable[..., Any], kind: str, code_version: str, resumable: bool, streamed: bool) -> None:
        self.__doc__ = make.__doc__
        self.make = make
        self.kind = kind
        self.code_version = code_version
        self.resumable = resumable
        self.streamed = streamed
        parameters = list(inspect.signature(make).parameters.values())[1:]
        signature = inspect.Signature(parameters, return_annotation=ArtifactRef)

        def run(*arguments: Any, **named: Any) -> ArtifactRef:
            if get_transaction().key is None:  # pyright: ignore[reportOptionalMemberAccess]
                raise RuntimeError(f"step {self.name} has no cache key: an input is not JSON, a spec or a reference")
            outlive_readers()
            inputs = signature.bind(*arguments, **named).arguments
            with gpu_slot(inputs.get("compute")):
                return self.build(**inputs)

        run.__name__, run.__doc__, run.__module__ = make.__name__, make.__doc__, make.__module__
        run.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        # No tags: for each task run with tags Prefect asks its server for concurrency slots, a second or two a time.
        self.task: Task[P, ArtifactRef] = Task(
            run,
            name=self.name,
            cache_policy=ContentKey(self),
            result_serializer=VerifiedRefSerializer(),
            persist_result=True,
        )

    @property
    def name(self) -> str:
        return self.make.__name__.replace("_", " ")

    def __reduce__(self) -> tuple[Any, ...]:
        # A pool's process imports the step anew; pickled by value it would carry its module's globals along.
        return _import_step, (self.make.__module__, self.make.__name__)

    def key(self, inputs: Mapping[str, Any]) -> str:
        spec, digests = split_inputs(inputs)
        return content_key(self.kind, self.code_version, spec, {name: ref.digest for name, ref in digests.items()})

    def find(self, **inputs: Any) -> ArtifactRef | None:
        """The finished artifact of these inputs, or None.

        Raises:
            DamagedArtifact: it is there and not whole.
        """
        return artifacts().find(self.kind, self.key(inputs))

    def build(self, **inputs: Any) -> ArtifactRef:
        """Find or make the artifact of these inputs, in this process and without Prefect."""
        spec, references = split_inputs(inputs)
        try:
            return artifacts().build(
                self.kind,
                self.key(inputs),
                lambda place: self.make(place, **inputs),
                code_version=self.code_version,
                spec=spec,
                inputs=references,
                resumable=self.resumable,
                streamed=self.streamed,
            )
        except DamagedChunk as error:
            # Seen only while reading, in a store too large to hash at every start. Without the file the next run
            # sees the damage at once and makes that part again.
            remove_file(error.file)
            raise

    def run(self, run_name: str, **inputs: Any) -> ArtifactRef:
        """Run as a Prefect task in this process."""
        return self.task.with_options(task_run_name=run_name)(**inputs)

    def submit(self, run_name: str, **inputs: Any) -> PrefectFuture[ArtifactRef]:
        """Run as a Prefect task on the flow's task runner."""
        return self.task.with_options(task_run_name=run_name).submit(**inputs)


def step(
    *, kind: str, code_version: str, resumable: bool = False, streamed: bool = False
) -> Callable[[Callable[..., dict[str, Any] | Filled | None]], Step[...]]:
    """Declare a step. `code_version` enters the key: raise it when the code makes something else than before.

    tests/tasks/test_fingerprints.py fails when the code changed and the version did not. A resumable step finds in
    its directory what an interrupted attempt left there; any other starts with an empty one. A streamed step is given a
    Location, which may be in an object store, and not a directory of this machine.
    """
    return lambda make: Step(make, kind, code_version, resumable, streamed)


class ContentKey(CachePolicy):
    """Prefect's cache key is the artifact's own key."""

    def __init__(self, step: Step[...]) -> None:
        self.step = step

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        return f"{self.step.kind}-{self.step.key(inputs)}"


class VerifiedRefSerializer(JSONSerializer[Any]):
    """JSON; what it loads is verified against the artifact store, so that a stale record is a miss."""

    type: str = Field(default="verified-ref", frozen=True)

    def loads(self, blob: bytes) -> Any:
        reference = super().loads(blob)
        artifacts().verify(reference)
        return reference


def split_inputs(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, ArtifactRef]]:
    """Inputs as (specs in canonical JSON, references by name); a tuple of references becomes name.0, name.1, …"""
    spec: dict[str, Any] = {}
    references: dict[str, ArtifactRef] = {}
    for name, value in inputs.items():
        if name in NOT_IN_KEY:
            continue
        if isinstance(value, ArtifactRef):
            references[name] = value
        elif isinstance(value, tuple) and value and all(isinstance(item, ArtifactRef) for item in value):
            references |= {f"{name}.{index}": item for index, item in enumerate(value)}
        else:
            spec[name] = _canonical(name, value)
    return spec, references


def _canonical(name: str, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, tuple | list):
        return [_canonical(name, item) for item in value]
    raise TypeError(f"input {name!r} is a {type(value).__name__}: steps take specs, references and JSON values")


def _import_step(module: str, name: str) -> Step[...]:
    __import__(module)
    return getattr(sys.modules[module], name)
