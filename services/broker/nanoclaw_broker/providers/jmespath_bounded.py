"""JMESPath for expressions that nobody vouches for: the work is counted, so that none can hold the broker up.

The library alone lets `[@,@][]|[@,@][]|…` double a list with every step, and compares and prints shared structures as
trees. Here every step, every element made and every node looked at costs, and the purse is small.
"""

import warnings
from functools import lru_cache
from typing import Any

from jmespath.exceptions import JMESPathError  # type: ignore[import-untyped]
from jmespath.parser import Parser  # type: ignore[import-untyped]
from jmespath.visitor import TreeInterpreter  # type: ignore[import-untyped]

MOST_WORK = 400_000
"""In nodes looked at; about 50 ms at the worst."""
_STEP = 10
_CHARS_A_NODE = 16


class NotAnExpression(ValueError):
    """It can't be parsed, or makes no sense for this data. The text shows none of the data."""


class TooMuchWork(Exception):
    """It would take too long."""

    def __init__(self) -> None:
        super().__init__("the expression takes too much work on this data")


@lru_cache(maxsize=256)
def compile_expression(expression: str) -> Any:
    """The parsed expression. Raises NotAnExpression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a deprecated form of literals
            return Parser().parse(expression).parsed
    except JMESPathError as error:
        where = getattr(error, "lex_position", None)
        raise NotAnExpression("not a JMESPath expression" + ("" if where is None else f", at {where}")) from None
    except (RecursionError, ValueError):
        raise NotAnExpression("not a JMESPath expression, or nested too deep") from None


def search(parsed: Any, data: Any) -> Any:
    """The value of a compiled expression; its tree has at most MOST_WORK nodes.

    Raises NotAnExpression where it makes no sense for the data, TooMuchWork.
    """
    interpreter = _Bounded()
    try:
        value = interpreter.visit(parsed, data)
        interpreter.weigh(value)
    except JMESPathError as error:
        raise NotAnExpression(_reason(error)) from None
    except RecursionError:
        raise TooMuchWork from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise NotAnExpression("the expression can't be applied to this data") from None
    if type(value).__name__ == "_Expression":
        raise NotAnExpression("the value of the expression is a reference to an expression")
    return value


def _reason(error: JMESPathError) -> str:
    function = getattr(error, "function_name", "")
    kind = type(error).__name__.removesuffix("Error")
    return f"the expression can't be applied to this data: {kind}" + (f" in {function}()" if function else "")


class _Bounded(TreeInterpreter):  # type: ignore[misc]  # the library has no types
    """The library's interpreter with a purse."""

    def __init__(self) -> None:
        super().__init__()
        self.left = MOST_WORK

    def pay(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise TooMuchWork

    def weigh(self, value: Any) -> None:
        """Pays for a walk over the value as a tree, sharing or not."""
        heap = [value]
        while heap:
            one = heap.pop()
            kind = type(one)
            if kind is str:
                self.pay(1 + len(one) // _CHARS_A_NODE)
            elif kind is list:
                self.pay(1 + len(one))
                heap.extend(one)
            elif kind is dict:
                self.pay(1 + 2 * len(one))
                heap.extend(one.values())
            else:
                self.pay(1)

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self.pay(_STEP)
        value = super().visit(node, *args, **kwargs)
        if type(value) in (list, dict):
            self.pay(len(value))
        return value

    def visit_comparator(self, node: Any, value: Any) -> Any:
        left, right = (self.visit(child, value) for child in node["children"])
        self.weigh(left)
        self.weigh(right)
        literals = [{"type": "literal", "value": side} for side in (left, right)]
        return super().visit_comparator({"value": node["value"], "children": literals}, None)

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        for argument in arguments:
            self.weigh(argument)
        if node["value"] == "join" and len(arguments) == 2 and all(type(a) in (str, list) for a in arguments):
            self.pay(len(arguments[0]) * len(arguments[1]) // _CHARS_A_NODE)
        return self._functions.call_function(node["value"], arguments)
