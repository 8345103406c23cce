"""A client's exception as its reply: the traceback of our code alone, the same on every engine."""

from __future__ import annotations

import traceback
from pathlib import Path

import flwr
from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

CLIENT_APP_RAISED = 2  # Flower's code for a ClientApp that raised
FOREIGN = (Path(flwr.__file__).parent, Path(__file__))


def reply_with_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Is a Flower mod: turns what the app raises into an error reply.

    Flower's own engines would send the exception's text only, or wrap it in frames and colour codes
    of Ray's.
    """
    try:
        return call_next(message, context)
    except Exception as error:
        return Message(Error(CLIENT_APP_RAISED, own_traceback(error)), reply_to=message)


def own_traceback(error: BaseException) -> str:
    """Returns a traceback as Python prints it, without the frames of Flower."""
    found = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = found
    while part is not None:
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if not _is_foreign(Path(frame.filename))]
        )
        part = part.__cause__ or part.__context__
    return "".join(found.format())


def _is_foreign(path: Path) -> bool:
    return any(path == place or place in path.parents for place in FOREIGN)
