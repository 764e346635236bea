"""A pydantic model in a form that JSON can hold: its keys, and the types of their values.

A type is a schema of pydantic_core, reduced. What only Python code decides is `any`, so that a
value is refused only where pydantic is sure to refuse it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

Node = dict[str, Any]
"""A type: a schema of pydantic_core that JSON can hold."""

ANY: Node = {"type": "any"}
UNCHECKED: Node = {"type": "any", "metadata": {"unchecked": True}}
"""Beside another type: its keys are known, its value is not judged."""

# Taken off before validation (axolotl, utils/schemas/validation.py,
# check_fsdp_config_kwargs_prefix).
FSDP_PREFIX = "fsdp_"

# Limits that JSON can hold, of the types that only they qualify.
LIMITS: Mapping[str, tuple[str, ...]] = {
    "bool": (),
    "int": ("ge", "gt", "le", "lt", "multiple_of"),
    "float": ("ge", "gt", "le", "lt", "multiple_of", "allow_inf_nan"),
    "str": ("pattern", "min_length", "max_length", "strip_whitespace", "to_lower", "to_upper"),
    "none": (),
}


def keys_of(model: Any) -> dict[str, Node]:
    """Every key of a pydantic model with its type: aliases, and what its validators read."""
    if model is None:
        return {}
    fields: dict[str, Any] = reduced(model.__pydantic_core_schema__)["fields"]
    return {key: field["schema"] for key, field in fields.items()}


def reduced(schema: Any, definitions: Mapping[str, Any] | None = None) -> Node:
    """A core schema without what JSON cannot hold; `any` where nothing sure is left."""
    definitions = definitions or {}
    kind = schema["type"]
    if kind == "definitions":
        return reduced(schema["schema"], {item["ref"]: item for item in schema["definitions"]})
    if kind == "definition-ref":
        others = {ref: item for ref, item in definitions.items() if ref != schema["schema_ref"]}
        target = definitions.get(schema["schema_ref"])  # missing: it holds itself
        return reduced(target, others) if target else ANY
    if kind in {"default", "function-after"}:
        return reduced(schema["schema"], definitions)
    if kind == "model":
        return model_node(schema, definitions)
    if kind == "function-before":
        inner = reduced(schema["schema"], definitions)
        return (inner if inner == ANY else unchecked(inner)) if holds_keys(inner) else ANY
    if kind in LIMITS:
        limits = {key: schema[key] for key in LIMITS[kind] if is_json(schema.get(key))}
        return {"type": kind, **limits}
    if kind == "literal" and is_json(schema["expected"]):
        return {"type": kind, "expected": schema["expected"]}
    if kind == "enum" and not schema.get("missing"):
        values = [member.value for member in schema["members"]]
        if all(isinstance(value, str) for value in values):
            return {"type": "literal", "expected": values}
    if kind == "nullable":
        return {"type": kind, "schema": reduced(schema["schema"], definitions)}
    if kind == "union":
        branches = [item[0] if isinstance(item, tuple) else item for item in schema["choices"]]
        return {"type": kind, "choices": [reduced(item, definitions) for item in branches]}
    if kind == "list":
        lengths = {key: schema[key] for key in ("min_length", "max_length") if key in schema}
        return {
            "type": kind,
            "items_schema": reduced(schema.get("items_schema", ANY), definitions),
            **lengths,
        }
    if kind == "dict":
        parts = {
            part: reduced(schema.get(part, ANY), definitions)
            for part in ("keys_schema", "values_schema")
        }
        return {"type": kind, **parts}
    return ANY


def unchecked(node: Node) -> Node:
    """The type with its keys, and any value."""
    return {"type": "union", "choices": [node, UNCHECKED]}


def holds_keys(node: Node) -> bool:
    """Whether a model with keys of its own stands anywhere in the type."""
    inner = [node.get(part) for part in ("schema", "items_schema", "values_schema")]
    parts = [part for part in [*inner, *node.get("choices", ())] if part]
    return node["type"] == "typed-dict" or any(holds_keys(part) for part in parts)


def is_json(value: Any) -> bool:
    """Whether a limit or a list of names can be held by JSON as it is."""
    if isinstance(value, list):
        return all(is_json(item) for item in value)
    return type(value) in {bool, int, float, str}


def model_node(schema: Any, definitions: Mapping[str, Any]) -> Node:
    """A pydantic model: its fields under each spelling, and the keys that its validators read.

    What a validator writes before the fields are judged is not what the user wrote: unchecked.
    """
    model = schema["cls"]
    inner, before = schema["schema"], []
    while inner["type"] in {"function-before", "function-after"}:
        if inner["type"] == "function-before":
            before.append(inner["function"]["function"])
        inner = inner["schema"]
    if inner["type"] != "model-fields":  # a root model, or one that validates itself
        return ANY
    read, written = set[str](), set[str]()
    for function in before:
        more = keys_used(getattr(function, "__func__", function))
        read, written = read | more[0], written | more[1]
    fields: dict[str, Any] = {key: {"schema": ANY, "required": False} for key in read}
    for name, field in inner["fields"].items():
        node = reduced(field["schema"], definitions)
        names = spellings(name, model.model_fields[name])
        if model.__name__ == "FSDPConfig":
            names |= {FSDP_PREFIX + key for key in names}
        if written & names and node != ANY:
            node = unchecked(node) if holds_keys(node) else ANY
        required = field["schema"]["type"] != "default" and len(names) == 1 and not before
        fields |= {key: {"schema": node, "required": required} for key in names}
    free = model.model_config.get("extra") == "allow"
    typed = {key: {"type": "typed-dict-field", **field} for key, field in fields.items()}
    return {
        "type": "typed-dict",
        "fields": typed,
        "metadata": {"model": model.__name__, "free": free},
    }


def spellings(name: str, field: Any) -> set[str]:
    """Every name under which a field may be written."""
    found = {name}
    for alias in (field.alias, field.validation_alias):
        if isinstance(alias, str):
            found.add(alias)
        found |= {choice for choice in getattr(alias, "choices", ()) if isinstance(choice, str)}
    return found


def keys_used(function: Any) -> tuple[set[str], set[str]]:
    """The keys that a `mode="before"` validator reads from the raw data, and replaces there."""
    use = DataUse(function)
    return use.read, use.written


class DataUse(ast.NodeVisitor):
    """Which keys of the raw data a function reads, and which it may write over.

    Only constants are seen, and lists of them that are looped over; functions to which the
    data is handed are followed. A key that is set where it was missing is not written over.
    """

    def __init__(self, function: Any) -> None:
        definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(definition, ast.FunctionDef)
        names = [argument.arg for argument in definition.args.args]
        self.data = names[1] if names[:1] == ["cls"] else names[0]
        self.module = getattr(function, "__globals__", {})
        self.loops = looped_constants(definition, self.module)
        self.read: set[str] = set()
        self.written: set[str] = set()
        self.absent: set[str] = set()
        self.visit(definition)

    def visit_If(self, node: ast.If) -> None:
        before = self.absent
        parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
        one_suffices = isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or)
        self.visit(node.test)
        if not one_suffices:
            tests = "\n".join(map(ast.unparse, parts))
            get = rf"{self.data}\.get\('(\w+)'\)"
            missing = re.findall(rf"^(?:not {get}|{get} is None)$", tests, re.MULTILINE)
            self.absent = before.union(*missing)
        for statement in node.body:
            self.visit(statement)
        self.absent = before
        for statement in node.orelse:
            self.visit(statement)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        first = node.args[0] if node.args else None
        if isinstance(node.func, ast.Attribute) and first and self._is_data(node.func.value):
            if node.func.attr in {"get", "pop"}:
                self.read |= self._words(first)
            if node.func.attr == "pop":
                self.written |= self._words(first)
        elif isinstance(node.func, ast.Name) and first and self._is_data(first):
            helper = self.module.get(node.func.id)
            if inspect.isfunction(helper):
                read, written = keys_used(helper)
                self.read |= read
                self.written |= written

    def visit_Compare(self, node: ast.Compare) -> None:
        self.generic_visit(node)
        if isinstance(node.ops[0], ast.In | ast.NotIn) and self._is_data(node.comparators[0]):
            self.read |= self._words(node.left)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)
        if not self._is_data(node.value):
            return
        if isinstance(node.ctx, ast.Load):
            self.read |= self._words(node.slice)
        else:
            self.written |= self._words(node.slice) - self.absent

    def _is_data(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self.data

    def _words(self, node: ast.expr) -> set[str]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {node.value}
        return self.loops.get(node.id, set()) if isinstance(node, ast.Name) else set()


def looped_constants(
    definition: ast.FunctionDef, constants: Mapping[str, Any]
) -> dict[str, set[str]]:
    """Names of loops over strings, as in: for k in kernel_fields: data.get(k).

    Args:
        constants: of the function's module, which may be looped over too.
    """
    lists: dict[str, set[str]] = {}

    def words_in(node: ast.expr) -> set[str]:
        if isinstance(node, ast.Name):
            known = constants.get(node.id)
            words = known if isinstance(known, list | tuple | dict | set | frozenset) else ()
            return lists.get(node.id, {word for word in words if isinstance(word, str)})
        items = node.elts if isinstance(node, ast.List | ast.Tuple) else []
        found = {item.value for item in items if isinstance(item, ast.Constant)}
        return {word for word in found if isinstance(word, str)}

    for node in ast.walk(definition):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    lists[target.id] = words_in(node.value)
    return {
        node.target.id: words_in(node.iter)
        for node in ast.walk(definition)
        if isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Name)
    }
