"""Flow parameters against their annotations.

A value that already is what its annotation says passes as it is, so most flows never load pydantic, which
costs more than the rest of the library. Any other value is given to pydantic, each parameter by itself: the
values that fit keep their identity, and one annotation that pydantic cannot use does not spoil the others.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import partial
from types import GenericAlias, NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any

from penstock._core.binding import Binder
from penstock.exceptions import ParameterTypeError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.json_schema import GenerateJsonSchema

_EMPTY = inspect.Parameter.empty
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD

# Where a subclass is something else: True is no int here, and pydantic would make a plain str of a str enum.
_EXACT = (int, float, str, bytes, bool)


class _Unresolved:
    """Stands for an annotation that names something out of reach. No value is an instance of it."""


class ParameterChecker:
    """The annotated parameters of one function. Annotations are resolved when they are first needed.

    Threads may share it: what they work out twice is the same.
    """

    __slots__ = ("_annotations", "_fn", "_models", "_parameters")

    def __init__(self, fn: Callable[..., Any], binder: Binder) -> None:
        self._fn = fn
        self._parameters = binder.signature.parameters
        self._annotations: dict[str, Any] = {}
        self._models: dict[str, type[BaseModel] | None] = {}

    def validate(self, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The parameters, coerced where needed, and the names of those that could not be checked.

        `parameters` are complete, as `Binder.bind` made them. Raises `ParameterTypeError` listing everything
        that does not fit. What a validator of the user's raises other than pydantic's errors is passed on.
        """
        checked = dict(parameters)
        unchecked: list[str] = []
        problems: list[str] = []
        for name, value in parameters.items():
            if self._fits(name, value):
                continue
            model = self._model(name)
            if model is None:
                unchecked.append(name)
            else:
                checked[name] = self._coerce(name, value, model, problems)
        if problems:
            raise ParameterTypeError("Flow run received invalid parameters:\n" + "\n".join(problems))
        return checked, unchecked

    def schema(self) -> dict[str, Any]:
        """A JSON schema of the parameters as one object."""
        from pydantic import ConfigDict, create_model

        # Field names must not clash with pydantic's own, so the parameters' names are aliases.
        definitions: dict[str, Any] = {
            f"p{place}": self._schema_field(parameter) for place, parameter in enumerate(self._parameters.values())
        }
        config = ConfigDict(arbitrary_types_allowed=True)
        model = create_model("Parameters", __config__=config, **definitions)
        schema: dict[str, Any] = model.model_json_schema(schema_generator=_tolerant_generator())
        return schema

    def _schema_field(self, parameter: inspect.Parameter) -> tuple[Any, Any]:
        from pydantic import Field

        name, default = parameter.name, parameter.default
        annotation = Any if self._model(name) is None else self._shape(name)
        if parameter.kind in (_VAR_POSITIONAL, _VAR_KEYWORD):
            default = () if parameter.kind is _VAR_POSITIONAL else {}
        elif default is None:
            annotation = typing.Optional[annotation]  # noqa: UP045  # `|` fails on annotations that are no types
        return annotation, Field(... if default is _EMPTY else default, alias=name, title=name)

    def _fits(self, name: str, value: Any) -> bool:
        parameter, annotation = self._parameters[name], self._annotation(name)
        if parameter.kind is _VAR_POSITIONAL:
            return all(_fits(item, annotation) for item in value)
        if parameter.kind is _VAR_KEYWORD:
            return all(_fits(item, annotation) for item in value.values())
        return (value is None and parameter.default is None) or _fits(value, annotation)

    def _annotation(self, name: str) -> Any:
        if name not in self._annotations:
            self._annotations[name] = _resolve(self._fn, self._parameters[name].annotation)
        return self._annotations[name]

    def _shape(self, name: str) -> Any:
        """The type of the whole value: for `*args: T` that is a list of T."""
        kind, annotation = self._parameters[name].kind, self._annotation(name)
        if kind is _VAR_POSITIONAL:
            return GenericAlias(list, (annotation,))
        if kind is _VAR_KEYWORD:
            unpacked = typing.get_origin(annotation) is typing.Unpack
            return typing.get_args(annotation)[0] if unpacked else GenericAlias(dict, (str, annotation))
        return annotation

    def _model(self, name: str) -> type[BaseModel] | None:
        """A model with one field, `value`; None if the annotation cannot become one."""
        if name not in self._models:
            self._models[name] = _build_model(self._shape(name))
        return self._models[name]

    def _coerce(self, name: str, value: Any, model: type[BaseModel], problems: list[str]) -> Any:
        from pydantic import ValidationError

        try:
            validated: Any = model.model_validate({"value": value})
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                place = ".".join([name, *map(str, detail["loc"][1:])])
                problems.append(f" - {place}: {detail['msg']}")
            return value
        return tuple(validated.value) if self._parameters[name].kind is _VAR_POSITIONAL else validated.value


def _fits(value: Any, annotation: Any) -> bool:
    """Whether `value` surely is an instance of `annotation`, found without pydantic."""
    if annotation is Any:
        return True
    if annotation is None or annotation is NoneType:
        return value is None
    if any(annotation is kind for kind in _EXACT):
        return type(value) is annotation
    if isinstance(annotation, type):
        try:
            return isinstance(value, annotation)
        except TypeError:  # typed dictionaries, protocols
            return False
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return any(_fits(value, member) for member in typing.get_args(annotation))
    return False


def _resolve(fn: Callable[..., Any], annotation: Any) -> Any:
    """`annotation` with its strings evaluated where the function was defined."""
    if annotation is _EMPTY:
        return Any
    holder = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=_globals(fn), include_extras=True)["it"]
    except Exception:  # evaluating it can raise anything
        return _Unresolved


def _globals(fn: Callable[..., Any]) -> dict[str, Any]:
    target: Any = inspect.unwrap(fn)
    while isinstance(target, partial):
        target = inspect.unwrap(target.func)
    if isinstance(target, type):
        target = target.__dict__.get("__init__")
    elif not hasattr(target, "__globals__"):
        target = type(target).__call__
    return getattr(target, "__globals__", {})


def _build_model(annotation: Any) -> type[BaseModel] | None:
    from pydantic import ConfigDict, create_model

    if annotation is _Unresolved:
        return None
    config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)
    try:
        model = create_model("Parameter", __config__=config, value=(annotation, ...))
        model.model_rebuild()  # so that what pydantic left for later fails now
    except Exception:  # pydantic's errors, and those of the user's own schema hooks
        return None
    return model


def _tolerant_generator() -> type[GenerateJsonSchema]:
    """Schemas that say nothing about what JSON cannot express, in place of an error or a warning."""
    from pydantic.json_schema import GenerateJsonSchema

    class Tolerant(GenerateJsonSchema):
        def emit_warning(self, kind: Any, detail: str) -> None:
            return

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}

    return Tolerant
