"""From a YAML file and `--set` overrides to a checked Recipe, and back to YAML.

YAML 1.2 (ruamel.yaml): `5e-5` is a number, the same key twice is an error. Every problem is
reported at once, each on a line of its own with the file and line, or the override, that it comes
from.
"""

from __future__ import annotations

import difflib
import io
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from ixt.errors import RecipeError
from ixt.files import reason
from ixt.recipe.plain_yaml import read_plain
from ixt.recipe.schema import CONTRADICTION, Recipe

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")  # in a wheel, in a checkout

RUN_RECIPE = "recipe.yaml"
"""Name of the resolved recipe in a run's folder."""

Origins = dict[str, str]

_MEANT = {"batch_size": ["engine.global_batch_size"]}  # rather than eval.batch_size


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by the bare name of a shipped one.

    Raises:
        RecipeError: neither a file nor a shipped recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{name}: is a folder; give a YAML file")
    shipped = {file.stem: file for folder in _FOLDERS for file in sorted(folder.glob("*.yaml"))}
    stem = path.name.removesuffix(".yaml")
    if stem in shipped and path.parent in (Path(), Path("recipes")):
        return shipped[stem]
    near = difflib.get_close_matches(stem, shipped, n=3, cutoff=0.5) or sorted(shipped)
    raise RecipeError(f"{name}: no such recipe; similar names: {', '.join(near)}")


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply overrides, check everything.

    Args:
        path: the YAML file.
        overrides: `section.key=value` texts; the value is read as YAML.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or does not fit the schema; one line
            for each problem.
    """
    return trace_recipe(path, overrides)[0]


def trace_recipe(path: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, Origins]:
    """A recipe as `load_recipe` gives it, and where each key of it was written.

    Returns:
        The recipe, and dotted key to `file:line` or `--set ...`; a key that is not there has its
        default.

    Raises:
        RecipeError: as `load_recipe`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text; give a YAML file") from None
    except OSError as error:
        raise RecipeError(f"{path}: is not readable ({reason(error)})") from error
    data, origins = _read_yaml(text, str(path))
    for override in overrides:
        _apply_override(data, origins, override)
    return parse_recipe(data, str(path), origins), origins


def override_recipe(recipe: Recipe, overrides: Iterable[str], source: str) -> Recipe:
    """A recipe with overrides, checked again.

    Args:
        recipe: stays as it is.
        overrides: `section.key=value` texts; the value is read as YAML.
        source: name of the recipe for messages.

    Raises:
        RecipeError: as `load_recipe`.
    """
    data: dict[str, Any] = recipe.model_dump(mode="json")
    origins: Origins = {}
    for override in overrides:
        _apply_override(data, origins, override)
    return parse_recipe(data, source, origins)


def parse_recipe(
    data: Mapping[str, Any], source: str = "recipe", origins: Origins | None = None
) -> Recipe:
    """Check plain data against the schema.

    Args:
        data: nested mapping of sections.
        source: name for messages where `origins` has no place.
        origins: dotted key to the place it was written.

    Raises:
        RecipeError: one line for each problem.
    """
    recipe = _validated(data, source, origins or {})
    for number, epochs in enumerate(recipe.curriculum.bounds()):
        place = _place(("curriculum", "phases", str(number)), source, origins or {})
        for epoch in epochs:
            _check_epoch(data, recipe.curriculum.values(epoch), f"{place}: in epoch {epoch}")
    return recipe


def _check_epoch(data: Mapping[str, Any], values: Mapping[str, Any], place: str) -> None:
    """Check the recipe of an epoch of a curriculum as if it were a recipe of its own."""
    sections = {name: dict(section) for name, section in data.items() if name != "curriculum"}
    sections.get("schedule", {}).pop("follows", None)  # a way through the whole curriculum
    for key, value in values.items():
        name, _, setting = key.partition(".")
        sections.setdefault(name, {})[setting] = value
    _validated(sections, place, {})


def _validated(data: Mapping[str, Any], source: str, origins: Origins) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        found: dict[tuple[str, ...], list[Any]] = {}
        for item in error.errors():  # several about one value that may have several types
            found.setdefault(_written(item, data), []).append(item)
        lines = [
            f"{_place(parts, source, origins)}: {line}"
            for parts, items in found.items()
            for line in _problems(parts, items)
        ]
        raise RecipeError(*lines) from None


def refuse_null_arguments(recipe: Recipe, origins: Origins | None = None) -> None:
    """Refuse arguments of the model that would have no effect: timm drops those that are null.

    Args:
        recipe: as the user gave it.
        origins: dotted key to the place it was written.

    Raises:
        RecipeError: one line for each argument.
    """
    keys = [f"model.kwargs.{name}" for name, value in recipe.model.kwargs.items() if value is None]
    if keys:
        raise RecipeError(
            *(
                f"{_place(tuple(key.split('.')), 'recipe', origins or {})}: {key}: is null, which "
                "timm ignores; give a value, or leave the argument out"
                for key in keys
            )
        )


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; loading it gives an equal recipe."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(recipe.model_dump(mode="json"), stream)
    return stream.getvalue()


