"""Secrets, as on Colab: `get(name)` and its four ways to fail.

On Colab the kernel asks the page in the browser. Here `COLAB_PAGE` names a JSON file in its place:
`{"NAME": {"access": true, "payload": "…"}}`. Without it there is no page, as in a kernel that
nobody looks at, and asking waits until the time is up.
"""

import json
import os
import time

from google.colab import errors

SECONDS = 10


class NotebookAccessError(Exception):
    """The secret is there; this notebook has not been granted it. Not an `errors.Error`."""

    def __init__(self, key):
        super().__init__(f"Notebook does not have access to secret {key}")


class SecretNotFoundError(errors.Error):
    """There is no such secret."""

    def __init__(self, key):
        super().__init__(f"Secret {key} does not exist.")


class TimeoutException(errors.Error):
    """No page answered."""

    def __init__(self, key):
        super().__init__(f"Requesting secret {key} timed out. Secrets can only be fetched when "
                         "running from the Colab UI.")  # fmt: skip


def get(key):
    """The value of a secret."""
    if not key:
        raise ValueError("key must not be empty")
    if "COLAB_PAGE" not in os.environ:
        time.sleep(SECONDS)
        raise TimeoutException(key)
    with open(os.environ["COLAB_PAGE"], encoding="utf-8") as page:
        found = json.load(page).get(key)
    if found is None:
        raise SecretNotFoundError(key)
    if not found.get("access", False):
        raise NotebookAccessError(key)
    return found.get("payload", "")
