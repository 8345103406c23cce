"""Local differential privacy of the weights that clients send, by Flower's own mod, and how much of it is spent."""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
    """Returns how far apart two updates can be that a client might send: each is clipped to a norm, and they may point apart."""
    return 2 * privacy.clip_norm


def noise_std(privacy: PrivacyConfig) -> float:
    """Returns the standard deviation of the noise on each weight, as `LocalDpMod` has it (Dwork and Roth 2014, theorem A.1)."""
    return sensitivity(privacy) * math.sqrt(2 * math.log(1.25 / privacy.delta)) / privacy.epsilon


def private_weights(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Is a Flower mod for messages that train: where privacy is configured, clips the reply's update and adds noise.

    The noise is drawn from the run's seed on engines that simulate, so that a run repeats, and from
    the operating system on real
    nodes: noise that somebody else can draw hides nothing.
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
        with _noise(
            config,
            int(sent.config_records[messages.INSTRUCTION]["round"]),
            int(context.node_config["partition-id"]),
        ):
            return mod(message, context, lambda *_: reply)
    finally:
        message.content = sent


def _nudged(record: ArrayRecord) -> ArrayRecord:
    """Returns weights of which one has moved by a hair: the mod divides an update by its norm, which must not be 0."""
    tensors = messages.unpack_tensors(record)
    first = next(iter(tensors.values()))
    first[0] += NUDGE * max(1.0, abs(float(first[0])))
    return messages.pack_tensors(tensors)


@contextmanager
def _noise(config: Config, round_number: int, client: int) -> Iterator[None]:
    """Prepares NumPy's global generator, which the mod draws from, and leaves it as it was; keeps the mod from logging."""
    state, logger = np.random.get_state(), logging.getLogger("flwr")
    level = logger.level
    real = config.runtime.engine == "deployment"
    np.random.seed(
        None if real else integer_seed(config.seed, Purpose.PRIVACY, round_number, client) % 2**32
    )
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
            "federation.privacy: needs an accountant that isn't installed; run `pip install 'tardis_fl[privacy]'`"
        )


def privacy_spent(privacy: PrivacyConfig, num_messages: int) -> PrivacySpent:
    """Adds up what messages cost, by Opacus' accountant of Renyi differential privacy (Mironov 2017).

    The promise is local: whoever reads a client's messages can't tell what data that client had.
        Nothing is gained by who is chosen for a round, since the server knows who sent.

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
