"""Cloud-config, the YAML of cloud-init: to read what an owner wrote, and add it to ours. Pure."""

from typing import Final, cast

import msgspec
import yaml

CloudConfig = dict[str, object]

HEADER: Final = "#cloud-config"
_DEPTH_LIMIT: Final = 64
_OPENING: Final = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING: Final = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def parse_cloud_config(text: str) -> CloudConfig:
    """Return the mapping that cloud-init would read.

    Raises:
        ValueError: no YAML, no mapping of names, nested too deep, or with aliases, whose expansion
            has no bound.
    """
    try:
        _check_bounds(text)
        loaded: object = yaml.safe_load(text)
        return msgspec.convert(msgspec.to_builtins(loaded or {}), CloudConfig)
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError("not a mapping that cloud-init could read") from error


def _check_bounds(text: str) -> None:
    """Refuse, before anything is built, what would take more time or room than its length."""
    depth = 0
    for token in yaml.scan(text):
        expands = isinstance(token, yaml.AliasToken)  # an anchor alone is harmless
        if expands:
            raise ValueError("aliases (*name) are not allowed")
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
