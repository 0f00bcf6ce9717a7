import pytest

from flows.wording import size


@pytest.mark.parametrize(("count", "text"), [(512, "512 bytes"), (2048, "2.0 KiB"), (3 << 40, "3.0 TiB")])
def test_sizes_are_written_for_people(count: int, text: str):
    assert size(count) == text
