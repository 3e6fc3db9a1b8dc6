"""The learner's own endpoint, and what any endpoint's errors mean, in plain words.

Whatever stands at the address that a learner set, every answer that is no chat reply ends in a
`CourseError` with a next step.
"""

import sys
from collections.abc import Callable
from typing import Any

from course_utils import machine, settings
from course_utils.endpoint.handle import AGAIN, Server
from course_utils.errors import CourseError

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-4.1-mini"
BACK_TO_POCKET = "unset OPENAI_API_KEY and OPENAI_BASE_URL to go on with Pocket Llama"
# in names of models that do not chat; servers list them beside those that do
NO_CHAT = ("embed", "rerank", "whisper", "tts", "bge-", "e5-", "moderation", "clip", "dall-e")
# What a refusal means by its HTTP status: what happened; what to do at the learner's own endpoint;
# what to do where the server was started here.
REFUSALS: dict[int | None, tuple[str, str, str]] = {
    400: (
        "{model} refuses the request",
        "Change what the reason names, set COURSE_API_MODEL to another model",
        "Change what the reason names, and run the cell again",
    ),
    401: (
        "{where} refuses the key",
        "Set OPENAI_API_KEY to a valid key",
        "Make the client with api_key=server.key",
    ),
    403: ("{where} does not allow this", "Ask for access to the model", "Use model=server.model"),
    404: (
        "{where} knows no model {model!r}",
        "Set COURSE_API_MODEL to a model it offers",
        "Use model=server.model",
    ),
    413: ("The request is too large", "Send less text at once", "Send less text at once"),
    429: (
        "{where} takes no more requests now",
        "Check your credit there, or wait a minute",
        "Wait a few seconds and run the cell again",
    ),
    503: (
        "{where} takes no more requests now",
        "Wait a minute and run the cell again",
        "Wait a few seconds and run the cell again",
    ),
    None: ("{model} does not answer", "Wait a minute and run the cell again", AGAIN[:-1]),
}
_explained: list[Server] = []


def learners_own() -> Server | None:
    """The endpoint that the learner's settings name; None where they name none."""
    if settings.api_is_local():
        return None
    key = settings.secret("OPENAI_API_KEY")
    base_url = settings.plain("OPENAI_BASE_URL") or OPENAI_URL
    # servers on the own machine mostly want no key, but the client wants one to send
    server = Server(base_url, key or "none", settings.api_model() or "", "")
    server.model = server.model or first_model(server)
    server.said_by = f"full tier, {server.model} at {machine.host(server.where)}"
    return server


def first_model(server: Server) -> str:
    """The course's model at OpenAI; elsewhere the first one on offer that chats."""
    if server.base_url.rstrip("/") == OPENAI_URL:
        return OPENAI_MODEL
    offered = asked(server, lambda client: [str(model.id) for model in client.models.list()])
    if not offered:
        step = "Load one there, or set COURSE_API_MODEL."
        raise CourseError(f"{server.where} offers no model.", "Its list is empty.", step)
    return next((name for name in offered if not any(no in name for no in NO_CHAT)), offered[0])


def probe(server: Server) -> None:
    """Send one tiny request, so that what is wrong shows now and in plain words."""
    messages = [{"role": "user", "content": "Say OK."}]

    def ask(client: Any) -> tuple[Any, str]:
        response = client.chat.completions.create(
            model=server.model, messages=messages, temperature=0, max_completion_tokens=16
        )
        return response.choices[0].message.content, response.choices[0].finish_reason

    content, finish = asked(server, ask)
    # a model that thinks first may have used up its few tokens before the first word
    if not isinstance(content, str) and (content or finish != "length"):
        raise odd(server, f"The reply's content is {type(content).__name__}, not text.")


def asked(server: Server, ask: Callable[[Any], Any]) -> Any:
    """The answer to `ask(client)`; whatever goes wrong as a `CourseError` with the next step."""
    import openai

    try:
        client = openai.OpenAI(
            base_url=server.base_url, api_key=server.key, timeout=30, max_retries=0
        )
        return ask(client)
    except openai.APIError as error:
        raise explained(server, error) from None
    except Exception as error:  # the client takes a web page, or any JSON, and fails when read
        raise odd(server, f"{type(error).__name__}: {first_line(error)}") from None


def odd(server: Server, why: str) -> CourseError:
    """An answer that no OpenAI-compatible server gives."""
    what = f"{server.where} answers, but not as an OpenAI-compatible server does."
    step = "Check OPENAI_BASE_URL (most end in /v1) and COURSE_API_MODEL"
    return CourseError(what, why, f"{step}, or {BACK_TO_POCKET}.")


def explained(server: Server, error: Any) -> CourseError:
    """What an `openai.APIError` means for the learner, with the next step."""
    import openai

    if isinstance(error, openai.APIConnectionError):
        return no_answer(server, error)
    status, said = getattr(error, "status_code", None), first_line(error)
    if isinstance(error, openai.APIResponseValidationError):
        return odd(server, said)
    usual = 400 if status and 400 <= status < 500 else None
    what, step, step_here = REFUSALS[status if status in REFUSALS else usual]
    ours = server.process is not None
    if status == 401:
        said = "It is wrong, deleted or of another service."  # theirs repeats part of the key
    elif status == 400 and "temperature" in said:
        step = f"Set COURSE_API_MODEL to a chat model that takes it, like {OPENAI_MODEL}"
    elif status == 404 and (error.code == "unknown_url" or isinstance(error.body, str)):
        what, step_here = "{where} does not know this request", "Use what the reason names"
        ends = server.where.rstrip("/").endswith("/v1")
        right = f"{server.where.rstrip('/')}/v1"
        step = "Check OPENAI_BASE_URL" if ends else f"Try OPENAI_BASE_URL={right}: most end in /v1"
    code = f" ({status})" if status else ""
    back = "." if ours else f", or {BACK_TO_POCKET}."
    return CourseError(
        what.format(where=server.where, model=server.model) + code + ".",
        said,
        (step_here if ours else step) + back,
    )


def no_answer(server: Server, error: Any) -> CourseError:
    """No HTTP answer at all: out of time, or nobody there."""
    import openai

    kind, where = type(error).__name__, server.where
    what, why = f"{where} cannot be reached.", f"{kind}: no network, or no server at this address."
    if isinstance(error, openai.APITimeoutError):
        what, why = f"{where} did not answer in time.", f"{kind}: {first_line(error)}"
    elif not where.startswith(("http://", "https://")):
        why = "That is no address: one begins with http:// or https://."
    if server.process is not None:
        return CourseError(what, why, AGAIN)
    step = f"Check the network and OPENAI_BASE_URL, or {BACK_TO_POCKET}."
    return CourseError(what, why, step)


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def explain_errors(server: Server) -> None:
    """In a notebook, show one clear message where a call to one of the lesson's servers fails.

    Only what nobody caught comes here: a cell that catches an error gets the error itself.
    """
    import openai

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None  # type: ignore[attr-defined]
    if server not in _explained:
        _explained.append(server)
    if shell is None:
        return

    def explain(shell: Any, kind: Any, error: Any, trace: Any, tb_offset: Any = None) -> None:
        address = str(error.request.url)
        for known in reversed(_explained):
            if address.startswith(known.base_url):
                broken = isinstance(error, openai.APIConnectionError | openai.InternalServerError)
                ended = known.ended(within=0.5) if broken else None
                error = ended or explained(known, error)
                break
        shell.showtraceback((type(error), error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((openai.APIError,), explain)
