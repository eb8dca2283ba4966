"""Expecting an error by its stable code and by the values that it names, never by its sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from saestore.errors import SaestoreError


@contextmanager
def raises(kind: type[SaestoreError], code: str, *named: object) -> Iterator[pytest.ExceptionInfo[SaestoreError]]:
    """Expect an error of this class and code, whose message names these values."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, f"code {caught.value.code!r}, not {code!r}: {caught.value}"
    missing = [value for value in named if str(value) not in str(caught.value)]
    assert not missing, f"the message does not name {missing}: {caught.value}"
