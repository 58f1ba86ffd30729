"""
Condition strings: ``"total > 100 and kind != 'gift'"``.

Names, constants, comparisons, ``and``, ``or``, ``not``, ``in``, arithmetic, and ``value[key]``. Nothing else is
understood, so a string from a file can look at values and do nothing to them.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable
from typing import Any

from asyncflow.errors import DeclarationError

_LONGEST = 10_000
_DEEPEST = 50


def _of_numbers(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return *operation* for numbers and the like; of a text it could make one that fills the memory."""

    def calculate(one: Any, other: Any) -> Any:
        for operand in (one, other):
            if isinstance(operand, (str, bytes, bytearray, list, tuple)):
                raise TypeError(f"a condition multiplies and divides numbers, not a {type(operand).__name__}")
        return operation(one, other)

    return calculate


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _of_numbers(operator.mul),
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: _of_numbers(operator.mod),
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg}


class Expression:
    """
    A condition string, called with the values of its names by keyword.

    Raises:
        DeclarationError: It cannot be read, or has something in it that is not understood.
    """

    def __init__(self, text: str, what: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise DeclarationError(f"the condition of {what} is {len(text)} characters long; write a function instead")
        try:
            stripped = text.strip()
            self._tree = ast.parse(stripped, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            problem = getattr(error, "msg", error)
            raise DeclarationError(f"the condition {text!r:.80} of {what} cannot be read: {problem}") from None
        names: dict[str, None] = {}
        stack = [(self._tree, 0)]
        while stack:
            node, depth = stack.pop()
            if depth > _DEEPEST or not _is_understood(node):
                # Not ast.unparse(), which needs Python's stack for what is nested.
                part = ast.get_source_segment(stripped, node) or text
                raise DeclarationError(
                    f"the condition {text!r:.80} of {what} has {part[:40]!r} in it, which is not "
                    "understood; use names, constants, comparisons, and, or, not, in, arithmetic and value[key], or "
                    "write a function"
                )
            if isinstance(node, ast.Name):
                names[node.id] = None
            stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in sorted(names)])

    def __call__(self, **values: Any) -> bool:
        return bool(_value(self._tree, values))

    def __repr__(self) -> str:
        return f"<condition {self.text!r}>"


def _is_understood(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _BINARY
    if isinstance(node, ast.UnaryOp):
        return type(node.op) in _UNARY
    if isinstance(node, ast.Compare):
        return all(type(op) in _COMPARE for op in node.ops)
    return isinstance(node, (ast.Name, ast.Constant, ast.BoolOp, ast.Subscript, ast.List, ast.Tuple))


def _value(node: ast.expr, values: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BoolOp):
        found: Any = None
        for part in node.values:
            found = _value(part, values)
            if bool(found) is isinstance(node.op, ast.Or):
                break
        return found
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_value(node.operand, values))
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Subscript):
        return _value(node.value, values)[_value(node.slice, values)]
    if isinstance(node, ast.List):
        return [_value(part, values) for part in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(part, values) for part in node.elts)
    assert isinstance(node, ast.Compare)
    left = _value(node.left, values)
    for op, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, values)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True
