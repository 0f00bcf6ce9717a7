"""Whether the servers of language models answer: asked before a run that will ask them, and by nothing else.

To look what is made, to harvest or to train needs no server and no key, nor does a run that finds its evaluations made.
"""

from collections.abc import Iterable

from flows.invalidation import to_make
from flows.preflight import Prepared
from flows.stages import Stage, look_up, stages
from tasks.evaluation_specs import InterpretabilitySpec
from tasks.interpret.llm import check
from tasks.specs import StageName


def check_servers(prepared: Prepared, until: StageName) -> None:
    """See that every server answers that a run as far as `until` will ask. Raises ExperimentError."""
    specs = prepared.config.evaluations
    if any(isinstance(spec, InterpretabilitySpec) and spec.server is not None for spec in specs):
        check_servers_of(prepared, stages(prepared, look_up, until))


def check_servers_of(prepared: Prepared, found: Iterable[Stage]) -> None:
    """The same, of stages that were looked up."""
    specs = [stage.job.inputs.get("spec") for stage in to_make(found, prepared.config.invalidate_from)]
    for spec in dict.fromkeys(spec for spec in specs if isinstance(spec, InterpretabilitySpec)):
        if spec.server is not None:
            check(spec.server, prepared.config.compute.access, spec.scorers)
