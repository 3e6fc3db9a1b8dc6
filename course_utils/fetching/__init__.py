"""The small tier's model, fetched once: `get`; and lessons that need it: `lesson_model`."""

from course_utils.fetching.get import get
from course_utils.fetching.recorded import lesson_model

__all__ = ["get", "lesson_model"]
