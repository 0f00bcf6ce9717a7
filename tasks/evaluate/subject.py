"""The dictionary that an evaluation is of."""

from sae_core.architectures import Crosscoder, Transcoder
from sae_core.dictionary import Dictionary, load_dictionary
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError


def load_subject(dictionary: ArtifactRef, width: int, compute: Compute) -> Dictionary:
    """A dictionary of activations of this width, on the device that is computed on.

    Raises:
        ExperimentError: it is of another width, or rebuilds something else than it reads.
    """
    subject = load_dictionary(artifacts().path(dictionary)).to(compute.device)
    if isinstance(subject, Transcoder | Crosscoder):
        raise ExperimentError(f"{dictionary} is a {subject.method}: it does not rebuild what it reads.")
    if subject.d_in != width:
        raise ExperimentError(f"{dictionary} is for activations of width {subject.d_in}, and these have {width}.")
    return subject
