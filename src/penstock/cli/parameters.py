"""Parameters of a flow, from the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import click

from penstock.exceptions import ParameterBindError, ParameterTypeError
from penstock.flows import Flow

param_option = click.option(
    "--param",
    "-p",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the flow: JSON, or any text. May be given several times.",
)


def from_file(file: BinaryIO) -> dict[str, Any]:
    """The object in a JSON file, or in a TOML file if it is called so."""
    try:
        values = tomllib.load(file) if file.name.endswith(".toml") else json.load(file)
    except ValueError as error:
        raise click.UsageError(f"{file.name} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise click.UsageError(f"{file.name} holds no object with a value for each parameter")
    return values


def from_options(flow: Flow[..., Any], params: Sequence[str]) -> dict[str, Any]:
    """The values of `--param NAME=VALUE` options for the parameters of `flow`."""
    texts: dict[str, str] = {}
    for param in params:
        name, equals, text = param.partition("=")
        if not equals:
            raise click.UsageError(f"--param {param}: expected NAME=VALUE")
        texts[name] = text
    return {name: _value(flow, name, text) for name, text in texts.items()}


def _value(flow: Flow[..., Any], name: str, text: str) -> Any:
    """What JSON makes of the text, unless only the text itself is of use: for a `str`, 12345 is one, too."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, str) or _is_good(flow, name, value) or not _is_good(flow, name, text):
        return value
    return text


def _is_good(flow: Flow[..., Any], name: str, value: Any) -> bool:
    if not flow.should_validate_parameters or name not in flow.binder.names:
        return True
    try:
        flow._checked_parameters({name: value})
    except ParameterTypeError:
        return False
    return True


def check(flow: Flow[..., Any], values: Mapping[str, Any]) -> None:
    """Raise a usage error if the flow cannot be called with these values."""
    refuse_unknown(flow, values)
    try:
        parameters = flow.binder.bind((), values)
    except ParameterBindError as error:
        wanted = " ".join(f"-p {name}=..." for name in _required(flow) if name not in values)
        raise click.UsageError(f"{error}: give it with {wanted}" if wanted else str(error)) from error
    if flow.should_validate_parameters:
        flow._checked_parameters(parameters)


def _required(flow: Flow[..., Any]) -> Iterator[str]:
    for name, parameter in flow.binder.signature.parameters.items():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            yield name


def refuse_unknown(flow: Flow[..., Any], values: Mapping[str, Any]) -> None:
    """Raise a usage error for a value that is for none of the flow's parameters, naming these."""
    parameters = flow.binder.signature.parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    for name in values:
        if name not in flow.binder.names:
            known = ", ".join(flow.binder.names) or "none"
            raise click.UsageError(f"flow {flow.name!r} has no parameter {name!r}. Its parameters: {known}")
