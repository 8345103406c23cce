"""Local differential privacy of the weights that clients send, and how much of it is spent.

Flower's own mod clips the updates and adds the noise.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable

from tardis_fl.config.federation import PrivacyConfig
from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, integer_seed
from tardis_fl.errors import RunError
from tardis_fl.federation.client.resources import resources_of
from tardis_fl.federation.transport import messages

NUDGE = 1e-6


def sensitivity(privacy: PrivacyConfig) -> float:
    """Returns how far apart two updates of a client can be.

    Each is clipped to a norm, and the two may point in opposite directions.
    """
    return 2 * privacy.clip_norm


def noise_std(privacy: PrivacyConfig) -> float:
    """Returns the standard deviation of the noise on each weight.

    It is that of `LocalDpMod` (Dwork and Roth 2014, theorem A.1).
    """
    return sensitivity(privacy) * math.sqrt(2 * math.log(1.25 / privacy.delta)) / privacy.epsilon


def private_weights(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clips the update of a reply and adds noise, where privacy is configured.

    This is a Flower mod for messages that train. Engines that simulate draw the noise from the
    run's seed, so that a run repeats. Real nodes draw it from the operating system: noise that
    others can draw as well hides nothing.
    """
    config = resources_of(message, context).config
    privacy = config.federation.privacy
    if privacy is None:
        return call_next(message, context)
    mod = LocalDpMod(privacy.clip_norm, sensitivity(privacy), privacy.epsilon, privacy.delta)
    sent = message.content
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    back = reply.content.array_records[messages.WEIGHTS]
    if all(
        array.data == sent.array_records[messages.WEIGHTS][key].data for key, array in back.items()
    ):
        reply.content[messages.WEIGHTS] = _nudged(back)
    # the mod wants the keys of both to be the same; clients may send back fewer than they got
    message.content = RecordDict(
        {
            messages.WEIGHTS: ArrayRecord(
                {key: sent.array_records[messages.WEIGHTS][key] for key in back}
            )
        }
    )
    try:
        with _noise(_noise_seed(config, sent, context)):
            return mod(message, context, lambda *_: reply)
    finally:
        message.content = sent


def _nudged(record: ArrayRecord) -> ArrayRecord:
    """Returns weights of which one differs by a hair.

    The mod divides an update by its norm, which must not be 0.
    """
    tensors = messages.unpack_tensors(record)
    first = next(iter(tensors.values()))
    first[0] += NUDGE * max(1.0, abs(float(first[0])))
    return messages.pack_tensors(tensors)


def _noise_seed(config: Config, sent: RecordDict, context: Context) -> int | None:
    """Returns the seed of a reply's noise; None on a real node, which draws it from the system."""
    if config.runtime.engine == "deployment":
        return None
    round_number: Any = sent.config_records[messages.INSTRUCTION]["round"]
    client: Any = context.node_config["partition-id"]
    return integer_seed(config.seed, Purpose.PRIVACY, int(round_number), int(client)) % 2**32


@contextmanager
def _noise(seed: int | None) -> Iterator[None]:
    """Seeds NumPy's global generator, which the mod draws from, and keeps the mod from logging.

    Both are as before afterwards.
    """
    state = np.random.get_state()
    logger = logging.getLogger("flwr")
    level = logger.level
    np.random.seed(seed)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        np.random.set_state(state)


@dataclass(frozen=True)
class PrivacySpent:
    """What a client has given away of its privacy.

    Attributes:
        num_messages: Updates that the client sent which sent most.
        epsilon: Of all its messages together, at `delta`.
        delta: Probability that the promise doesn't hold.
    """

    num_messages: int
    epsilon: float
    delta: float


def check_accountant() -> None:
    """Refuses where the accountant isn't installed.

    Raises:
        RunError: Says how to install it.
    """
    if importlib.util.find_spec("opacus") is None:
        raise RunError(
            "federation.privacy: needs an accountant that isn't installed; "
            "run `pip install 'tardis_fl[privacy]'`"
        )


def privacy_spent(privacy: PrivacyConfig, num_messages: int) -> PrivacySpent:
    """Adds up what messages cost, by Renyi differential privacy (Mironov 2017).

    Opacus' accountant does the sum. The promise is local: whoever reads a client's messages can't
    tell what data that client had. Nothing is gained by drawing the clients of a round, since the
    server knows who sent.

    Args:
        privacy: As configured.
        num_messages: Of one client.
    """
    if not num_messages:
        return PrivacySpent(0, 0.0, privacy.delta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports, and of orders at the end of its range
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history.append((noise_std(privacy) / sensitivity(privacy), 1.0, num_messages))
        return PrivacySpent(
            num_messages, float(accountant.get_epsilon(privacy.delta)), privacy.delta
        )
