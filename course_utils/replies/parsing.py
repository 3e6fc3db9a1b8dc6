"""A model's reply → one of the labels, or `UNPARSED`: built so that it cannot guess.

A label is read where the whole reply is the label, where a JSON field says it, or where a sentence
states it ("The review is positive.", "Sentiment: Positive"). What stands around that must be of
forms known here. Everything else is unparsed: denials, doubts, questions, two labels, words that
only occur. The forms are English; the labels may be any. It knows neither models nor lessons.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from course_utils.replies.words import (
    ASKED,
    CROSSED,
    DOUBT,
    NOT,
    SAMPLE,
    TEXTS,
    THINGS,
    follows,
    marks,
    opens,
    sentences,
)

UNPARSED = "unparsed"

_MORE = r"overall|final|given|above|following|general|predicted|correct|detected|provided|analysis"
_BEFORE = (
    rf"(?:(?:the|this|that|your|my|its|their)\s+)?(?:(?:{_MORE}|(?:{TEXTS}|{THINGS})(?:'s)?)\s+)"
    r"{0,3}"
)
_NAME = rf"{_BEFORE}(?:{THINGS}|{TEXTS})(?:\s+QUOTE)?"
_OF = rf"(?:\s+(?:(?:expressed|conveyed)\s+)?(?:of|for|in|by|behind)\s+(?:{_NAME}|QUOTE)){{0,2}}"
_NAMED, _KEY = _NAME + _OF, rf"{_BEFORE}(?:{THINGS}|analysis){_OF}"  # only an answer has a colon
_SUBJECT = rf"(?:it|this|that|{_NAMED}(?:\s+here)?)"
_AS = r"(?:classified|labell?ed|categori[sz]ed|considered|rated)\s+(?:as\s+)?"
_IS = rf"(?:(?:\s+(?:is|was)|'s)\s*(?:\s{_AS}|:)?|\s+(?:can|would|should)\s+be\s+{_AS})"
_SAY = r"(?:i\s+would|i'd|i)\s+(?:say|call|classify|label|rate|categori[sz]e|consider)(?:\s+that)?"
_VERY = "very|clearly|definitely|strongly|overwhelmingly|highly|extremely|certainly|obviously"
_FIRST = r"(?:sure|certainly|of course|okay|ok|overall|in (?:summary|conclusion|short))[,!:]\s*"
_GIVEN = (
    r"(?:(?:based on|given|after|according to|considering)\s[^,]{1,90}|yes|no|therefore|thus),\s"
)
_WHY = r",?\s(?:because|since|due to|based on|as (?:it|the|they|he|she|this))\s"
_SURE = (
    r"\s*\((?:confidence|certainty|probability|score)\b[^()]*\)|\s*\(\d[\d.]* ?% confiden(?:ce|t)\)"
    r"|\s*[,;|]\s*(?:confidence|certainty|probability|score)(?: score| level)?\s*[:=]\s*[\w.%]+"
)

# "neither positive nor negative", after another label: what it denies are the others
_M = "\ue000\\d+\ue001"
_DENIED = re.compile(
    rf"\b(?:is |are )?(?:neither|without|not|no)\s(?:[\w-]+\s){{0,4}}{_M}(?:,?\s(?:or|nor)\s{_M})+"
)

_PAIRS = dict(zip("\"'`*_“‘«„([「『【", "\"'`*_”’»“)]」』】", strict=True))
_OPEN = set("?？؟:…~/\\|+-=%&<>^")  # an answer that ends like this goes on, or is none
_THINK = "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad"
_THOUGHT = re.compile(rf"^.*[<\[◁]/(?:{_THINK})[>\]▷]", re.DOTALL | re.IGNORECASE)


def parser(labels: Iterable[str]) -> Callable[[Any], str]:
    """`parse` for labels of any names: reply → the label it states, or `UNPARSED`.

    >>> parser(["bug", "bug report"])("Category: bug report.")
    'bug report'
    >>> parser(["bug", "bug report"])("It is not a bug.")
    'unparsed'
    """
    return _parser(tuple(labels))


@cache
def _parser(labels: tuple[str, ...]) -> Callable[[Any], str]:
    """The parser of these labels."""
    reader = _Reader(labels)

    def parse(reply: Any) -> str:
        """The label that the reply states, or `UNPARSED`; no text is unparsed as well."""
        if not isinstance(reply, str):
            return UNPARSED
        text = _visible(_THOUGHT.sub("", reply))
        if re.match(rf"\s*[<\[◁](?:{_THINK})[>\]▷]", text, re.IGNORECASE):
            return UNPARSED  # cut off before it answered
        whole = reader.whole(text)
        return whole or reader.in_json(text) or reader.stated(text) or UNPARSED

    return parse


def _visible(text: str) -> str:
    """In Unicode's composed form, without characters that cannot be seen."""
    return "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")


def _picture(mark: str) -> bool:
    """Whether a character is an emoji or the like, and not one that refuses."""
    kind = unicodedata.category(mark)
    return (kind in ("So", "Sk") and mark not in CROSSED and mark != "`") or mark == "\ufe0f"


