"""YAML read and written: strict about keys, without tags that make objects. The one file that knows the library."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import yaml


class YamlError(ValueError):
    """Text that is no YAML. problem says why; where is ", line 3", or nothing where the line is not known."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"no YAML{where}: {problem}")
        self.problem = problem
        self.where = where


def parse(text: str) -> Any:
    """The one document that the text is. Raises YamlError."""
    return _load(lambda: yaml.load(text, _StrictLoader))


def parse_documents(text: str) -> list[Any]:
    """Every document of the text, without the empty ones. Raises YamlError."""
    documents = _load(lambda: list(yaml.load_all(text, _StrictLoader)))
    return [document for document in documents if document is not None]


def to_text(tree: Mapping[str, Any]) -> str:
    """The tree with its keys in their order; texts of several lines as blocks."""
    text: str = yaml.dump(tree, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def documents_to_text(documents: Sequence[Mapping[str, Any]]) -> str:
    """Several documents as one text."""
    return "---\n".join(map(to_text, documents))


def _load(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except RecursionError:
        raise YamlError("its brackets are nested too deeply: close them") from None
    # The last two: PyYAML falls over a tag that does not fit its value, as in `!!bool x`.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = (getattr(error, "problem", None) or str(error) or type(error).__name__).splitlines()[0]
        # Python's advice about a number of thousands of digits goes.
        raise YamlError(problem.partition("; use sys.")[0], where) from None


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _BlockDumper(yaml.SafeDumper):
    """SafeDumper writes a text of several lines as one quoted line, which nobody can read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # parts that several places share are written out in each

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _BlockDumper.represent_text)
