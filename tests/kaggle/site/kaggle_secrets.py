"""A stand-in for Kaggle's own module, for tests: as far as the course looks.

The real one is patches/kaggle_secrets.py of Kaggle/docker-python: it asks Kaggle's server. Here
`KAGGLE_PAGE` names a JSON file in its place, {"NAME": "value"}; `off` means that the notebook's
internet is off, and no value at all that no secrets are attached.
"""

import json
import os


class CredentialError(Exception):
    """The notebook has no token to ask with."""


class BackendError(Exception):
    """The server knows no such secret."""


class ValidationError(Exception):
    """No name was given."""


class UserSecretsClient:
    """Asks for secrets by name."""

    def __init__(self):
        if "KAGGLE_PAGE" not in os.environ:
            raise CredentialError("A token is required")

    def get_secret(self, label):
        """The value of a secret."""
        if not label:
            raise ValidationError("Label must be non-empty.")
        if os.environ["KAGGLE_PAGE"] == "off":
            raise ConnectionError("Connection error trying to communicate with service.")
        with open(os.environ["KAGGLE_PAGE"], encoding="utf-8") as page:
            found = json.load(page)
        if label not in found:
            raise BackendError("Unexpected response from the service.")
        return found[label]
