"""The API lessons' server side: a local endpoint, the learner's own, and errors in plain words."""

from course_utils.endpoint.handle import Server
from course_utils.endpoint.own import probe
from course_utils.endpoint.server import limited, serve, start, stop

__all__ = ["Server", "limited", "probe", "serve", "start", "stop"]
