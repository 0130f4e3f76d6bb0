"""YAML in which no key stands twice, with Distiller's ordered mappings; nothing is run."""

from __future__ import annotations

from typing import Any

import yaml

TAG = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"


class _Loader(yaml.SafeLoader):
    """The safe loader, which reads an `OrderedDict` as the mapping that it is.

    A key that stands twice is refused: PyYAML lets the last one win without a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; `ConstructorError` where a key stands twice."""
        own: set[tuple[str, str]] = set()  # keys that are merged in (<<) may stand again
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in own:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands twice", key.start_mark
                )
            own.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


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
        yaml.YAMLError: It is not valid, has another tag, or a mapping has a key twice.
    """
    return yaml.load(text, Loader=_Loader)
