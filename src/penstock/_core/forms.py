"""What objects of known types amount to: for each type a function that gives plainer values which say it all.

Types are named, not imported: most programs use few of them, and numpy, pandas and pydantic are not ours to load.
"""

from __future__ import annotations

import sys
import typing
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any


def family(cls: type) -> str:
    """The name under which a class is known: with its package, whatever module of that it hides in."""
    return f"{str(cls.__module__).partition('.')[0]}.{cls.__qualname__}"


def _reduced(value: Any) -> Any:
    return value.__reduce__()[1:]


def _time(value: Any) -> Any:
    return value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo


def _zone(zone: Any) -> Any:
    if zone.key is None:
        raise TypeError("a time zone made from a file has no name")
    return zone.key


def _os_error(error: Any) -> Any:
    return error.args, error.filename, error.filename2, error.__cause__


def _import_error(error: Any) -> Any:
    return error.args, error.name, error.path, error.__cause__


def _generic(value: Any) -> Any:
    return typing.get_origin(value), typing.get_args(value)


def _descriptor(value: Any) -> Any:
    return value.__objclass__, value.__name__


def _field(field: Any) -> Any:
    facts = field.name, field.type, field.default, field.default_factory, field.init, field.repr, field.hash
    return *facts, field.compare, field.kw_only, dict(field.metadata)


def _model_field(field: Any) -> Any:
    return field.annotation, field.default, field.default_factory, field.alias, list(field.metadata)


# --- numpy ---


def _dtype(dtype: Any) -> Any:
    if dtype.names is not None:
        return [(name, *dtype.fields[name][:2]) for name in dtype.names], dtype.itemsize
    if dtype.subdtype is not None:
        return dtype.subdtype
    return dtype.str, repr(getattr(dtype, "na_object", None))


def _array(value: Any) -> Any:
    array = sys.modules["numpy"].asarray(value)
    if not array.dtype.isnative:  # pickling turns the bytes around
        array = array.astype(array.dtype.newbyteorder("="))
    return array.dtype, array.shape, _content(array)


def _masked(value: Any) -> Any:
    return value.data, sys.modules["numpy"].ma.getmaskarray(value), value.fill_value, value.hardmask


def _content(array: Any) -> Any:
    dtype, flat = array.dtype, array.ravel()
    if dtype.names is not None:  # field by field: what lies between them is arbitrary
        return [_array(array[name]) for name in dtype.names]
    if dtype.hasobject or dtype.kind == "T":
        return flat.tolist()
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        return list(map(repr, flat))  # some of their bytes are padding
    return memoryview(flat.view("u1")) if array.nbytes else b""


# --- pandas ---


def _column(values: Any) -> Any:
    dtype = values.dtype
    if isinstance(dtype, sys.modules["numpy"].dtype):
        return values.to_numpy()
    if hasattr(values, "categories"):
        return values.codes, values.categories, values.ordered
    if hasattr(values, "asi8"):
        return str(dtype), values.asi8
    return str(dtype), list(values)


def _frame(frame: Any) -> Any:
    columns = [_column(frame.iloc[:, place].array) for place in range(frame.shape[1])]
    return frame.columns, frame.index, columns, frame.attrs, _metadata(frame)


def _series(series: Any) -> Any:
    return series.index, _column(series.array), series.name, series.attrs, _metadata(series)


def _metadata(value: Any) -> Any:
    """What subclasses say that they have in addition."""
    return {name: getattr(value, name, None) for name in value._metadata if name != "_name"}


def _index(index: Any) -> Any:
    return _column(index.array), index.name, getattr(index, "freqstr", None)


def _multi_index(index: Any) -> Any:
    return list(index.names), [_column(index.get_level_values(level).array) for level in range(index.nlevels)]


def _range_index(index: Any) -> Any:
    return index.start, index.stop, index.step, index.name


def _timestamp(value: Any) -> Any:
    return value.isoformat(), value.unit, str(value.tz), value.fold


_PANDAS: dict[str, Callable[[Any], Any]] = {
    "pandas.DataFrame": _frame,
    "pandas.Series": _series,
    "pandas.Index": _index,
    "pandas.MultiIndex": _multi_index,
    "pandas.RangeIndex": _range_index,
    "pandas.ExtensionArray": _column,
    "pandas.CategoricalDtype": lambda dtype: (dtype.categories, dtype.ordered),
    "pandas.ExtensionDtype": str,
    "pandas.Timestamp": _timestamp,
    "pandas.Timedelta": lambda value: (value.isoformat(), value.unit),
    "pandas.Period": lambda value: (value.ordinal, value.freqstr),
    "pandas.Interval": lambda value: (value.left, value.right, value.closed),
    "pandas.NaTType": lambda _: (),
    "pandas.NAType": lambda _: (),
}

