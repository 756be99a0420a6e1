"""If the engine is required, it is there: no other test may pass only because torch did the work."""

import os
import shutil

import pytest

from verydeep.engine import native

STRICT = os.environ.get("VERYDEEP_BUILD") == "strict"


@pytest.mark.skipif(not STRICT, reason="VERYDEEP_BUILD is not strict: the engine is optional")
def test_the_engine_is_there_where_it_is_required():
    assert native.library() is not None


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX") or "c++"), reason="there is no C++ compiler")
def test_where_there_is_a_compiler_nothing_failed_to_compile():
    """Check this even if the engine is optional: C++ that does not compile must not leave the tests green."""
    assert not native.NOTE.exists(), native.NOTE.read_text(encoding="utf-8")
