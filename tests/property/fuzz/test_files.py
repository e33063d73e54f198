"""Files that a node reads beside its node file: used, or refused as what they are."""

import json
import random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.agent.identity import CredentialFile, read_credential_file
from appliance.core.errors import KowabungaError
from appliance.model.agent import AgentType
from appliance.services.node_identity import ensure_node_identity
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import JSON, budget
from tests.support.fuzz_structs import almost, fitting

FILES: Final = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b'"\xff"', b'{"key":"\xff"}', bytes(100)]),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda value, seed: json.dumps(almost(value, random.Random(seed))).encode(),
        fitting(CredentialFile),
        st.integers(0, 2**32),
    ),
)


@breaks(
    What.INPUT,
    "any bytes, and any JSON, as a credential file or a node key",
    expected="used, or refused by name and without its content",
    where=Where.HOST,
)
@budget(120)
@given(FILES)
def test_a_file_is_used_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.mktemp("node")
    directory.chmod(0o700)
    for file in (directory / "credential", directory / "node.key"):
        file.write_bytes(content)
        file.chmod(0o600)
        try:
            if file.name == "credential":
                read_credential_file(file, AgentType.KAKTUS)
            else:
                ensure_node_identity(directory)
        except KowabungaError as error:
            refused = error
        else:
            continue
        assert len(str(refused)) < 1000
        assert refused.__cause__ is None
