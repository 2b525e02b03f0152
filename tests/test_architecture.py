"""The rules of the house: who may know whom, and how big a thing may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import file_service

PACKAGE = Path(file_service.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LONGEST_FUNCTION = 50
LONGEST_FILE = 450

# What a room must not import, by the beginning of the name.
FORBIDDEN = {
    "web": ["file_service.blobs", "file_service.catalogue", "file_service.config", "sqlalchemy"],
    "core": ["file_service.blobs.local", "file_service.web", "file_service.config", "aiohttp"],
    "blobs": ["file_service.catalogue", "file_service.core", "file_service.web", "aiohttp"],
    "catalogue": ["file_service.blobs", "file_service.core", "file_service.web", "aiohttp"],
}
ROOMS = list(FORBIDDEN)

# A library that belongs to some rooms alone.
AT_HOME = {
    "sqlalchemy": ["catalogue/"],
    "alembic": ["catalogue/schema.py"],
    "asyncpg": ["catalogue/"],
    "aiofile": ["blobs/local.py"],
    "caio": ["blobs/local.py"],
    "aiohttp": ["web/", "app.py", "server.py"],
    "aiologger": ["logs.py"],
    "pydantic": ["config.py"],
    "pydantic_settings": ["config.py"],
}

# Everybody may know these, so they must know nobody.
FOUNDATIONS = ["models.py", "errors.py", "tasks.py", "metrics.py"]


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imports(module: Path) -> Iterator[str]:
    """Every name that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(module)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_whom_it_may(room: str) -> None:
    broken = [
        (name_of(module), name)
        for module in (PACKAGE / room).rglob("*.py")
        for name in imports(module)
        if any(is_within(name, prefix) for prefix in FORBIDDEN[room])
    ]
    assert broken == []


@pytest.mark.parametrize("library", AT_HOME)
def test_a_library_is_used_only_where_it_is_at_home(library: str) -> None:
    users = {
        name_of(module)
        for module in MODULES
        for name in imports(module)
        if is_within(name, library)
    }
    assert users, f"nobody uses {library}"
    assert [user for user in users if not user.startswith(tuple(AT_HOME[library]))] == []


@pytest.mark.parametrize("module", FOUNDATIONS)
def test_the_foundations_know_nobody(module: str) -> None:
    ours = [name for name in imports(PACKAGE / module) if is_within(name, "file_service")]
    assert ours == []


def test_only_the_composition_root_knows_the_local_store() -> None:
    knowing = [
        name_of(module)
        for module in MODULES
        if any(is_within(name, "file_service.blobs.local") for name in imports(module))
    ]
    assert knowing == ["app.py"]


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        name_of(module)
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert readers == {"config.py"}


def test_no_assert_stands_for_a_check() -> None:
    """`python -O` takes asserts out; a rule must not go with them."""
    asserting = [
        name_of(module)
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert asserting == []


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_says_its_job_in_one_sentence(module: Path) -> None:
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    assert docstring is not None
    assert docstring.splitlines()[0].endswith(".")


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_files_and_functions_stay_small(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= LONGEST_FILE
    long = [
        function.name
        for function in functions(module)
        if (function.end_lineno or 0) - function.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []
