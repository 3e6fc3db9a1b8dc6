"""What instructors and maintainers run from a checkout: `python -m course_staff COMMAND`.

It stands on `course_utils`, which knows nothing of it, and is not installed with the course.
"""
