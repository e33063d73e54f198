"""How the tests of rules say what they expect."""

from collections.abc import Callable

import pytest

from appliance.core.errors import Invalid


def refused(check: Callable[[], object], field: str, message: str) -> None:
    """Assert that the check names the field and says the message."""
    with pytest.raises(Invalid) as caught:
        check()
    assert caught.value.context.get("field") == field
    assert message in caught.value.detail
    # One printable line, whatever was sent.
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
