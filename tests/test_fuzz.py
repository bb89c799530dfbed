"""Mutated files through everything that reads one: used or refused, never a traceback, a hang or a file elsewhere."""
import pytest
from fuzz import EDITS, Reader
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

edits = st.lists(st.tuples(st.sampled_from(EDITS), st.floats(0, 1, exclude_max=True), st.integers(0, 2**32 - 1)),
                 max_size=5)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", Reader.KINDS)
@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(choice=st.integers(0, 1000), edits=edits, how=st.integers(0, 1000))
@example(0, [], 0)
def test_mutated_files(reader, kind, choice, edits, how):
    verdict, details = reader.attempt(kind, choice, edits, how)
    assert verdict in ("used", "refused"), details
    assert edits or verdict == "used", details
