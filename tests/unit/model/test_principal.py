import pytest

from appliance.core.errors import Invalid
from appliance.model.principal import (
    MASTER,
    SYSTEM,
    Principal,
    PrincipalKind,
    local_principal,
)


@pytest.mark.parametrize(
    ("principal", "text"),
    [
        (MASTER, "master"),
        (SYSTEM, "system"),
        (local_principal(0), "local/uid:0"),
        (Principal(PrincipalKind.USER, "a" * 24), "user/" + "a" * 24),
    ],
)
def test_the_text_form_leads_back_to_the_principal(principal: Principal, text: str) -> None:
    assert str(principal) == text
    assert Principal.parse(text) == principal


@pytest.mark.parametrize("text", ["", "root", "master/", "/x", "Master", "user /x"])
def test_what_is_no_principal_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Principal.parse(text)
