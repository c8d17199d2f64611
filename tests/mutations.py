"""Bugs for tests/mutants.py: what can be changed in a source, and a sample of it."""

import ast
import difflib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Name, Number


class ScaleNumber(Operator):
    """1e-4 -> twice and half of it."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if isinstance(node, Number) and any(c in node.value for c in ".e") and float(node.value):
            yield from [(node.start_pos, node.end_pos)] * 2

    def mutate(self, node: Any, index: int) -> Any:
        return Number(repr(float(node.value) * (2.0, 0.5)[index]), node.start_pos, node.prefix)

    @classmethod
    def examples(cls) -> Any:
        return ()


class SwapArguments(Operator):
    """f(a, b) -> f(b, a)."""

    SYMMETRIC = frozenset(("max", "maximum", "min", "minimum", "transpose"))

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "trailer" and len(node.children) == 3 and node.children[1].type == "arglist":
            first, second = [*node.children[1].children[::2], None][:2]
            plain = second is not None and "argument" not in (first.type, second.type)
            name = node.get_previous_leaf().value
            if plain and name not in self.SYMMETRIC and first.get_code().strip() != second.get_code().strip():
                yield (first.start_pos, second.end_pos)

    def mutate(self, node: Any, index: int) -> Any:
        arguments = node.children[1].children
        arguments[0], arguments[2] = arguments[2], arguments[0]
        return node

    @classmethod
    def examples(cls) -> Any:
        return ()


class DropCall(Operator):
    """x.detach() -> x, also of clamp and the like."""

    METHODS = frozenset(
        (
            "abs", "clamp", "clamp_max", "clamp_min", "clip", "clone", "contiguous", "copy", "cumsum",
            "detach", "exp", "flatten", "flip", "log", "lower", "max", "min", "neg", "relu", "round",
            "sigmoid", "softmax", "sort", "sqrt", "square", "strip", "sum", "unique", "zero_",
        )
    )  # fmt: skip

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type in ("atom_expr", "power") and len(node.children) >= 3:
            *_, attribute, call = node.children
            if (
                call.type == "trailer" == attribute.type
                and call.children[0].value == "("
                and attribute.children[0].value == "."
                and attribute.children[1].value in self.METHODS
            ):
                yield (attribute.start_pos, call.end_pos)

    def mutate(self, node: Any, index: int) -> Any:
        del node.children[-2:]
        return node

    @classmethod
    def examples(cls) -> Any:
        return ()


class DropStatement(Operator):
    """A call or an augmented assignment that stands alone -> pass."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type != "simple_stmt" or len(node.children) != 2:
            return
        statement = node.children[0]
        call = statement.type == "atom_expr" and statement.children[-1].get_code().startswith("(")
        augmented = statement.type == "expr_stmt" and statement.children[1].get_code().strip() not in (
            "=",
            "",
        )
        if call or (augmented and statement.children[1].type == "operator"):
            yield (statement.start_pos, statement.end_pos)

    def mutate(self, node: Any, index: int) -> Any:
        statement = node.children[0]
        node.children[0] = Name("pass", statement.start_pos, statement.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> Any:
        return ()


def operators() -> Iterator[Operator]:
    """Ours and cosmic-ray's, without those that only break things loudly."""
    provider = OperatorProvider()
    for name in provider:
        if not any(word in name for word in ("Variable", "RemoveDecorator", "ExceptionReplacer", "NoOp")):
            yield provider[name]()
    yield from (ScaleNumber(), SwapArguments(), DropCall(), DropStatement())


@dataclass
class Mutant:
    """A file with one bug.

    Attributes:
        path: relative to the repository. line: of the bug. code: the whole changed file.
        outcome: "" before it was tried, then failed, timeout, survived or unreached.
    """

    path: str
    line: int
    operator: str
    code: str
    outcome: str = ""
    seconds: float = 0.0

    def diff(self, source: str) -> str:
        """The change as a person reads it."""
        lines = difflib.unified_diff(source.splitlines(), self.code.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in list(lines)[3:])


def skipped_lines(source: str) -> Callable[[int, int], bool]:
    """Whether a position (line, column) is a type, an import or a decorator, where a bug has no meaning."""
    spans: list[tuple[tuple[int, int], tuple[int, int]]] = []

    def add(node: ast.AST | None) -> None:
        if node is not None:
            spans.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))  # type: ignore[attr-defined]

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            add(node.returns)
            for decorator in node.decorator_list:
                add(decorator)
        elif isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                add(decorator)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            add(node.annotation)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            add(node)
        elif isinstance(node, ast.Raise):
            add(node)  # wording of messages
    return lambda line, column: any(a <= (line, column) < b for a, b in spans)


def bugs(path: str, source: str) -> dict[tuple[int, int], list[tuple[Operator, int]]]:
    """Everything that can be changed in a file: position -> operators and their occurrence."""
    skipped = skipped_lines(source)
    found: dict[tuple[int, int], list[tuple[Operator, int]]] = defaultdict(list)
    counts: Counter[int] = Counter()
    known = list(operators())
    for node in ast_nodes(get_ast(source)):
        for number, operator in enumerate(known):
            for start, _ in operator.mutation_positions(node):
                if not skipped(*start):
                    found[start].append((operator, counts[number]))
                counts[number] += 1
    return found


def sample(sources: dict[str, str], count: int, seed: int) -> list[Mutant]:
    """Mutants at places drawn evenly from all files; at each place an operator drawn evenly."""
    rng = random.Random(seed)
    places = [
        (path, start, choices)
        for path, source in sorted(sources.items())
        for start, choices in sorted(bugs(path, source).items(), key=lambda item: item[0])
    ]
    rng.shuffle(places)
    chosen: list[Mutant] = []
    for path, (line, _), choices in places:
        if len(chosen) == count:
            break
        operator, occurrence = rng.choice(choices)
        code = mutate_code(sources[path], operator, occurrence)
        with suppress(SyntaxError, TypeError):
            if code is not None and ast.dump(ast.parse(code)) != ast.dump(ast.parse(sources[path])):
                chosen.append(Mutant(path, line, type(operator).__name__, code))
    return chosen
