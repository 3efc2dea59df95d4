"""Refuse in protocol code what a simulation could not replay bit for bit.

    python tools/check_determinism.py [PATH ...]

Prints ``file:line: what - instead`` for every finding and exits 1 when there is one, 2 when there is nothing to check.
The rules: no clock but the event loop's, no randomness but the peer's, no threads, nothing of asyncio that hands out
sets, no ``hash()``, and no use of a set that depends on its order. Which values are sets is known from literals, calls,
annotations and assignments in the same file; a set that comes untyped from elsewhere is not seen.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

DEFAULT = Path(__file__).resolve().parent.parent / "src" / "coterie" / "protocols"

_SEEDED = "use peer.random, or a generator made from it"
_SAFE = "use peer.secrets"
_CLOCK = "use peer.clock or the event loop"
_THREADS = "threads have no virtual time; make the work a job of the learner"
_IN_ORDER = "await futures in the order of a list, or use peer.ask_all"
_SORT = "a set's order differs between processes; use sorted()"

MODULES: Mapping[str, str] = {
    "time": _CLOCK,
    "uuid": "name things by peer, round and number",
    "random": f"its generator is shared and unseeded; {_SEEDED}",
    "secrets": _SAFE,
    "threading": _THREADS,
    "_thread": _THREADS,
    "concurrent": _THREADS,
}
"""Modules that protocols do not import, and what to do instead."""
NAMES: Mapping[str, str] = {
    "asyncio.TaskGroup": f"it cancels in the order of a set; {_IN_ORDER}",
    "asyncio.wait": f"it returns sets; {_IN_ORDER}",
    "asyncio.as_completed": f"it keeps its futures in a set; {_IN_ORDER}",
    "asyncio.to_thread": _THREADS,
    "hash": "it is salted in every process; use hashlib",
    "os.urandom": _SAFE,
    "os.getrandom": _SAFE,
    "datetime.datetime.now": _CLOCK,
    "datetime.datetime.utcnow": _CLOCK,
    "datetime.datetime.today": _CLOCK,
    "datetime.date.today": _CLOCK,
}
"""Functions and classes that protocols do not use."""
_HOMES = {"asyncio.taskgroups": "asyncio", "asyncio.tasks": "asyncio", "asyncio.threads": "asyncio"}
_NUMPY_TYPES = ("Generator", "BitGenerator", "SeedSequence")
_TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal"}
_TORCH_DRAWS |= {"bernoulli", "multinomial", "poisson"}
_TORCH_DRAWS |= {"manual_seed", "seed", "initial_seed", "get_rng_state", "set_rng_state"}
_TENSOR_DRAWS = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_"}

_SETS = {"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet"}
_MAPS = {"dict", "Dict", "Mapping", "MutableMapping", "defaultdict", "DefaultDict", "OrderedDict"}
_ROWS = {"list", "List", "tuple", "Tuple", "Sequence", "Iterable", "Iterator", "Collection", "deque"}
_WRAPPERS = {"Optional", "Union", "Annotated", "Final", "ClassVar", "Required", "NotRequired"}
_SET_METHODS = {"union", "intersection", "difference", "symmetric_difference"}
_INTO_SETS = {*_SET_METHODS, "update", "intersection_update", "difference_update", "symmetric_difference_update"}
_INTO_SETS |= {"issubset", "issuperset", "isdisjoint"}
_ORDERLESS = {"sorted", "len", "min", "max", "any", "all", "set", "frozenset", "bool", "math.fsum"}
_ORDERED = {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "sum", "str", "repr", "dict"}
_ORDERED |= {"dict.fromkeys", "functools.reduce", "numpy.fromiter"}
_ORDERED |= {"collections.deque", "collections.Counter", "collections.OrderedDict"}
_ORDERED_METHODS = {"join", "extend", "extendleft", "writelines"}
_OPERATORS = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Finding(NamedTuple):
    """One forbidden use."""

    line: int
    what: str
    instead: str


@dataclass(frozen=True)
class Shape:
    """What is known of a value: that it is a set, a map to ``inner`` values, or a row of ``inner`` items."""

    kind: Literal["set", "map", "row"]
    inner: Shape | None = None


_SET = Shape("set")


@dataclass
class _Known:
    """What a first reading has learnt of a file."""

    imports: dict[str, str] = field(default_factory=dict)
    """Names that stand for imported things, by their full name."""
    attributes: dict[str, Shape] = field(default_factory=dict)
    returns: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, ast.expr] = field(default_factory=dict)
    """Type aliases."""
    scopes: dict[ast.AST, dict[str, Shape | None]] = field(default_factory=dict)
    """For each module, class, function and lambda the names it binds."""

    @property
    def size(self) -> int:
        """Grows with every reading that has learnt something."""
        shapes = sum(shape is not None for scope in self.scopes.values() for shape in scope.values())
        return len(self.imports) + len(self.attributes) + len(self.returns) + len(self.types) + shapes


class _Reader(ast.NodeVisitor):
    """Walks a file with the scopes of names at hand."""

    def __init__(self, known: _Known) -> None:
        self.known = known
        self.stack: list[dict[str, Shape | None]] = []

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | _Function | ast.Lambda):
            self.stack.append(self.known.scopes.setdefault(node, {}))
            super().visit(node)
            self.stack.pop()
        else:
            super().visit(node)

    def full_name(self, node: ast.expr) -> str:
        """The full name of an imported or built-in thing; empty for anything else."""
        match node:
            case ast.Name(id=name):
                if name in self.known.imports:
                    return self.known.imports[name]
                return "" if any(name in scope for scope in self.stack) else name
            case ast.Attribute(value=value, attr=name):
                return _canonical(f"{base}.{name}") if (base := self.full_name(value)) else ""
            case ast.Call(func=func, args=[module, ast.Constant(value=str(name)), *_]):
                if self.full_name(func) == "getattr" and (base := self.full_name(module)):
                    return _canonical(f"{base}.{name}")
        return ""

    def annotated(self, node: ast.expr | None, depth: int = 0) -> Shape | None:
        """The shape that an annotation promises."""
        if node is None or depth > 8:
            return None
        match node:
            case ast.Constant(value=str(text)):
                return self.annotated(_parsed(text), depth + 1)
            case ast.BinOp(op=ast.BitOr()):
                return self.annotated(node.left, depth + 1) or self.annotated(node.right, depth + 1)
            case ast.Name(id=name) if name in self.known.types:
                return self.annotated(self.known.types[name], depth + 1)
            case ast.Name() | ast.Attribute():
                return _SET if self._last_name(node) in _SETS else None
            case ast.Subscript(value=base, slice=index):
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                kind = self._last_name(base)
                if kind in _SETS:
                    return _SET
                inner = [self.annotated(part, depth + 1) for part in parts]
                if kind in _WRAPPERS:
                    return next(filter(None, inner), None)
                if kind in _MAPS and inner[-1]:
                    return Shape("map", inner[-1])
                if kind in _ROWS and (item := next(filter(None, inner), None)):
                    return Shape("row", item)
        return None

    def _last_name(self, node: ast.expr) -> str:
        return (self.full_name(node) or ast.unparse(node)).rpartition(".")[2]

    def shape(self, node: ast.expr) -> Shape | None:
        """What is known of an expression's value."""
        match node:
            case ast.Set() | ast.SetComp():
                return _SET
            case ast.Name(id=name):
                return next((scope[name] for scope in reversed(self.stack) if name in scope), None)
            case ast.Attribute(attr=name):
                return self.known.attributes.get(name)
            case ast.Call():
                return self._called(node)
            case ast.Subscript(value=value, slice=index):
                whole = self.shape(value)
                return whole if whole is None or isinstance(index, ast.Slice) else whole.inner
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
                shapes = (self.shape(left), self.shape(right))
                if _SET in shapes or _is_view(left) or _is_view(right):
                    return _SET
                return shapes[0] or shapes[1]
            case ast.IfExp(body=one, orelse=other):
                return self.shape(one) or self.shape(other)
            case ast.BoolOp(values=values):
                return next(filter(None, map(self.shape, values)), None)
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                return self.shape(value)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return _holding("row", next(filter(None, map(self.shape, items)), None))
            case ast.Dict(values=items):
                return _holding("map", next(filter(None, map(self.shape, items)), None))
            case ast.ListComp(elt=item) | ast.GeneratorExp(elt=item):
                return _holding("row", self.shape(item))
            case ast.DictComp(value=item):
                return _holding("map", self.shape(item))
        return None

    def _called(self, call: ast.Call) -> Shape | None:
        name = self.full_name(call.func)
        if name in ("set", "frozenset"):
            return _SET
        if name in ("list", "tuple", "sorted", "dict") and call.args:
            return self.shape(call.args[0]) if self.shape(call.args[0]) != _SET else None
        if name == "collections.defaultdict" and call.args:
            return Shape("map", _SET) if self.full_name(call.args[0]) in ("set", "frozenset") else None
        if isinstance(call.func, ast.Name):
            return self.known.returns.get(call.func.id)
        if not isinstance(call.func, ast.Attribute):
            return None
        method, owner = call.func.attr, self.shape(call.func.value)
        if method in _SET_METHODS:
            return _SET
        if owner is not None and method == "copy":
            return owner
        if owner is not None and owner.kind != "set" and method in ("get", "setdefault", "pop", "popleft"):
            return owner.inner
        if owner is not None and owner.kind == "map" and method in ("values", "items"):
            return Shape("row", owner.inner)
        return self.known.returns.get(method)


