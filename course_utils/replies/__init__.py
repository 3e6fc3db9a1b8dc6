"""The label that a model's reply states, if it states one."""

from course_utils.replies.parsing import UNPARSED as UNPARSED
from course_utils.replies.parsing import parser as parser
