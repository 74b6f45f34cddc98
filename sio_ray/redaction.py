"""Secrets that stand in URIs are replaced by *** before anything is printed or saved."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import to_jsonable_python

#: What stands in the place of a secret.
HIDDEN = "***"

#: A password before a host (but for a port), which may have an @ itself or, where it has none before, a slash; a token
#: alone before the host of a web address; and the value of a query's option that is named like a secret.
#: `abfs://CONTAINER@ACCOUNT` and `s3://BUCKET` hold none.
_SECRET = re.compile(
    r"(?<=://)([^:/?@\s]*:)(?!\d{1,5}(?![^/?'\"\s]))(?:[^/\s]*@|[^@]*@)"
    r"|(?<=http://)[^:/?@\s]+@|(?<=https://)[^:/?@\s]+@"
    r"|([?&][^=&?]*(?:secret|key|token|sig|pass|pwd|auth|credential)[^=&]*=)[^&'\"\s]*",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Replace the secrets of the URIs in a text by ***."""
    if "://" not in text:
        return text
    return _SECRET.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    if match[2]:
        return f"{match[2]}{HIDDEN}"
    return f"{match[1] or ''}{HIDDEN}@"


def redact_values(value: Any) -> Any:
    """JSON values with every text redacted; what a record or a saved config is made of."""
    value = to_jsonable_python(value)
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redact_values(each) for name, each in value.items()}
    if isinstance(value, list):
        return [redact_values(each) for each in value]
    return value


def is_redacted(uri: str) -> bool:
    """Whether the secret of a URI was left out, as it is in all that is saved."""
    return "://" in uri and HIDDEN in uri
