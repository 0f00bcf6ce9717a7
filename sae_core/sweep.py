"""Several dictionaries of one hook point, trained in one pass over its activations.

Reading, moving and normalising a batch is paid once. Each dictionary keeps its own Trainer and so ends with the very
bits that training it alone on the same batches gives. They are stepped one after the other and not stacked into one
batched product, which at the widths of language models is slower and ends with other bits (docs/numbers.md).
"""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from sae_core.training import Trainer


def train_together(
    trainers: Mapping[str, Trainer],
    batches: Iterator[Tensor],
    on_step: Callable[[int], None] | None = None,
) -> dict[str, ValueError]:
    """Train all on the same batches [B, d]; one that wants fewer steps than another ends sooner.

    A trainer whose loss is not finite is dropped, and the others go on: returned are the errors by name, empty when
    all went well. `on_step` is called after each batch with the number of batches taken, to save or to show; what is
    saved is each trainer's own `state_dict`. To go on from there, leave out those dropped; all that are not done have
    to be at the same step.

    Raises ValueError for no trainers or trainers at different steps, when the batches end too early, and when no
    trainer is left.
    """
    if not trainers:
        raise ValueError("a sweep of no trainers has nothing to train")
    steps = {trainer.step_count for trainer in trainers.values() if trainer.step_count < trainer.config.steps}
    if len(steps) > 1:
        raise ValueError(f"a sweep needs trainers that are all at the same step, got steps {sorted(steps)}")
    step = steps.pop() if steps else 0
    errors: dict[str, ValueError] = {}
    while going := {
        name: trainer
        for name, trainer in trainers.items()
        if name not in errors and trainer.step_count < trainer.config.steps
    }:
        x_Bd = next(batches, None)
        if x_Bd is None:
            raise ValueError(f"the batches ended after step {step}, and {', '.join(going)} need more")
        for name, trainer in going.items():
            try:
                trainer.step(x_Bd)
            except ValueError as error:
                errors[name] = error
        if len(errors) == len(trainers):
            raise ValueError(f"no dictionary of the sweep could be trained: {next(iter(errors.values()))}")
        step += 1
        if on_step is not None:
            on_step(step)
    return errors
