from pathlib import Path

import pytest

from flows.experiment import ready
from flows.parameters import load_config
from flows.preflight import prepare
from tasks.caching import artifacts
from tasks.corpus import tokenize
from tasks.errors import ExperimentError

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hook_points=[blocks.1.hook_resid_pst]", r"hook_resid_pst.*Nearest: blocks\.1\.hook_resid_post"),
        ("hook_points=[blocks.7.hook_resid_post]", "3 layers"),
        ("model.source=/no/such/model", "/no/such/model.*Give a hub id"),
        ("corpus.tokens=10000000000000", r"needs about [\d,]+ bytes .* are free\. Lower corpus\.tokens"),
        ("corpus.sources=[/dev/null]", "/dev/null"),
        ("corpus.sources=[package:nothing-like-it]", "not installed"),
        ("corpus.context_length=4096", "reads at most 64 tokens"),
        ("corpus.tokens=16", "smaller than one row"),
        ("dictionaries.1.k=1000", "k is 1000, and .* only 64 features"),
        ("dictionaries.0.expansion=0.001", "gives no feature"),
        ("training={lr_warmup: 0.5, lr_decay: 0.8}", "together at most 1"),
        ("training.batch_size=1000000", r"training\.batch_size"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tiny_yaml: Path, override: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        ready(load_config(str(tiny_yaml), [override]))
    assert not list(artifacts().home.glob("tokens/*"))


def test_an_empty_corpus_is_refused(tiny_yaml: Path, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ExperimentError, match=r"empty\.txt' holds no text"):
        prepare(load_config(str(tiny_yaml), [f"corpus.sources=[{tmp_path / 'empty.txt'}]"]))


def test_threads_do_not_depend_on_what_is_left_to_do(tiny_yaml: Path):
    config = load_config(str(tiny_yaml), ["compute={device: cpu}"])
    first = prepare(config)
    tokenize.build(model=first.model, corpus=first.corpus)
    assert prepare(config).compute == first.compute
    assert prepare(config).workers * prepare(config).compute.threads <= prepare(config).compute_harvest.threads
