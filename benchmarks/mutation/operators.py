"""Mutants of a source file: which small changes it can get, as replacements of text.

Left alone are what no behaviour depends on or what a type checker holds: annotations, docstrings,
decorators, messages (f-strings, logging, `raise`), assertions, imports, and `strict=` of `zip`.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_BOUNDARIES: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_OTHER_OPERATOR: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.MatMult: ast.Mult,
}
LONGEST_LABEL: Final = 70
_SILENT_OWNERS: Final = frozenset({"logger", "console", "progress"})
_NO_MUTANTS: Final = (
    ast.JoinedStr,
    ast.Raise,
    ast.Assert,
    ast.Import,
    ast.ImportFrom,
)


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: path from the root, with slashes.
        scope: dotted names of the classes and functions around it; empty at module level.
        line: line number, from 1.
        operator: kind of the change.
        label: the change in short.
        before: source text that is replaced.
        after: what replaces it.
        start: offset of `before` in the file, in characters.
        at_import: whether the module's import executes it, rather than a call.
        end_line: last line of `before`.
        number: how many equal changes come before it in the same scope.
    """

    file: str
    scope: str
    line: int
    operator: str
    label: str
    before: str
    after: str
    start: int
    at_import: bool
    end_line: int
    number: int = 0

    @property
    def key(self) -> str:
        """Name of the mutant that edits elsewhere in the file leave as it is."""
        return f"{self.file} {self.scope or '<module>'}: {self.label} #{self.number}"

    def applied(self, source: str) -> str:
        """Return the file's text with the change."""
        end = self.start + len(self.before)
        assert source[self.start : end] == self.before
        return source[: self.start] + self.after + source[end:]


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a file, in the order of their place.

    Args:
        file: its path from the root.
        source: its text.
    """
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    counts: Counter[tuple[str, str]] = Counter()
    numbered = []
    for found in sorted(finder.found, key=lambda m: (m.start, m.operator, m.after)):
        name = (found.scope, found.label)
        fields = {**found.__dict__, "number": counts[name]}
        numbered.append(Mutant(**fields))
        counts[name] += 1
    return numbered


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a syntax tree."""

    def __init__(self, file: str, source: str) -> None:
        self.found: list[Mutant] = []
        self._file, self._source = file, source
        self._scope: list[str] = []
        self._functions = 0
        """Functions around the present place."""
        lines = source.splitlines(keepends=True)
        self._line_starts = [0]
        for line in lines:
            self._line_starts.append(self._line_starts[-1] + len(line))
        self._lines = lines

    def _offset(self, line: int, column: int) -> int:
        """Return a character offset; columns of the syntax tree count bytes."""
        text = self._lines[line - 1].encode()[:column].decode()
        return self._line_starts[line - 1] + len(text)

    def _add(self, node: ast.AST, operator: str, after: str, label: str = "") -> None:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        start, end = self._span(node)
        before = self._source[start:end]
        if before != after:
            scope = ".".join(self._scope)
            self.found.append(
                Mutant(
                    file=self._file,
                    scope=scope,
                    line=node.lineno,
                    operator=operator,
                    label=label or f"{_short(before)} => {_short(after)}",
                    before=before,
                    after=after,
                    start=start,
                    at_import=self._functions == 0,
                    end_line=node.end_lineno,
                )
            )

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._offset(node.lineno, node.col_offset)
        return start, self._offset(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self._source[start:end]

    # -- what is entered ------------------------------------------------------------------------

    def generic_visit(self, node: ast.AST) -> None:
        """Visit the children, without those that get no mutants."""
        for child in _children(node):
            if not isinstance(child, _NO_MUTANTS) and not _is_silent(child):
                self.visit(child)

    def _visit_scope(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        is_function = not isinstance(node, ast.ClassDef)
        self._scope.append(node.name)
        for default in _defaults(node):
            self.visit(default)
        self._functions += is_function
        for child in node.body:
            if not isinstance(child, _NO_MUTANTS) and not _is_silent(child):
                self.visit(child)
        self._functions -= is_function
        self._scope.pop()

    visit_FunctionDef = _visit_scope
    visit_ClassDef = _visit_scope

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Enter the value, not the annotation."""
        if node.value is not None:
            self.visit(node.value)

    # -- expressions ----------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        """Move the boundary of a comparison, or turn it around."""
        if len(node.ops) == 1:
            left, right = self._text(node.left), self._text(node.comparators[0])
            self._add(node, "comparison", f"{left} {_BOUNDARIES[type(node.ops[0])]} {right}")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Exchange + and -, * and /, and so on."""
        other = _OTHER_OPERATOR.get(type(node.op))
        if other is not None and not _is_text(node.left) and not _is_text(node.right):
            self._add(
                node, "arithmetic", f"({ast.unparse(ast.BinOp(node.left, other(), node.right))})"
            )
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Leave out a sign or a `not`."""
        if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            self._add(node, "unary", f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Exchange `and` and `or`."""
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add(node, "boolean", f"({ast.unparse(ast.BoolOp(other, node.values))})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number or a truth value."""
        if isinstance(node.value, bool):
            self._add(node, "constant", str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, "constant", str(node.value + 1))
        elif isinstance(node.value, float):
            self._add(node, "constant", repr(2.0 * node.value if node.value else 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        """Swap the first two arguments, swap two keywords' values, leave a keyword out."""
        plain = [a for a in node.args if not isinstance(a, ast.Starred)]
        if len(plain) == len(node.args) >= 2 and not _is_text(plain[0]):
            swapped_args = [plain[1], plain[0], *plain[2:]]
            self._call(node, "arguments", "first two swapped", swapped_args, node.keywords)
        named = [k for k in node.keywords if k.arg is not None]
        if len(named) == len(node.keywords) >= 2:
            first, second = named[0], named[1]
            swapped = [ast.keyword(first.arg, second.value), ast.keyword(second.arg, first.value)]
            label = f"{first.arg} and {second.arg} swapped"
            self._call(node, "keywords", label, node.args, [*swapped, *named[2:]])
        for keyword in named:
            if keyword.arg not in ("strict", "description"):
                others = [k for k in node.keywords if k is not keyword]
                self._call(node, "keyword left out", f"without {keyword.arg}", node.args, others)
        self.generic_visit(node)

    def _call(
        self,
        node: ast.Call,
        operator: str,
        change: str,
        args: list[ast.expr],
        keywords: list[ast.keyword],
    ) -> None:
        after = ast.unparse(ast.Call(node.func, args, keywords))
        self._add(node, operator, after, f"{_short(self._text(node))} {change}")

    def visit_keyword(self, node: ast.keyword) -> None:
        """Enter the value, except of `strict=` and of descriptions."""
        if node.arg not in ("strict", "description"):
            self.visit(node.value)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Negate the condition."""
        self._negate(node.test)
        self.generic_visit(node)

    # -- statements -----------------------------------------------------------------------------

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp):  # these have mutants of their own
            self._add(test, "condition", f"(not ({self._text(test)}))")

    def visit_If(self, node: ast.If) -> None:
        """Negate the condition."""
        if "TYPE_CHECKING" not in self._text(node.test):
            self._negate(node.test)
            self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Negate the conditions."""
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call."""
        if isinstance(node.value, ast.Call):
            self._add(node, "statement dropped", "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Drop an assignment to an attribute or an element."""
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add(node, "statement dropped", "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Drop it, or turn its operator around."""
        self._add(node, "statement dropped", "pass")
        other = _OTHER_OPERATOR.get(type(node.op))
        if other is not None:
            changed = ast.AugAssign(node.target, other(), node.value)
            self._add(node, "arithmetic", ast.unparse(changed))
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        """Return nothing in place of what was computed."""
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._add(node, "return value", "return None")
        self.generic_visit(node)


def _defaults(node: ast.FunctionDef | ast.ClassDef) -> list[ast.expr]:
    if isinstance(node, ast.ClassDef):
        return []
    return [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "decorator_list", "returns", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child


def _is_silent(node: ast.AST) -> bool:
    """Whether a statement only writes to a log or to the screen."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    owner = call.func.value
    return isinstance(owner, ast.Name) and owner.id in _SILENT_OWNERS


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST_LABEL else f"{words[: LONGEST_LABEL - 4]} ..."


def _is_text(node: ast.expr) -> bool:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text or isinstance(node, ast.JoinedStr)
