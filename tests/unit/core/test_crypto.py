from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core import crypto
from appliance.core.errors import Corrupt, Forbidden, Invalid, KowabungaError
from appliance.core.secret import Secret

PASSPHRASE = Secret("correct horse battery staple")


@pytest.fixture(scope="module")
def passphrase_file() -> dict[str, object]:
    content = crypto.seal_with_passphrase(PASSPHRASE, b"plaintext", "kind")
    return msgspec.json.decode(content, type=dict[str, object])


def test_api_keys_carry_256_bits_and_a_prefix_that_scanners_find() -> None:
    keys = {crypto.generate_api_key().reveal_text() for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert key.startswith("kwb_")
        assert len(key) == 4 + 43
        assert crypto.is_api_key(key)


@pytest.mark.parametrize("text", ["", "short", "a" * 42, "a" * 129, "a" * 43 + "\n", "ä" * 50])
def test_what_cannot_be_a_key_is_told_apart(text: str) -> None:
    assert not crypto.is_api_key(text)


def test_a_key_is_stored_as_its_sha256() -> None:
    # FIPS 180-2, appendix B.1
    assert crypto.hash_api_key("abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_verifier_is_fixed_by_the_key_and_is_not_its_stored_hash() -> None:
    verifier = crypto.derive_verifier("kwb_" + "a" * 43)
    # A change here would lock out every registered agent.
    assert verifier.hex() == ("4fa4bf6286718583da1becdeb3f85707386a842d77dd8b404b02b28b2b478e47")
    assert verifier != crypto.derive_verifier("kwb_" + "b" * 43)
    assert verifier.hex() != crypto.hash_api_key("kwb_" + "a" * 43)


def test_sealing_round_trip_with_a_new_nonce_each_time() -> None:
    key = crypto.random_key()
    first, second = (crypto.seal(key, b"text", b"context") for _ in range(2))
    assert first != second
    assert b"text" not in first
    assert crypto.unseal(key, first, b"context") == b"text"


def test_another_key_or_context_does_not_open_a_seal() -> None:
    key = crypto.random_key()
    sealed = crypto.seal(key, b"text", b"context")
    with pytest.raises(Corrupt):
        crypto.unseal(crypto.random_key(), sealed, b"context")
    with pytest.raises(Corrupt):
        crypto.unseal(key, sealed, b"another")


def test_no_byte_of_a_sealed_value_can_change() -> None:
    key = crypto.random_key()
    sealed = crypto.seal(key, b"text", b"")
    for position in range(len(sealed)):
        with pytest.raises(Corrupt):
            crypto.unseal(key, _flip(sealed, position), b"")
    for length in range(len(sealed)):
        with pytest.raises(Corrupt):
            crypto.unseal(key, sealed[:length], b"")


@given(st.lists(st.text()), st.lists(st.text()))
def test_two_contexts_are_equal_only_when_their_parts_are(
    left: list[str], right: list[str]
) -> None:
    assert (crypto.context_of("p", *left) == crypto.context_of("p", *right)) == (left == right)


@pytest.mark.parametrize("separator", ["/", ",", " ", "\0", "\x1f", '","', "|", ":"])
def test_no_separator_inside_a_part_imitates_two_parts(separator: str) -> None:
    joined = crypto.context_of("p", f"a{separator}b")
    assert joined != crypto.context_of("p", "a", "b")
    assert joined != crypto.context_of(f"p{separator}a", "b")


def test_wrapping_reaches_only_the_holder_of_the_key() -> None:
    private, other = crypto.generate_sealing_key(), crypto.generate_sealing_key()
    wrapped = crypto.wrap(b"data key", crypto.sealing_public_key(private), b"info")
    assert crypto.unwrap(wrapped, private, b"info") == b"data key"
    tries: list[tuple[bytes, bytes, bytes]] = [
        (wrapped, other, b"info"),
        (wrapped, private, b"other info"),
        (_flip(wrapped, 0), private, b"info"),
        (_flip(wrapped, len(wrapped) - 1), private, b"info"),
        (b"", private, b"info"),
    ]
    for content, key, info in tries:
        with pytest.raises(Corrupt):
            crypto.unwrap(content, key, info)


@pytest.mark.parametrize("public_key", [b"", b"short", bytes(32)])
def test_nothing_is_wrapped_to_an_unusable_key(public_key: bytes) -> None:
    with pytest.raises(Invalid):
        crypto.wrap(b"data key", public_key, b"info")


def test_signatures_fit_their_key_and_message() -> None:
    private = crypto.generate_signing_key()
    public = crypto.signing_public_key(private)
    signature = crypto.sign(private, b"message")
    assert crypto.is_signing_public_key(public)
    assert crypto.verify(public, signature, b"message")
    assert not crypto.verify(public, signature, b"another message")
    assert not crypto.verify(public, _flip(signature, 3), b"message")
    assert not crypto.verify(public, b"", b"message")
    assert not crypto.verify(b"not a key", signature, b"message")
    other = crypto.signing_public_key(crypto.generate_signing_key())
    assert not crypto.verify(other, signature, b"message")


def test_a_key_is_named_by_its_content() -> None:
    key = crypto.random_key()
    assert crypto.identify_key(key) == crypto.identify_key(key)
    assert crypto.identify_key(key) != crypto.identify_key(crypto.random_key())
    assert len(crypto.identify_key(key)) == 24


def test_a_passphrase_opens_its_file_and_nothing_else_does() -> None:
    content = crypto.seal_with_passphrase(PASSPHRASE, b"plaintext", "kind")
    assert b"plaintext" not in content
    assert crypto.unseal_with_passphrase(PASSPHRASE, content, "kind") == b"plaintext"
    with pytest.raises(Forbidden, match="passphrase is wrong"):
        crypto.unseal_with_passphrase(Secret("wrong horse"), content, "kind")
    with pytest.raises(Invalid, match="not 'other'"):
        crypto.unseal_with_passphrase(PASSPHRASE, content, "other")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("salt", crypto.to_base64(bytes(16))),
        ("salt", ""),
        ("salt", "%"),
        ("iterations", 1),
        ("lanes", 1),
        ("memory_kib", 8),
        ("memory_kib", 2**31),
        ("sealed", crypto.to_base64(bytes(64))),
        ("sealed", "%"),
        ("sealed", ""),
        ("purpose", "another kind"),
        ("extra", 1),
    ],
)
def test_a_changed_field_of_a_passphrase_file_is_refused(
    passphrase_file: dict[str, object], field: str, value: object
) -> None:
    file = {**passphrase_file, field: value}
    with pytest.raises((Forbidden, Invalid)):
        crypto.unseal_with_passphrase(PASSPHRASE, msgspec.json.encode(file), "kind")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\xfe", b'{"purpose": "\xff"}', b"[1, 2", b"kowabunga"]
)
def test_a_file_of_another_kind_is_told_apart(content: bytes) -> None:
    with pytest.raises(Invalid, match="not a file of kind"):
        crypto.unseal_with_passphrase(PASSPHRASE, content, "kind")


def test_errors_carry_no_secret() -> None:
    key, private = b"K" * 32, b"P" * 32
    secrets = {"K" * 8, "P" * 8, crypto.to_base64(key)[:8], "plaintext", "correct horse"}
    sealed = crypto.seal(key, b"plaintext", b"")
    file = crypto.seal_with_passphrase(PASSPHRASE, b"plaintext", "kind")
    attempts: list[partial[bytes]] = [
        partial(crypto.unseal, key, _flip(sealed, 20), b""),
        partial(crypto.unwrap, b"x" * 80, private, b""),
        partial(crypto.from_base64, "plaintext!"),
        partial(crypto.unseal_with_passphrase, Secret("wrong horse"), file, "kind"),
    ]
    for attempt in attempts:
        with pytest.raises(KowabungaError) as raised:
            attempt()
        shown = f"{raised.value!r} {raised.value.hint} {raised.value.context}"
        assert raised.value.__suppress_context__
        assert not any(secret in shown for secret in secrets)


def _flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
