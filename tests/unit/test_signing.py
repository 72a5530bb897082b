"""Signatures are those of jupyter_client's Session."""

import pytest
from jupyter_client.session import Session

from hyper_kernel.channels.signing import Signer
from hyper_kernel.errors import RequestError

PARTS = [b'{"msg_id":"1"}', b"{}", b"{}", b'{"code":"1"}']


@pytest.mark.parametrize("scheme", ["hmac-sha256", "hmac-sha512", "hmac-md5", "hmac-sha3_256", "hmac-blake2b"])
def test_signs_as_session_does(scheme):
    session, signer = Session(key=b"secret", signature_scheme=scheme), Signer(b"secret", scheme)
    signature = session.sign(PARTS)
    assert signer.sign(PARTS) == signature
    assert signer.verify([memoryview(part) for part in PARTS], memoryview(signature))


@pytest.mark.parametrize("signature", [b"", b"0" * 64, b"\xff" * 64, Signer(b"other").sign(PARTS)])
def test_another_signature_is_wrong(signature):
    assert not Signer(b"secret").verify(PARTS, signature)


def test_each_part_is_signed():
    signature = Signer(b"secret").sign(PARTS)
    for changed in range(4):
        parts = [part + b" " * (number == changed) for number, part in enumerate(PARTS)]
        assert not Signer(b"secret").verify(parts, signature)


def test_without_a_key_nothing_is_signed_and_all_is_right():
    signer = Signer(b"")
    assert signer.sign(PARTS) == b"" == Session(key=b"").sign(PARTS)
    assert signer.verify(PARTS, b"") and signer.verify(PARTS, b"anything")


@pytest.mark.parametrize("scheme", ["", "sha256", "hmac", "hmac-", "hmac-nope", "hmac-shake_128", "rsa-sha256"])
def test_an_unknown_scheme_is_the_requests_fault(scheme):
    with pytest.raises(RequestError, match="signature scheme") as raised:
        Signer(b"secret", scheme)
    assert "hmac-sha256" in raised.value.hint


def test_the_key_is_not_shown():
    assert repr(Signer(b"secret")) == "<Signer hmac-sha256>"
    assert repr(Signer(b"")) == "<Signer hmac-sha256 without a key>"
