"""The body of a server-side apply, as both the operator and the commands send it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/apply-patch+yaml; charset=utf-8"
"""With the charset, the Kubernetes client sends text as it is, where it would write JSON of its own (see `as_yaml`)."""


def as_yaml(body: Mapping[str, Any]) -> str:
    """An object as JSON that is YAML as well, which is what the API server reads an applied object as.

    Python's JSON has two escapes for a character beyond U+FFFF, which YAML refuses; such a character stands there as it is. All
    others beyond ASCII are escaped, for some of them YAML refuses as they are.
    """
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(body, ensure_ascii=False))
