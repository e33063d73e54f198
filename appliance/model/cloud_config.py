"""Cloud-config, the YAML of cloud-init: to read what an owner wrote, and add it to ours. Pure."""

from datetime import date, datetime
from typing import Final, cast

import msgspec
import yaml

CloudConfig = dict[str, object]

HEADER: Final = "#cloud-config"
_DEPTH_LIMIT: Final = 64
_DATES: Final = (datetime, date)  # YAML has them: what is read as one is written as one
_OPENING: Final = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_FORBIDDEN: Final[dict[type[yaml.Token], str]] = {  # an anchor alone is harmless
    yaml.AliasToken: "aliases (*name)",
    yaml.TagToken: "tags (!name)",
}
_CLOSING: Final = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def parse_cloud_config(text: str) -> CloudConfig:
    """Return the mapping that cloud-init would read.

    Raises:
        ValueError: no YAML, no mapping of names, nested too deep, with tags, which make bytes and
            sets that have no form here, with aliases, whose expansion has no bound, or with half a
            surrogate pair.
    """
    try:
        _check_tokens(text)
        loaded: object = yaml.safe_load(text)
        plain = msgspec.to_builtins(loaded or {}, builtin_types=_DATES)
        return msgspec.convert(plain, CloudConfig)
    except (yaml.YAMLError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("not a mapping that cloud-init could read") from error


def _check_tokens(text: str) -> None:
    """Refuse, before anything is built, what would take more time or room than its length.

    And tags, with which the library fails in many ways: `!!bool maybe` is a KeyError.
    """
    depth = 0
    for token in yaml.scan(text):
        forbidden = _FORBIDDEN.get(type(token))
        if forbidden is not None:
            raise ValueError(f"{forbidden} are not allowed")
        if isinstance(token, yaml.ScalarToken):
            str(token.value).encode()  # "\ud800" is half a pair, which nothing can write again
        depth += isinstance(token, _OPENING)
        depth -= isinstance(token, _CLOSING)
        if depth > _DEPTH_LIMIT:
            raise ValueError(f"nested more than {_DEPTH_LIMIT} deep")


def merge_cloud_config(base: CloudConfig, more: CloudConfig) -> CloudConfig:
    """Return both as one: lists are joined, mappings merged, and what else is there replaced."""
    return base | {key: _join(base.get(key), value) for key, value in more.items()}


def _join(held: object, added: object) -> object:
    if isinstance(held, dict) and isinstance(added, dict):
        return merge_cloud_config(cast("CloudConfig", held), cast("CloudConfig", added))
    if isinstance(held, list) and isinstance(added, list):
        return [*cast("list[object]", held), *cast("list[object]", added)]
    return added
