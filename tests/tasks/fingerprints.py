"""A fingerprint of the code behind each step: the syntax trees of its module and of the project modules it uses, and
the files beside them that are written into what they make.

    python -m tests.tasks.fingerprints --acknowledge    records the code as it is now

Comments, docstrings and layout do not count. The recorded file is read by test_fingerprints.py.
"""

import ast
import hashlib
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tasks.caching import Step

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("step_fingerprints.json")
PACKAGES = ("tasks", "sae_core", "storage")
WRITTEN_OUT = ("templates", "assets")
"""Folders of a package whose files end up in artifacts."""


def all_steps() -> dict[str, Step[...]]:
    """Every step that a module of `tasks` declares, by `module.name`."""
    steps: dict[str, Step[...]] = {}
    import tasks

    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Step):
                steps[f"{value.make.__module__}.{value.make.__name__}"] = value
    return dict(sorted(steps.items()))


def fingerprint(step: Step[...]) -> str:
    digest = hashlib.sha256()
    modules = modules_behind(step.make.__module__)
    for file in sorted(modules):
        digest.update(f"{file}\n{tree(file)}\n".encode())
    for file in sorted(written_out(modules)):
        digest.update(f"{file}\n{hashlib.sha256((ROOT / file).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def written_out(modules: Iterable[str]) -> set[str]:
    """The templates and assets of the packages that these modules are of, relative to the root."""
    folders = {ROOT / Path(module).parent / name for module in modules for name in WRITTEN_OUT}
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    return {file.relative_to(ROOT).as_posix() for file in files}


def modules_behind(module: str) -> set[str]:
    """The module's file and, transitively, the files of the project modules that it imports, relative to the root."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        file = file_of(waiting.pop())
        if file is None or file in found:
            continue
        found.add(file)
        waiting += imported_by(file)
        # Importing a module runs its package first, which may register what the module looks up by name.
        waiting.append(module_of(file).rpartition(".")[0])
    return found


@cache
def imported_by(file: str) -> list[str]:
    """What may be modules among the names that a file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def file_of(module: str) -> str | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate.as_posix()
    return None


@cache
def tree(file: str) -> str:
    """The syntax tree without docstrings and positions."""
    parsed = ast.parse((ROOT / file).read_text())
    for node in ast.walk(parsed):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # pyright: ignore[reportAttributeAccessIssue]
                child for child in body if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
            ]
    return dump(parsed)


def dump(node: object) -> str:
    """`ast.dump` without empty fields, of which every version of Python has other ones."""
    if isinstance(node, ast.AST):
        fields = ", ".join(f"{name}={dump(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({fields})"
    if isinstance(node, list):
        return f"[{', '.join(map(dump, node))}]"
    return repr(node)


def current() -> dict[str, dict[str, str]]:
    return {
        name: {"code_version": step.code_version, "fingerprint": fingerprint(step)}
        for name, step in all_steps().items()
    }


if __name__ == "__main__":
    if sys.argv[1:] != ["--acknowledge"]:
        sys.exit(__doc__)
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
    print(f"recorded {len(current())} steps in {RECORD.relative_to(ROOT)}")
