"""The exercises and self-tests, one module a lesson."""
