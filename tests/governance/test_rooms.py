"""The rules are pure: what decides imports nothing that could read a clock, a file, a database or the network."""

import ast
import sys
from pathlib import Path

import nanoclaw_governance

RULES = {
    "approval", "draft", "edit", "explanation", "form", "override", "policy", "product", "relation", "requirement",
    "task", "transition",
}  # fmt: skip
IMPURE = {
    "asyncio",
    "datetime",
    "io",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "time",
    "uuid",
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= joined if node.module == "nanoclaw_governance" else {node.module}
    return found


def test_rules_import_the_core_and_each_other() -> None:
    """nanoclaw_core, the harmless part of the standard library, and other rules; nothing else."""
    folder = Path(nanoclaw_governance.__file__).parent
    for rule in RULES:
        for module in imports(folder / f"{rule}.py"):
            top, _, rest = module.partition(".")
            allowed = (
                top == "nanoclaw_core"
                or (top in sys.stdlib_module_names and top not in IMPURE)
                or (top == "nanoclaw_governance" and rest in RULES)
            )
            assert allowed, f"{rule} imports {module}"
