"""Limits on the time and the memory of a stranger's chat template, which jinja's sandbox does not have.

Time is looked at with every turn of a loop and every call of a macro. Texts can only grow through operators, methods,
filters and what is printed; each adds what it makes to one sum.
"""

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SECONDS = 10.0  # of the rendering thread's processor time; the longest published templates take milliseconds
LONGEST_TEXT = 1 << 24  # characters that a template may print
_MOST = 1 << 26  # characters that it may make on the way
_LARGEST = 1 << 28  # characters that one method or filter could make at most, by the sizes of what it is given
_GROWING = ("batch", "center", "expandtabs", "format", "indent", "join", "ljust", "pprint", "replace", "rjust", "slice")
_GROWING += ("format_map", "string", "tojson", "translate", "wordwrap", "zfill")
_WIDTH = re.compile(r"\d{7}")  # in a format

_spent = threading.local()


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Everything that a template of `compiled` does in the block counts together."""
    _spent.until, _spent.size = time.thread_time() + SECONDS, 0
    yield


def compiled(environment: Any, source: str) -> Any:
    """The template, in jinja's sandbox and under limits.

    Args:
      environment: a sandboxed one, which is changed.

    Raises:
      jinja2.TemplateError: it is none.
    """
    from jinja2 import nodes

    if "charged" not in environment.filters:
        _watch(environment)

    def charged(value: Any, line: int) -> Any:
        return nodes.Filter(value, "charged", [], [], None, None, lineno=line)

    tree = environment.parse(source)
    for block in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        text = "".join(data.data for data in nodes.Template(block.body).find_all(nodes.TemplateData))
        turn = nodes.ExprStmt(charged(nodes.Const(text), block.lineno), lineno=block.lineno)
        block.body.insert(0, turn)
    for joined in list(tree.find_all(nodes.Concat)):
        joined.nodes = [charged(one, joined.lineno) for one in joined.nodes]
    tree.set_environment(environment)
    with limited():  # constants are computed here
        return environment.from_string(tree)


def _watch(environment: Any) -> None:
    """Puts the checks into an environment."""
    from jinja2 import pass_context

    call = environment.call
    environment.intercepted_binops = frozenset(("*", "**", "+", "%"))
    environment.call_binop = _operator
    environment.finalize = _printed
    environment.call = functools.partial(_method, call)
    environment.filters = {name: _filter(name, one) for name, one in environment.filters.items()}
    environment.filters["charged"] = pass_context(lambda context, value: _printed(value))  # never at compile time


def _refuse(what: str) -> None:
    import jinja2

    raise jinja2.exceptions.SecurityError(what)


def _charge(size: int) -> None:
    """Adds what was made, and looks at the clock."""
    _spent.size += size
    if _spent.size > _MOST:
        _refuse(f"it makes more than {_MOST} characters")
    if time.thread_time() > _spent.until:
        _refuse(f"it takes more than {SECONDS:.0f} seconds")


def _size(value: Any) -> int:
    """Characters and items of a value, at most a few more than `_LARGEST`."""
    if isinstance(value, str | bytes):
        return len(value)
    total = 1
    if isinstance(value, dict | list | tuple):
        for one in value.items() if isinstance(value, dict) else value:
            total += _size(one)
            if total > _LARGEST:
                break
    return total


def _operator(context: Any, operator: str, left: Any, right: Any) -> Any:
    """A sum, a product, a power or a formatted text, refused where it would fill the memory."""
    numbers = [abs(x) for x in (left, right) if isinstance(x, int | float)]
    size = max((len(x) for x in (left, right) if hasattr(x, "__len__")), default=0)
    times = max(numbers, default=1)
    if len(numbers) == 2:
        size, times = (LONGEST_TEXT, times) if operator == "*" and max(numbers) > 1 << 1024 else (0, times)
    if (operator == "*" and size * times > LONGEST_TEXT) or (operator == "**" and times > 1024):
        _refuse(f"it makes more than {LONGEST_TEXT} characters")
    if operator == "%" and isinstance(left, str):
        _check_growth("format", left, right if isinstance(right, tuple) else (right,))
    made = {"+": lambda: left + right, "*": lambda: left * right, "**": lambda: left**right, "%": lambda: left % right}
    return _counted(made[operator]())


def _check_growth(name: str, value: Any, given: Iterable[Any]) -> None:
    """Refuses what a method or filter could make too large, by the sizes of all that it is made from."""
    given = [*given]
    widths = [abs(one) for one in given if isinstance(one, int)]
    if name.startswith("format") and _WIDTH.search(str(value)):
        widths.append(_LARGEST)
    if (1 + _size(value)) * (1 + max([*widths, *map(_size, given)], default=0)) > _LARGEST:
        _refuse(f"it makes more than {LONGEST_TEXT} characters")


def _counted(made: Any) -> Any:
    _charge(len(made) if isinstance(made, str | list | tuple) else 0)
    return made


def _printed(value: Any) -> Any:
    _charge(_size(value))
    return value


def _method(call: Callable[..., Any], context: Any, what: Any, *args: Any, **named: Any) -> Any:
    """`environment.call`: of the methods of a text only those grow that are named so."""
    method = getattr(what, "__wrapped__", what)  # the sandbox wraps format
    if isinstance(owner := getattr(method, "__self__", None), str) and method.__name__ in _GROWING:
        _check_growth(method.__name__, owner, [*args, *named.values()])
    return _counted(call(context, what, *args, **named))


def _filter(name: str, one: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts; the marks that jinja reads from it stay."""

    @functools.wraps(one)
    def counting(*args: Any, **named: Any) -> Any:
        if name in _GROWING:
            value, *given = args[1:] if hasattr(one, "jinja_pass_arg") else args
            _check_growth(name, value, [*given, *named.values()])
        return _counted(one(*args, **named))

    return counting