def _folded(text: str) -> str:
    """As `_visible`, without capitals; every run of spaces is one."""
    return re.sub(r"\s+", " ", _visible(text).casefold()).strip()


class _Reader:
    """What a set of labels makes of a text."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        """Prepare the forms for these labels."""
        self.exact = {_visible(label).strip(): label for label in labels}
        self.folded: dict[str, str] = {}
        for label in labels:  # two that differ in capitals alone: neither is read without them
            folded = _folded(label)
            self.folded[folded] = label if self.folded.get(folded, label) == label else ""
        names = sorted(filter(None, self.folded), key=len, reverse=True)
        self.names = [label for label in names if self.folded[label]]
        words = "|".join(map(_bounded, names))
        self.mention = re.compile(words.replace(r"\ ", r"\s+") if words else r"(?!)")
        # "very positive" is Positive only where no label is made of another
        nested = any(a != b and a in b for a in names for b in names)
        self.form = _form(r"(?!)" if nested else _VERY)

    def whole(self, text: str) -> str:
        """The label that the whole text is, whatever its wrapping; "" if it is none."""
        text = text.strip()
        for _ in range(8):
            found = self.exact.get(text) or self.folded.get(_folded(text))
            if found:
                return found
            less = _unwrapped(text)
            if less == text:
                break
            text = less
        return ""

    def in_json(self, text: str) -> str:
        """The label that a JSON object's fields give, like `{"sentiment": "positive"}`."""
        start, end = text.find("{"), text.rfind("}") + 1
        if start < 0 or end <= start:
            return ""
        before = re.sub(r"```\w*|<\w+>|\[\s*$", "", text[:start]).strip().casefold()
        after = re.sub(r"```|</\w+>|^\s*\]", "", text[end:]).strip().casefold()
        marked = self.mention.search(before) or self.mention.search(after)
        if (
            marked
            or NOT.search(before)
            or SAMPLE.search(before)
            or not all(map(opens, sentences(before)))
        ):
            return ""
        if not all(follows(sentence) for sentence in sentences(after)):
            return ""
        try:
            found = json.loads(text[start:end], object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            return ""
        said = {self.whole(v) or self.stated(v) for v in _answers(found, self.mention)}
        return said.pop() if len(said) == 1 else ""

    def stated(self, text: str) -> str:
        """The label that sentences state, if what stands around them leaves it standing."""
        said: set[str] = set()
        before = ""
        for sentence in sentences(self._marked(text)):
            sentence = self._undenied(sentence, said)
            label, last, before = self._label_of(sentence), before, sentence
            if label:
                if not said and last[-1:] == ":" and not ASKED.search(last):
                    return ""  # "The text says:", and the label on the next line
                said.add(label)
            elif label is None or not (self._stands(said, sentence) if said else opens(sentence)):
                return ""
        return said.pop() if len(said) == 1 else ""

    def _undenied(self, sentence: str, said: set[str]) -> str:
        """The sentence without "neither positive nor negative", where another label was said."""
        denied = _DENIED.search(sentence)
        if said and denied and not {self._name(n) for n in marks(denied[0])} & said:
            return sentence.replace(denied[0], "so")
        return sentence

    def _stands(self, said: set[str], sentence: str) -> bool:
        """Whether what was said still stands after a sentence that states nothing."""
        named = {self._name(n) for n in marks(sentence)}
        if named - said or (named and NOT.search(sentence)):
            return False
        return follows(re.sub(r"\ue000\d+\ue001", "it", sentence))

    def _label_of(self, sentence: str) -> str | None:
        """The label a sentence states, "" where it states none; None: two labels, or a denial."""
        if len({self._name(n) for n in marks(sentence)}) > 1:
            return None
        stated = self.form.fullmatch(sentence)
        if not stated:
            parts = re.fullmatch(r"(.*),\s(?:but|so|and)\s(.*)", sentence, re.DOTALL)
            stated = self.form.fullmatch(parts[2]) if parts else None
            if not parts or not stated or not opens(parts[1] + "."):
                return ""
        why, end = stated["why"] or stated["more"] or "", stated["end"] or ""
        if "?" in why or marks(why) or (stated["more"] and not follows(why)):
            return None
        given = stated["given"] or ""
        if DOUBT.search(given) or (" " in given.strip() and NOT.search(given)):
            return None
        if ".." in end or (_OPEN | CROSSED) & set(end):
            return None
        return self._name(next(n for n in marks(sentence)))

    def _name(self, number: int) -> str:
        """The label behind a mark's number; "" for a mark that two labels share."""
        return self.folded[self.names[number]] if number >= 0 else ""

    def _marked(self, text: str) -> str:
        """The text in small letters, every label in it as a mark, markdown and quotes taken off."""
        text = re.sub(r"[’‘]", "'", "".join(c for c in text.casefold() if not _picture(c)))
        text = self.mention.sub(self._mark, text)
        text = re.sub(r"\*+|`+|__+|^#+\s|^[-•]\s|\$|\\(?:boxed|text)(?=\{)", "", text, flags=re.M)
        text = re.sub(rf"^\d[.)]\s+(?=(?:{_KEY}|reason|explanation)\s*:)", "", text, flags=re.M)
        text = re.sub(
            r"[\"'“”«»(\[{_]{1,2}(\ue000\d+\ue001)([.!,]?)[\"'“”«»)\]}_]{1,2}", r"\1\2", text
        )
        text = re.sub(rf"<((?:final_)?(?:{THINGS}))>\s*(\ue000\d+\ue001)\s*</\1>", r"\1: \2", text)
        return re.sub(r"[\"“«]([^\"“”«»\ue000]{3,})[\"”»]", "QUOTE", text)

    def _mark(self, found: re.Match[str]) -> str:
        """A label's mark; of two labels that differ in capitals alone, a word that is no form."""
        name = _folded(found[0])
        known = self.folded.get(name)
        return f"\ue000{self.names.index(name)}\ue001" if known else "\ue002"


def _bounded(label: str) -> str:
    """A pattern for a label as a word of its own; scripts without spaces have no such bounds."""
    left, right = (r"(?<![^\W_])", r"(?![^\W_])") if label.isascii() else ("", "")
    return (left if label[0].isalnum() else "") + re.escape(label) + right


def _form(very: str) -> re.Pattern[str]:
    """The sentences that state a label, given the words that may stand before one."""
    label = (
        rf"(?:an?\s+)?(?:(?:{very})\s+)?\ue000\d+\ue001(?:\s+(?:one|{THINGS}|{TEXTS}))?"
        r"(?:\s+in\s+(?:nature|tone|sentiment)|\s+overall)?"
    )
    subject = rf"(?:i\s+(?:think|believe)\s+(?:that\s+)?)?{_SUBJECT}{_IS}\s*"
    say = rf"{_SAY}\s+(?:{_SUBJECT}\s+)?(?:as\s+)?|{_SAY}\s+{_SUBJECT}{_IS}\s*"
    subject = rf"(?P<given>{_GIVEN})?(?:{subject}|{say})"
    key = rf"(?:(?:here is|here's)\s+)?(?:{_KEY}|a)\s*(?:[:：=]|[-=]>|→|\s[-–—]\s)\s*"
    has = rf"{_SUBJECT}\s+(?:has|expresses|conveys|shows|indicates|reflects)\s+(?=an?\s)"
    more = rf"(?:{_SURE})?(?:{_WHY}(?P<why>.+)|(?:\s[-–—]|:)\s(?P<more>.+)|(?P<end>[\W_]*))"
    return re.compile(rf"(?:{_FIRST})?(?:{subject}|{key}|{has})?{label}{more}", re.DOTALL)


def _unwrapped(text: str) -> str:
    """The text without one layer of quotes, brackets, markdown, closing mark, bullet or emoji."""
    if len(text) > 2 and _PAIRS.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    if re.search(r"[^.…][.。।]$|[!！,;]$", text):
        return text[:-1].strip()
    if text[:1] in "\"'`" or text[-1:] in "\"'`":
        return text.strip("\"'`").strip()
    for edge, less in ((text[:1], text[1:]), (text[-1:], text[:-1])):
        if edge and _picture(edge):
            return less.strip()
    return re.sub(r"^[-•#*]+\s+(?=[^\W\d])", "", text)


class _Pairs(list[Any]):
    """A JSON object as its pairs, so that a key given twice is seen twice."""


# a field that takes the others back, and the names of objects that may hold an answer
_TAKEN_BACK = re.compile(
    rf"(?:is )?(?:valid|correct|success)=false"
    r"|(?:error|negated|ambiguous|refused)=(?!null|false|\"\").+"
    rf"|(?:{THINGS})=\"(?:unknown|unclear|undecided|mixed|none|n/a|unparsed|cannot .*)\""
)
_INSIDE = re.compile(
    rf"(?:(?:{_MORE}|{THINGS}|review|text|message|tweet|email|document|data|arguments|parameters"
    rf"|results|content) ?)+"
)


def _answers(found: Any, mention: re.Pattern[str]) -> list[str]:
    """The texts of the fields that are named like an answer, of objects inside objects too."""
    said: list[str] = []
    for key, value in found if isinstance(found, _Pairs) else ():
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).casefold()
        words = re.sub(r"[\W_]+", " ", words).strip()
        value = value[0] if type(value) is list and len(value) == 1 else value
        if _TAKEN_BACK.fullmatch(f"{words}={json.dumps(value)}".casefold()):
            return [""]
        if isinstance(value, _Pairs):
            said += _answers(value, mention) if _INSIDE.fullmatch(words) else []
        elif re.fullmatch(
            rf"(?:(?:{_MORE}|{TEXTS}|{THINGS}) ?)*\b(?:{THINGS}|sentiment analysis)(?: name)?",
            words,
        ):
            text = str(value) if type(value) in (int, str) else ""
            said += [text] if mention.search(text.casefold()) else []
    return said
