"""The small tier's model, fetched once: `get`."""

from course_utils.fetching.get import get

__all__ = ["get"]
