"""Where the engine has to be there, it is: no other test may pass only because torch did the work."""

import os

import pytest

from verydeep.engine import native

FOLDER = native.Path(native.__file__).parent
STRICT = os.environ.get("VERYDEEP_BUILD") == "strict"


@pytest.mark.skipif(not STRICT, reason="VERYDEEP_BUILD is not strict: the engine is optional")
def test_the_engine_is_there_where_it_is_required():
    assert not (FOLDER / "_unbuilt.txt").exists(), (FOLDER / "_unbuilt.txt").read_text(encoding="utf-8")
    assert native.library() is not None
