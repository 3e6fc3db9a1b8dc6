"""The small helper package of the course "Open LLMs, hands-on".

It carries what would distract in a lesson: settings, the machine's limits, scoring, measuring,
drawing, checking an exercise. The calls a lesson teaches stand in the lesson itself. Importing
this package is cheap; heavy libraries are loaded when a function needs them.
"""

__version__ = "0.1.0"
