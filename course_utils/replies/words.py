"""The words around an answer: what takes it back, what leaves it open, what lets it stand.

In sentences a label is a mark, as `parsing` sets them. This module knows no labels.
"""

import re

# What a label can be the name of, what has been labelled, and words that may stand before these.
THINGS = (
    "sentiment|label|answer|class|category|classification|verdict|result|output|prediction|polarity"
    "|tone|rating|type|kind|topic|intent|emotion|mood|attitude|feeling|opinion|status|priority"
    "|decision|conclusion|assessment|response|judge?ment|urgency|score|grade|language"
)
TEXTS = (
    "reviews?|text|message|note|e-?mail|comment|tweet|post|sentence|statement|passage|document"
    "|article|headline|feedback|ticket|question|request|input|example|paragraph|customer|reviewer"
    "|author|writer|user|speaker"
)

# who wrote a text, or what a text does: what follows is told of the text, not of the answer
_TOLD = re.compile(
    r"(?:the|this) (?:customer|reviewer|author|writer|user|speaker)s?\b"
    rf"|(?:the|this) (?:{TEXTS})"
    r" (?:mentions|describes|says|states|expresses|complains|criti\w+|praises|notes|reports)\b"
    r"|(?:reason|reasoning|explanation|rationale)\s*:"
)

# What takes an answer back or leaves it open, and what may follow one without doing so.
DOUBT = re.compile(
    r"\b(?:unable|unclear|uncertain|unsure|not sure|hard to|difficult|impossible|maybe|perhaps"
    r"|might|may|could|possibly|probably|opposite|reverse|wrong|false|untrue|incorrect|mistake\w*"
    r"|error|kidding|jok\w+|sarcas\w+|iron(?:y|ic\w*)|lie[ds]?|lying|suppos\w+|if|unless|whether|or"
    r"|pretend\w*|doubt\w*|guess\w*|neither|nor|instead|mixed|ambiguous|depends?|disagree|ignore"
    r"|(?:do not|don't) know(?=\W*$|,)|would be|would have|should be|less|contrary|undecided|except"
    r"|(?:cannot|can't|can not|couldn't|could not|won't|will not|wouldn't|would not|don't|do not)"
    r"\s(?:\w+\s)?(?:say|tell|determine|decide|judge|be|call|classify|agree|assess|answer|label"
    r"|confirm|think|believe|rate|consider|return|output))\b"
)
# of these, what takes an answer back even where it is told of the text
_BACK = re.compile(
    r"\b(?:opposite|reverse|kidding|jok\w+|sarcas\w+|iron(?:y|ic\w*)|lie[ds]?|lying|pretend\w*|unsure"
    r"|not sure|uncertain|unclear|undecided|mixed|ambiguous|contrary|guess\w*|cannot say|can't say"
    r"|disagree)\b|(?:\bnot|n't)\W*$"
)
# what comes before a sample, or in place of an answer
SAMPLE = re.compile(
    r"\bplease (?:provide|share|send|give|paste)\b|\bi (?:refuse|decline|need more)\b"
    r"|\bi (?:can't|cannot) help\b|\be\.g\W*$"
    r"|\b(?:example|format|schema|template|previous|expected)\b[^.!]*$"
)
ASKED = re.compile(
    rf"\b(?:{THINGS}|classif\w+|categori\w+|label\w*|rated?|analy\w+|here|follow\w*|is|as|be|say"
    rf"|call|n't|not)\b"
)
NOT = re.compile(
    r"\b(?:not|no|never|nothing|none|hardly|barely|without|far from|anything but|other than)\b"
    r"|n't\b"
)
_AFTER = re.compile(
    r"(?:the|this|it|they|he|she|there|because|since|as|due|based|words?|both|also|customers?"
    r"|reviewers?|additionally)\s|(?:reason|reasoning|explanation|rationale)\s*:"
)
_ASKS = re.compile(r"(?:is|was|are|does|do|did|has|should|would|what|which|how|why|who|when)\b")
_OFFER = re.compile(
    r"(?:would you like|do you (?:want|have|need)|is there anything|how (?:can|may) i|can i (?:help"
    r"|assist)|let me know|feel free|please let me|thank|i'm (?:glad|happy|here))\b"
)
_CONFIDENCE = re.compile(
    r"(?:confidence|certainty|probability|score)(?: score| level)?\s*[:=]\s*\S+"
)
_LABELLED = re.compile(rf"(?:it|this|that|these|the\s(?:{THINGS}|{TEXTS}))\b")
# a label beside one of these may be a refusal, or not meant
CROSSED = set("👎❌✗✘🚫☐✖❎❓❔⁉🤔🤷🙄🙃🤨🙅🤥⛔⚠⭕×⨯⊘⬜")


def sentences(text: str) -> list[str]:
    """The sentences of a text; a question keeps its mark, a finished one its full stop."""
    parts = re.findall(r"[^\n]+?(?:[.!?。！？…]+(?=[\"')\]]*(?:\s|$))[\"')\]]*|$|(?=\n))", text)
    return [part.strip() for part in parts if part.strip(" \t.!。-=_")]


def marks(text: str) -> list[int]:
    """The numbers of the labels marked in a text."""
    return [int(n) for n in re.findall(r"\ue000(\d+)\ue001", text)] + [-1] * text.count("\ue002")


def opens(sentence: str) -> bool:
    """Whether a sentence before an answer leaves it open what the answer will be."""
    if "?" in sentence or marks(sentence) or CROSSED & set(sentence) or SAMPLE.search(sentence):
        return False
    if doubts(sentence):
        return False
    if any(c.isdigit() for c in sentence) and not any(c.isalpha() for c in sentence):
        return False  # "1." before a label: one of a list
    unfinished = sentence[-1:] not in ".!。"  # "This isn't", and the label on the next line
    if unfinished and _ASKS.match(sentence):
        return False
    words = sentence.split()
    last = words[-6:] if unfinished or len(words) <= 3 else words[-1:]
    return not NOT.search(" ".join(last))


def follows(sentence: str) -> bool:
    """Whether a sentence after an answer lets it stand: a reason, a confidence, an offer."""
    if _OFFER.match(sentence) or _CONFIDENCE.fullmatch(sentence.strip(" .")):
        return True
    if not any(c.isalnum() for c in sentence):
        return "?" not in sentence and not CROSSED & set(sentence)
    if re.search(r"(?:\bnot|n't)\W*$", sentence):
        return False
    if not _AFTER.match(sentence) or "?" in sentence or doubts(sentence):
        return False
    told = _TOLD.match(sentence)
    return bool(told) or not (_LABELLED.match(sentence) and NOT.search(sentence))


def doubts(sentence: str) -> bool:
    """Whether a sentence takes an answer back or leaves it open."""
    finished = sentence[-1:] in ".!。" or re.match(r"(?:reason\w*|explanation|rationale)", sentence)
    doubt = _BACK if finished and _TOLD.match(sentence) else DOUBT
    return bool(doubt.search(sentence))
