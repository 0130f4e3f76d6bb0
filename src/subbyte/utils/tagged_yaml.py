"""YAML as Distiller writes it: ordered mappings have a tag of Python's, and nothing is run."""

from __future__ import annotations

from typing import Any

import yaml

TAG = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"


class _Loader(yaml.SafeLoader):
    """The safe loader, which reads an `OrderedDict` as the mapping that it is."""


def _ordered(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(
            None, None, "an OrderedDict holds pairs", node.start_mark
        )
    pairs = loader.construct_sequence(node, deep=True)
    try:
        # The arguments of a call, of which the only one is a list of pairs.
        return dict(pairs[0]) if pairs else {}
    except (TypeError, ValueError):
        raise yaml.constructor.ConstructorError(
            None, None, "an OrderedDict holds pairs", node.start_mark
        ) from None


_Loader.add_constructor(TAG, _ordered)


def load_tagged(text: str) -> Any:
    """What a YAML document holds, as plain data.

    Raises:
        yaml.YAMLError: It is not valid, or has another tag.
    """
    return yaml.load(text, Loader=_Loader)
