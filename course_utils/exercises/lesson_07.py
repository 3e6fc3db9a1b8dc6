"""Lesson 07: exercises and self-test."""

from course_utils.checks import Exercise, Question

EXERCISES: dict[str, Exercise] = {}
QUIZ: list[Question] = []
