"""Multihashes against digests of `hashlib`."""

from __future__ import annotations

import hashlib

import pytest

from cropgen.imagery.checksums import Checksum

CONTENT = b"what a file holds"
CODES = {"sha1": "1114", "sha256": "1220", "sha512": "1340", "sha3_512": "1440", "sha3_256": "1620", "md5": "d50110"}


@pytest.mark.parametrize(("function", "head"), CODES.items())
def test_functions(tmp_path, function, head):
    path, digest = tmp_path / "x", hashlib.new(function, CONTENT).hexdigest()
    path.write_bytes(CONTENT)
    found = Checksum.parse((head + digest).upper())
    assert found == Checksum(function, digest)
    assert found.of(path) == digest
    path.write_bytes(CONTENT + b".")
    assert found.of(path) != digest


UNTOLD = ["", "12", "1220", "1220" + 31 * "00", "1210" + 16 * "00", "1520" + 32 * "00", "xyz", "ff", "0020" + 32 * "00"]


@pytest.mark.parametrize("text", [None, *UNTOLD])
def test_what_is_no_checksum_that_can_be_told(text):
    assert Checksum.parse(text) is None
