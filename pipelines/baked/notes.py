"""JSON files that were written before and are read again: of the right type throughout, with a hash of themselves.

A dataclass says what a note holds. Strictly: a number is no text and no truth value, and a field that is missing or
unknown is an error, as is a number out of the range that its type states.
"""

import functools
import hashlib
import json
import stat
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from pipelines.errors import UserError

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_SEAL = "sha256"  # the key of a note's hash of itself


def digest(value: Any) -> str:
    """SHA-256 of plain data, the same for equal data: 1, 1.0 and true differ, the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parsed(kind: type[T], value: Any) -> T:
    """Plain data as the dataclass `kind`. Raises ValueError that names the first field which is wrong."""
    try:
        right: T = _adapter(cast(Hashable, kind)).validate_json(json.dumps(value), strict=True, extra="forbid")
        return right
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}") from None


def as_(kind: type[Any]) -> AfterValidator:
    """For a field of plain data that must also be right as the dataclass `kind`."""

    def check(value: Any) -> Any:
        parsed(kind, value)
        return value

    return AfterValidator(check)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def sealed(note: Any) -> str:
    """The text of the dataclass `note`, with its hash."""
    fields = asdict(note)
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise UserError(f"the name {near!r} is not UTF-8; rename the file or folder") from None
    return json.dumps({**fields, _SEAL: digest(fields)}, indent=1, sort_keys=True) + "\n"


def contents(path: Path, missing: str, damaged: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a note, and its fields.

    Raises UserError, `missing` where there is no such file, and with the remedy `damaged` where it cannot be read.
    """
    try:
        # Only a regular file ends for certain.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no regular file; {damaged}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(missing) from None
    except NotADirectoryError:
        raise UserError(f"{path.parent} is a file; name the folder that it lies in") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); let this user read it, or use a copy") from None
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {damaged}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path} is damaged (it holds no fields); {damaged}")
    return data, fields


def unsealed(kind: type[T], path: Path, fields: dict[str, Any], damaged: str, seal: bool = True) -> T:
    """The note `kind` that `contents` read. seal: whether it holds a hash of itself.

    Raises UserError with the remedy `damaged` where the hash is another one, or a field is wrong.
    """
    fields = dict(fields)
    try:
        if seal and fields.pop(_SEAL, None) != digest(fields):
            raise ValueError("it is not what its hash of itself says")
        return parsed(kind, fields)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {damaged}") from None


def found(kind: type[T], path: Path) -> T | None:
    """The note at `path`, or None where it is missing, unreadable or of another kind."""
    try:
        return unsealed(kind, path, contents(path, "", "")[1], "")
    except UserError:
        return None
