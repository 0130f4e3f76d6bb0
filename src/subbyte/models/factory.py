"""The user's own model: a function in a file or a package that builds it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from subbyte.errors import SubbyteError, unknown
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


FILE = ".py"


def load(config: ModelConfig) -> ModelSpec:
    """The module that the user's function returns, with the checkpoint's weights if one is given.

    Raises `SubbyteError` if there is no such file, package or function, if it fails (the error
    names the exception and the user's line), or if what it returns is no `nn.Module`.
    """
    from subbyte.models.checkpoint import load_checkpoint
    from subbyte.models.detectors import DETECTORS

    source, function = source_of(str(config.factory))
    arguments = dict(config.arguments)
    if config.num_classes is not None:
        arguments["num_classes"] = config.num_classes
    is_file = source.endswith(".py")
    with _importable(_folder(source)):
        code = _from_file(Path(source)) if is_file else _from_package(source)
        module = _call(_function(code, function, source), arguments, f"{source}:{function}")
    if config.checkpoint is not None:
        load_checkpoint(module, config.checkpoint, config.checkpoint_key)
    name = f"{Path(source).name if is_file else source}:{function}"
    task = "detection" if isinstance(module, DETECTORS) else "classification"
    return ModelSpec(name, module, task, preprocessing=None, classes=None)


def function_of(named: str) -> Callable[..., Any]:
    """The function that "my_file.py:name" or "package.module:name" names.

    Raises:
        SubbyteError: There is no such file, package or function, or it cannot be imported.
    """
    source, function = source_of(named)
    with _importable(_folder(source)):
        code = _from_file(Path(source)) if source.endswith(".py") else _from_package(source)
        return _function(code, function, source)


def source_of(factory: str) -> tuple[str, str]:
    """A factory's file or package, and its function.

    Raises:
        SubbyteError: `factory` names no function, or a file that does not exist.
    """
    if factory.removesuffix(":").endswith(FILE):
        raise names_no_function(factory.removesuffix(":"))
    source, _, function = factory.rpartition(":")
    if not source or not function.isidentifier():
        raise SubbyteError(
            f"factory '{factory}' names no function: write my_model.py:build "
            "or package.module:build"
        )
    if source.endswith(".py") and not Path(source).resolve().is_file():
        raise SubbyteError(f"factory file '{Path(source).resolve()}' does not exist")
    return source, function


def names_no_function(file: str) -> SubbyteError:
    """The error for a Python file without a function, with those that it has; it does not run."""
    path = Path(file).expanduser()
    if not path.is_file():
        return SubbyteError(
            f"factory file '{path.resolve()}' does not exist, and '{file}' names no function: "
            "write my_model.py:build"
        )
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        return SubbyteError(f"{file} is not valid Python: {' '.join(str(error).split())}")
    kinds = (ast.FunctionDef, ast.ClassDef)
    known = [node.name for node in body if isinstance(node, kinds) and node.name[0] != "_"]
    has = f"it has {', '.join(known)}" if known else "it has no function or class"
    return SubbyteError(
        f"model {file} is a file and names no function: write {file}:FUNCTION, as factory in an "
        f"experiment; {has}"
    )


def _folder(source: str) -> Path:
    """The folder from which a factory's code runs."""
    return Path(source).resolve().parent if source.endswith(".py") else Path.cwd()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """`folder` first on the import path, as if its code ran from there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    # A name of our own, so that a user's random.py does not take the place of another module.
    name = f"_subbyte_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SubbyteError(f"factory file '{path}' cannot be imported")
    code = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and pickle look a class's module up by name.
    sys.modules[name] = code
    try:
        spec.loader.exec_module(code)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(f"factory file '{path}' cannot be imported", error) from error
    return code


def _from_package(source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{source}.".startswith(f"{error.name}."):
            raise SubbyteError(
                f"factory module '{source}' does not exist (there is no {error.name}): "
                "install it, or give a file as my_model.py:build"
            ) from None
        raise _failed(f"factory module '{source}' cannot be imported", error) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"factory module '{source}' cannot be imported", error) from error


def _function(code: ModuleType, name: str, source: str) -> Callable[..., Any]:
    found = getattr(code, name, None)
    if callable(found):
        function: Callable[..., Any] = found
        return function
    if found is not None:
        raise SubbyteError(f"'{name}' in '{source}' is a {type(found).__name__}, not a function")
    known = [key for key, value in vars(code).items() if callable(value) and key[0] != "_"]
    raise unknown(f"function of '{source}'", name, known)


def _call(function: Callable[..., Any], arguments: dict[str, Any], factory: str) -> nn.Module:
    from torch import nn

    try:
        module = function(**arguments)
    except (Exception, SystemExit) as error:
        raise _failed(f"factory '{factory}' failed", error) from error
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise SubbyteError(f"factory '{factory}' returned a {kind}, not a torch.nn.Module")
    return module


def _failed(what: str, error: BaseException) -> SubbyteError:
    message = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return SubbyteError(f"{what}{_place(error)}: {reason}")


def _place(error: BaseException) -> str:
    """Where in the user's code `error` arose: the innermost line that is not a library's."""
    if isinstance(error, SyntaxError):
        return f" at line {error.lineno} of {Path(error.filename or '?').name}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if _is_users(frame.filename)]
    return f" at line {users[-1].lineno} of {Path(users[-1].filename).name}" if users else ""


def _is_users(filename: str) -> bool:
    libraries = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]), "<")
    return "site-packages" not in filename and not filename.startswith(libraries)