FORMS: dict[str, Callable[[Any], Any]] = {
    # Subclasses of builtins; read through the builtin, because their own methods may have ideas.
    "builtins.int": int.__int__,
    "builtins.float": float.__float__,
    "builtins.complex": complex.__complex__,
    "builtins.str": str.__str__,
    "builtins.bytes": bytes.__bytes__,
    "builtins.list": lambda value: [*list.__iter__(value)],
    "builtins.tuple": lambda value: (*tuple.__iter__(value),),
    "builtins.set": lambda value: {*set.__iter__(value)},
    "builtins.frozenset": lambda value: frozenset(frozenset.__iter__(value)),
    "builtins.dict": lambda value: dict(dict.items(value)),
    "collections.OrderedDict": lambda value: [*OrderedDict.items(value)],
    "collections.defaultdict": lambda value: (value.default_factory, dict(dict.items(value))),
    "collections.deque": lambda value: (value.maxlen, [*deque.__iter__(value)]),
    "builtins.bytearray": memoryview,
    "array.array": lambda value: (value.typecode, value.tobytes()),
    "builtins.mappingproxy": dict,
    "types.SimpleNamespace": lambda value: dict(vars(value)),
    "builtins.range": lambda value: (value.start, value.stop, value.step),
    "builtins.slice": lambda value: (value.start, value.stop, value.step),
    "decimal.Decimal": str,
    "fractions.Fraction": lambda value: (value.numerator, value.denominator),
    "datetime.datetime": _time,
    "datetime.date": lambda value: value.toordinal(),
    "datetime.time": _time,
    "datetime.timedelta": lambda value: (value.days, value.seconds, value.microseconds),
    "datetime.timezone": lambda value: (value.utcoffset(None), value.tzname(None)),
    "zoneinfo.ZoneInfo": _zone,
    "uuid.UUID": lambda value: value.int,
    "pathlib.PurePath": str,
    "re.Pattern": lambda value: (value.pattern, value.flags),
    "builtins.BaseException": lambda error: (error.args, error.__cause__),
    "builtins.OSError": _os_error,
    "builtins.ImportError": _import_error,
    # Ways to get at functions
    "functools.partial": lambda value: (value.func, value.args, value.keywords),
    "functools.partialmethod": lambda value: (value.func, value.args, value.keywords),
    "functools._lru_cache_wrapper": lambda value: value.__wrapped__,
    "functools.cached_property": lambda value: value.func,
    "builtins.method": lambda value: (value.__self__, value.__func__),
    "builtins.staticmethod": lambda value: value.__func__,
    "builtins.classmethod": lambda value: value.__func__,
    "builtins.property": lambda value: (value.fget, value.fset, value.fdel),
    "builtins.method_descriptor": _descriptor,
    "builtins.wrapper_descriptor": _descriptor,
    "builtins.classmethod_descriptor": _descriptor,
    "builtins.method-wrapper": lambda value: (value.__self__, value.__name__),
    "operator.itemgetter": _reduced,
    "operator.attrgetter": _reduced,
    "operator.methodcaller": _reduced,
    # Types that are no classes
    "types.GenericAlias": _generic,
    "types.UnionType": _generic,
    "typing.Union": _generic,
    "typing._GenericAlias": _generic,
    "typing._SpecialForm": repr,
    # What makes up classes
    "dataclasses.Field": _field,
    "dataclasses._DataclassParams": repr,
    "pydantic.FieldInfo": _model_field,
    "pydantic._BaseUrl": str,
    "pydantic._BaseMultiHostUrl": str,
    "pydantic_core.Url": str,
    "pydantic_core.MultiHostUrl": str,
    "pydantic._SecretBase": lambda value: value.get_secret_value(),
    "numpy.ndarray": _array,
    "numpy.memmap": _array,
    "numpy.MaskedArray": _masked,
    "numpy.generic": _array,
    "numpy.dtype": _dtype,
    **_PANDAS,
}

# Their classes written in C hold nothing that the form does not say.
OPEN = {"numpy.dtype", "numpy.generic", "builtins.BaseException", "builtins.OSError", "builtins.ImportError", *_PANDAS}

# The form says everything: attributes that objects have besides are caches, or part of it.
WHOLE = {
    *_PANDAS,
    *("numpy.memmap", "numpy.MaskedArray", "numpy.generic", "numpy.dtype"),
    *("types.SimpleNamespace", "functools._lru_cache_wrapper"),
    *("functools.cached_property", "functools.partialmethod", "builtins.staticmethod", "builtins.classmethod"),
    *("typing._GenericAlias", "types.GenericAlias", "typing.Union", "typing._SpecialForm", "builtins.property"),
    *("dataclasses.Field", "dataclasses._DataclassParams"),
    *("pydantic.FieldInfo", "pydantic._BaseUrl", "pydantic._BaseMultiHostUrl", "pydantic._SecretBase"),
}
