"""Files that are whole or not there."""

import hashlib

import pytest

from verydeep.files import digest


@pytest.mark.parametrize("content", [b"", b"weights" * 100_000])
def test_a_digest_is_sha_256(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