def _read_yaml(text: str, source: str) -> tuple[dict[str, Any], Origins]:
    """The plain data of a YAML text, and the line of each key."""
    data = read_plain(text, source)
    marked = YAML(typ="rt").load(text)
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: contains no sections; a recipe starts with `model:`")
    origins: Origins = {}
    _note_lines(marked, source, (), origins)
    return data, origins


def _note_lines(
    node: CommentedMap | CommentedSeq, source: str, path: tuple[str, ...], origins: Origins
) -> None:
    items = node.items() if isinstance(node, CommentedMap) else enumerate(node)
    for key, value in items:
        here = (*path, str(key))
        line, _ = node.lc.key(key) if isinstance(node, CommentedMap) else node.lc.item(key)
        origins[".".join(here)] = f"{source}:{line + 1}"
        if isinstance(value, CommentedMap | CommentedSeq):
            _note_lines(value, source, here, origins)


def _apply_override(data: dict[str, Any], origins: Origins, override: str) -> None:
    """Set one dotted key in place."""
    key, equals, text = override.partition("=")
    name = f"--set {override if len(override) <= 120 else override[:117] + '...'}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{name}: write it as section.key=value, e.g. optim.lr=1e-3")
    value = read_plain(text, name, lines=False)
    section = data
    for part in parts[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise RecipeError(f"{name}: {part} is a value, not a section")
    section[parts[-1]] = value
    for replaced in [other for other in origins if other.startswith(f"{key.strip()}.")]:
        del origins[replaced]
    origins[".".join(parts)] = name


def _written(item: Any, data: Any) -> tuple[str, ...]:
    """The key of a pydantic error as it is written in the data, without the names of types."""
    parts: list[str] = []
    absent = item["type"] in ("missing", CONTRADICTION)
    for part in item["loc"]:
        places = range(len(data)) if isinstance(data, list) else data
        inside = isinstance(places, Mapping | range) and part in places
        if not inside and not absent and parts:
            break
        data = data[part] if inside else None
        parts.append(str(part))
    return tuple(parts)


def _place(parts: tuple[str, ...], source: str, origins: Origins) -> str:
    """Where a key, or the nearest one above it, was written."""
    keys = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((origins[key] for key in keys if key in origins), source)


def _problems(parts: tuple[str, ...], items: list[Any]) -> Iterator[str]:
    """A line for each problem of a value: key, what was found, what is allowed."""
    key = ".".join(parts)
    expected = []
    for item in items:
        text = _sentence(parts, item)
        if text is not None:
            yield f"{key}: {text}" if key else text
        else:
            expected.append(item["msg"][0].lower() + item["msg"][1:])
    if expected:
        advice = _advice(items[0]["input"], " ".join(expected))
        yield f"{key}: is {_shown(items[0]['input'])}; {', or '.join(expected)}{advice}"


def _sentence(parts: tuple[str, ...], item: Any) -> str | None:
    """What an error says that is not about a value's type or size."""
    kind = item["type"]
    if kind == "extra_forbidden":
        return "unknown key" + _suggestion(list(parts))
    if kind == "missing":
        return "missing; add it"
    if kind in ("model_type", "model_attributes_type"):
        return "must be a section; write its keys below it, indented"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    return str(item["msg"]) if kind == CONTRADICTION else None


def _advice(value: Any, expected: str) -> str:
    """How to write a number that was written as something else."""
    if isinstance(value, str) and ("integer" in expected or "number" in expected):
        try:
            float(value)
        except ValueError:
            return ""
        return ": write it without quotes"
    if isinstance(value, float) and value.is_integer() and "integer" in expected:
        return f": write {int(value)}" if abs(value) < 2**63 else ""
    return ""


def _shown(value: Any) -> str:
    """A value in a message, short."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlist = short.maxtuple = short.maxdict = 10
    return short.repr(value)


def _suggestion(parts: list[str]) -> str:
    """The key that was probably meant.

    The one that other programs call so, else one of the same name in another section, else a near
    one of the same section, else of any.
    """
    known = _dotted_keys(Recipe)
    key, section = ".".join(parts), ".".join(parts[:-1])
    siblings = [k for k in known if k.rpartition(".")[0] == section]
    found = (
        _MEANT.get(parts[-1])
        or [k for k in known if k.rpartition(".")[2] == parts[-1]]
        or difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
        or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    )
    return f"; did you mean {found[0]}?" if found else ""


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _dotted_keys(field.annotation, f"{prefix}{name}.")
    return keys