class _Collector(_Reader):
    """The first reading: imports, and what is known of names, attributes and results."""

    def bind(self, target: ast.expr, shape: Shape | None) -> None:
        match target:
            case ast.Name(id=name):
                self.stack[-1][name] = self.stack[-1].get(name) or shape
            case ast.Attribute(attr=name) if shape:
                self.known.attributes.setdefault(name, shape)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                for item in items:
                    self.bind(item, None)
            case ast.Starred(value=value):
                self.bind(value, None)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.partition(".")[0]
            self.known.imports[alias.asname or root] = alias.name if alias.asname else root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.known.imports[alias.asname or alias.name] = _origin(node, alias)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.stack[-2].setdefault(node.name, None)
        self.generic_visit(node)
        self.known.attributes.update({name: shape for name, shape in self.stack[-1].items() if shape})

    def visit_FunctionDef(self, node: _Function) -> None:
        self.stack[-2].setdefault(node.name, None)
        if shape := self.annotated(node.returns):
            decorators = {self._last_name(d) for d in node.decorator_list}
            is_property = bool(decorators & {"property", "cached_property"})
            (self.known.attributes if is_property else self.known.returns).setdefault(node.name, shape)
        self._bind_parameters(node.args)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._bind_parameters(node.args)
        self.generic_visit(node)

    def _bind_parameters(self, arguments: ast.arguments) -> None:
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self.stack[-1][argument.arg] = self.annotated(argument.annotation)
        if arguments.vararg:
            self.stack[-1][arguments.vararg.arg] = _holding("row", self.annotated(arguments.vararg.annotation))
        if arguments.kwarg:
            self.stack[-1][arguments.kwarg.arg] = _holding("map", self.annotated(arguments.kwarg.annotation))

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._name(target, node.value)
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for item, value in zip(target.elts, node.value.elts, strict=False):
                    self.bind(item, self.shape(value))
            else:
                self.bind(target, self.shape(node.value))
        self.generic_visit(node)

    def _name(self, target: ast.Name, value: ast.expr) -> None:
        """Also ``aio = asyncio``, and type aliases such as ``Ids = frozenset[str]``."""
        full = self.full_name(value)
        if full.partition(".")[0] in self.known.imports.values() and target.id not in self.known.imports:
            self.known.imports[target.id] = full
            return
        if isinstance(value, ast.Subscript | ast.BinOp) and len(self.stack) == 1 and self.annotated(value):
            self.known.types.setdefault(target.id, value)
        else:
            self.bind(target, self.shape(value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and self._last_name(node.annotation) == "TypeAlias":
            self.known.types[ast.unparse(node.target)] = node.value
        else:
            self.bind(node.target, self.annotated(node.annotation))
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.bind(node.target, self.shape(node.value))
        self.generic_visit(node)

    def visit_For(self, node: ast.For | ast.AsyncFor | ast.comprehension) -> None:
        whole = self.shape(node.iter)
        inner = whole.inner if whole is not None and whole.kind == "row" else None
        if isinstance(node.target, ast.Tuple) and inner is not None:  # key, value in a map's items(); number, item
            for item in node.target.elts[:-1]:
                self.bind(item, None)
            self.bind(node.target.elts[-1], inner)
        else:
            self.bind(node.target, inner)
        self.generic_visit(node)

    visit_AsyncFor = visit_comprehension = visit_For  # noqa: N815

    def visit_withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            self.bind(node.optional_vars, None)
        self.generic_visit(node)


class _Checker(_Reader):
    """The second reading: what is forbidden."""

    def __init__(self, known: _Known) -> None:
        super().__init__(known)
        self.findings: list[Finding] = []
        self._fine: set[ast.AST] = set()
        """Nodes that the node around them has answered for."""

    def _add(self, node: ast.AST, what: str, instead: str) -> None:
        self.findings.append(Finding(getattr(node, "lineno", 0), what, instead))

    def _is_set(self, node: ast.expr) -> bool:
        return self.shape(node) == _SET

    # Imports and names

    def visit_If(self, node: ast.If) -> None:
        if self.full_name(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._module(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        if self._module(node, node.module or ""):
            return
        for alias in node.names:
            if alias.name == "*":
                self._add(node, f"from {node.module} import *", "name what you import")
            elif not self._needs_call(full := _canonical(_origin(node, alias))):
                self._used(node, full)

    def _module(self, node: ast.AST, name: str) -> bool:
        instead = MODULES.get(name.partition(".")[0])
        if instead:
            self._add(node, f"import of {name}", instead)
        return bool(instead)

    @staticmethod
    def _needs_call(full: str) -> bool:
        """Whether it depends on the arguments of a call if this may be used."""
        package, _, name = full.rpartition(".")
        return (package == "torch" and name in _TORCH_DRAWS) or full == "numpy.random.default_rng"

    def _used(self, node: ast.AST, full: str) -> None:
        package, _, name = full.rpartition(".")
        if full in NAMES:
            self._add(node, full, NAMES[full])
        elif package == "numpy.random" and name not in _NUMPY_TYPES:
            self._add(node, full, f"numpy's own generator is shared; {_SEEDED}")
        elif self._needs_call(full) or package == "torch.random" or _is_cuda_seed(full):
            self._add(node, full, f"torch's own generator is shared; {_SEEDED}, with generator=")

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node not in self._fine:
            full = self.full_name(node)
            if node.id not in self.known.imports or self._needs_call(full):  # other imports: named where imported
                self._used(node, full)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node not in self._fine:
            self._used(node, self.full_name(node))
        if node.attr == "__hash__":
            self._add(node, "__hash__", NAMES["hash"])
        self.generic_visit(node)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        name = self.full_name(node.func)
        keywords = {keyword.arg for keyword in node.keywords}
        if self._needs_call(name) and ("generator" in keywords or (name.startswith("numpy") and _has_seed(node))):
            self._fine.add(node.func)
        if full := self.full_name(node):
            self._used(node, full)  # getattr(asyncio, "wait")
        if name in ("__import__", "importlib.import_module"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    self._module(node, argument.value)
        self._check_sets(node, name)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _TENSOR_DRAWS and "generator" not in keywords:
            self._add(node, f".{node.func.attr}()", f"torch's own generator is shared; {_SEEDED}, with generator=")
        self.generic_visit(node)

    def _check_sets(self, node: ast.Call, name: str) -> None:
        method, owner = (node.func.attr, node.func.value) if isinstance(node.func, ast.Attribute) else ("", None)
        into_set = method in _INTO_SETS and owner is not None and self._is_set(owner)
        if name in _ORDERLESS or into_set:
            partial = name in ("sorted", "min", "max") and _partial_key(node)
            for argument in node.args:
                if isinstance(argument, _Comprehension) and not partial:
                    self._fine.add(argument)
                elif partial and self._is_set(argument):
                    self._add(
                        node, f"{name}(key=...) over a set", "equal keys leave its order; make the key a tie-break"
                    )
        elif name in _ORDERED or name.startswith("itertools.") or method in _ORDERED_METHODS:
            if any(map(self._is_set, node.args)):
                self._add(node, f"{name or method}() of a set", _SORT)
        elif method == "pop" and not node.args and owner is not None and self._is_set(owner):
            self._add(node, "pop() of a set", _SORT)

    # Iteration

    def visit_For(self, node: ast.For) -> None:
        if self._is_set(node.iter):
            self._add(node, "a loop over a set", _SORT)
        self.generic_visit(node)

    def visit_ListComp(self, node: _Comprehension) -> None:
        if node not in self._fine:
            for part in node.generators:
                if self._is_set(part.iter):
                    self._add(part.iter, "a comprehension over a set", _SORT)
        self.generic_visit(node)

    visit_DictComp = visit_GeneratorExp = visit_ListComp  # noqa: N815

    def visit_Set(self, node: ast.Set) -> None:
        self._fine.update(item for item in node.elts if isinstance(item, ast.Starred))
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        if isinstance(node.ctx, ast.Load) and node not in self._fine and self._is_set(node.value):
            self._add(node, "* of a set", _SORT)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Tuple | ast.List) and len(target.elts) > 1 and self._is_set(node.value):
                self._add(node, "unpacking of a set", _SORT)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Add) and self._is_set(node.value):
            self._add(node, "+= of a set", _SORT)
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        if self._is_set(node.value):
            self._add(node, "yield from a set", _SORT)
        self.generic_visit(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        if self._is_set(node.value):
            self._add(node, "the text of a set", _SORT)
        self.generic_visit(node)


def _canonical(name: str) -> str:
    package, _, last = name.removeprefix("builtins.").rpartition(".")
    return f"{_HOMES.get(package, package)}.{last}" if package else last


def _origin(node: ast.ImportFrom, alias: ast.alias) -> str:
    return _canonical(f"{'.' * node.level}{node.module or ''}.{alias.name}")


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None


def _holding(kind: Literal["map", "row"], inner: Shape | None) -> Shape | None:
    return Shape(kind, inner) if inner else None


def _is_view(node: ast.expr) -> bool:
    """``d.keys()`` and ``d.items()``: with a set operator they give a set."""
    match node:
        case ast.Call(func=ast.Attribute(attr="keys" | "items"), args=[]):
            return True
    return False


def _is_cuda_seed(full: str) -> bool:
    return full.startswith("torch.cuda.") and "seed" in full


def _has_seed(call: ast.Call) -> bool:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(not (isinstance(value, ast.Constant) and value.value is None) for value in values)


def _partial_key(call: ast.Call) -> bool:
    """Whether two values may have the same key: unless a lambda gives back the value itself, alone or in a tuple."""
    key = next((keyword.value for keyword in call.keywords if keyword.arg == "key"), None)
    match key:
        case None:
            return False
        case ast.Lambda(args=ast.arguments(args=[ast.arg(arg=name)]), body=body):
            parts = body.elts if isinstance(body, ast.Tuple) else [body]
            return not any(isinstance(part, ast.Name) and part.id == name for part in parts)
    return True


def check_source(text: str) -> list[Finding]:
    """All findings in a module's source, by line. Raises SyntaxError."""
    tree, known, size = ast.parse(text), _Known(), -1
    while known.size != size:
        size = known.size
        _Collector(known).visit(tree)
    checker = _Checker(known)
    checker.visit(tree)
    return sorted(set(checker.findings))


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(arguments: Sequence[str]) -> int:
    """Check files and folders; the exit status."""
    files = list(_files([Path(argument) for argument in arguments] or [DEFAULT]))
    if not files:
        print("there are no Python files to check", file=sys.stderr)
        return 2
    status = 0
    for path in files:
        try:
            findings = check_source(path.read_text(encoding="utf-8"))
        except OSError as error:
            print(f"{path} cannot be read: {error.strerror}", file=sys.stderr)
            return 2
        except (SyntaxError, ValueError) as error:
            findings = [Finding(getattr(error, "lineno", None) or 0, f"not Python: {error}", "correct the file")]
        for finding in findings:
            print(f"{os.path.relpath(path)}:{finding.line}: {finding.what} - {finding.instead}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
