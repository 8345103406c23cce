"""Local differential privacy: what the mod does to an update, what it costs, and what is named as a leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from scipy.optimize import brentq
from scipy.stats import norm

from tardis_fl.config.federation import PrivacyConfig
from tardis_fl.data.sources import load_dataset
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.client.resources import new_network
from tardis_fl.federation.conditions.privacy import (
    check_accountant,
    noise_std,
    privacy_spent,
    private_weights,
)
from tardis_fl.federation.engines.inline import InlineGrid, take_identity
from tardis_fl.federation.server.app import meet_nodes
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.weights import HeldWeights
from tardis_fl.report.privacy import _leaks
from tardis_fl.workflows.experiment import simulate
from tests.conftest import small_config
from tests.federation.conftest import Recorder, federate
from tests.federation.test_rounds import same_weights
from tests.runs.test_resume import StopError, quiet, stop_after

PRIVATE = ("model.norm=group", "federation.privacy={clip_norm: 0.5, epsilon: 20.0, delta: 1.0e-5}")
COUNT = 20_000


def through_the_mod(update, *overrides, round_number=1, client=0, start=0.0):
    """Sends weights `start`, lets a client answer with `update`, and returns what the server gets."""
    take_identity()
    config = small_config(*PRIVATE, *overrides)
    sent = {
        "0.body.float32": torch.full((COUNT,), start),
        "1.body.float32": torch.zeros(3),
    }  # the client sends back less than it got
    content = RecordDict(
        {
            messages.INSTRUCTION: messages.instruction(
                config.model_dump_json(), round=round_number
            ),
            messages.WEIGHTS: messages.pack_tensors(sent),
        }
    )
    message = Message(content, dst_node_id=1, message_type="train")
    context = Context(
        run_id=0,
        node_id=1,
        node_config={"partition-id": client, "num-partitions": 3},
        state=RecordDict(),
        run_config={},
    )
    reply = private_weights(
        message,
        context,
        lambda *_: Message(
            RecordDict({messages.WEIGHTS: messages.pack_tensors({"0.body.float32": update})}),
            reply_to=message,
        ),
    )
    assert message.content is content
    return messages.unpack_tensors(reply.content.array_records[messages.WEIGHTS])[
        "0.body.float32"
    ].double()


def test_an_update_is_clipped_and_gets_noise_of_the_stated_deviation():
    privacy = small_config(*PRIVATE).federation.privacy
    assert noise_std(privacy) == pytest.approx(
        1.0 * math.sqrt(2 * math.log(1.25e5)) / 20.0
    )  # sensitivity 2 x 0.5
    direction = torch.ones(COUNT) / math.sqrt(COUNT)
    change = through_the_mod(3.0 + 100 * direction, start=3.0) - 3.0
    along = float(change @ direction.double())
    assert along == pytest.approx(
        0.5, abs=4 * noise_std(privacy)
    )  # not 100: of the noise, one standard deviation lies along any direction
    assert float(change.std()) == pytest.approx(noise_std(privacy), rel=0.03)
    small = through_the_mod(3.0 + 0.1 * direction, start=3.0) - 3.0
    assert float((small - change) @ direction.double()) == pytest.approx(
        0.1 - 0.5, abs=1e-3
    )  # the same noise: same seed, round and client


def test_an_update_of_zeros_is_noise_alone():
    assert torch.isfinite(through_the_mod(torch.zeros(COUNT))).all()


def test_noise_follows_seed_round_and_client_and_leaves_numpys_generator_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    update = torch.zeros(COUNT)
    first = through_the_mod(update)
    assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(first, through_the_mod(update))
    others = [
        through_the_mod(update, round_number=2),
        through_the_mod(update, client=1),
        through_the_mod(update, "seed=4"),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_noise_on_real_nodes_cannot_be_drawn_again():
    update = torch.zeros(COUNT)
    assert not torch.equal(
        through_the_mod(update, "runtime.engine=deployment"),
        through_the_mod(update, "runtime.engine=deployment"),
    )


def exact_epsilon(multiplier, count, delta):
    """Of Gaussian noise, composed: Balle and Wang 2018, theorem 8."""
    mu = math.sqrt(count) / multiplier

    def excess(epsilon):
        return (
            norm.cdf(mu / 2 - epsilon / mu)
            - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
            - delta
        )

    return brentq(excess, 0, 500)


@pytest.mark.parametrize(("epsilon", "count"), [(0.5, 1), (0.5, 30), (4.0, 10)])
def test_the_accountant_is_an_upper_bound_of_the_exact_budget_and_close_to_it(epsilon, count):
    privacy = PrivacyConfig(clip_norm=2.0, epsilon=epsilon, delta=1e-5)
    spent = privacy_spent(privacy, count)
    exact = exact_epsilon(noise_std(privacy) / 4.0, count, 1e-5)
    assert exact <= spent.epsilon <= 1.35 * exact
    assert (spent.num_messages, spent.delta) == (count, 1e-5)


def test_nothing_sent_costs_nothing():
    assert privacy_spent(PrivacyConfig(clip_norm=1.0, epsilon=1.0), 0).epsilon == 0


def test_private_runs_repeat_and_differ_from_others():
    config = small_config(*PRIVATE, "federation.client_depth=3", "federation.client_exits=last")
    recorder = Recorder()
    first, second = federate(config, recorder), federate(config)
    assert not recorder.failures
    assert same_weights(first, second)
    assert not same_weights(
        first,
        federate(
            small_config(
                "model.norm=group", "federation.client_depth=3", "federation.client_exits=last"
            )
        ),
    )


def test_noise_on_features_changes_what_the_server_learns_and_nothing_else():
    clean, noisy = federate(small_config()), federate(small_config("federation.feature_noise=0.5"))
    for name, tensor in clean.network.state_dict().items():
        if name.startswith("0."):
            assert torch.equal(tensor, noisy.network.state_dict()[name]), name
    assert not same_weights(clean, noisy)
    assert clean.ledger.up[messages.FEATURES_KIND] == noisy.ledger.up[messages.FEATURES_KIND]


def features_of_a_node(secret_numbers, monkeypatch, *overrides):
    """Returns the features that a node sends in a round, as often as it draws numbers of its own."""
    drawn = iter(secret_numbers)
    monkeypatch.setattr("secrets.token_hex", lambda length: f"{next(drawn) * 2**64:0{2 * length}x}")
    config = small_config(
        "runtime.engine=deployment", "federation.feature_codec=float32", *overrides
    )
    fleet = meet_nodes(InlineGrid(client_app.app, 3), config, load_dataset(config), print)
    weights = HeldWeights(list(new_network(config, 10))).flatten()
    sent = []
    for _ in range(2):
        (reply,) = fleet.ask(
            messages.FEATURES,
            [1],
            round_number=1,
            weights=weights,
            max_depth=1,
            fraction=1.0,
            first=0,
        )
        sent.append(
            messages.unpack_tensors(reply.content.array_records[messages.FEATURES_KIND])["values"]
        )
    assert torch.equal(*sent), "a question that is asked again gets the same noise"
    return sent[0]


def test_noise_on_features_of_a_real_node_cannot_be_drawn_by_the_server(monkeypatch):
    noise = "federation.feature_noise=0.5"
    one, other = (
        features_of_a_node([1], monkeypatch, noise),
        features_of_a_node([2], monkeypatch, noise),
    )
    assert not torch.equal(one, other)  # of the same run, seed and round
    assert torch.equal(one, features_of_a_node([1], monkeypatch, noise))
    assert torch.equal(features_of_a_node([], monkeypatch), features_of_a_node([], monkeypatch))


def test_updates_of_a_round_that_was_begun_twice_are_paid_for_twice_on_real_nodes(tmp_path):
    def spent(name, *overrides, kills=()):
        config = small_config(
            *PRIVATE, "federation.client_depth=3", "federation.rounds=3", *overrides
        )
        grid = InlineGrid(client_app.app, 3) if config.runtime.engine == "deployment" else None
        for number, (method, count) in enumerate(kills):
            with pytest.MonkeyPatch.context() as patch:
                stop_after(patch, method, count)
                with pytest.raises(StopError):
                    simulate(config, tmp_path / name, quiet(), resume=number > 0, grid=grid)
        return simulate(
            config, tmp_path / name, quiet(), resume=bool(kills), grid=grid
        ).privacy.local.num_messages

    real, kills = "runtime.engine=deployment", [("append_round", 2), ("append_round", 1)]
    assert spent("whole", real) == 3
    assert spent("resumed", real, kills=kills) == 5  # the second round was begun three times
    assert spent("first", real, kills=[("append_round", 1)]) == 4
    assert spent("simulated", kills=kills) == 3  # the same updates, bit for bit


def test_what_leaves_without_noise_is_named():
    def leaks(*overrides):
        return " ".join(leak.what for leak in _leaks(small_config(*overrides)))

    assert "mean and variance of the training images at every norm layer" in leaks(
        "federation.recalibrate_norm=true"
    )
    assert "mean and variance" not in leaks()
    assert "with their labels, in evaluations, without noise" in leaks(
        "federation.feature_noise=0.5"
    )
    assert "how many have which score, without noise" in leaks("federation.calibration=sums")
    assert "traceback" in leaks("runtime.engine=deployment")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ("federation.privacy={clip_norm: 1.0, epsilon: 1.0}",),
            r"model.norm 'batch' sends running statistics of the images with the weights; wanted model.norm: group",
        ),
        (
            (*PRIVATE, "federation.split=true"),
            "split training sends features and gets their gradients at each step",
        ),
        (
            ("federation.feature_noise=0.5", "federation.client_depth=3"),
            "no features travel in training, so it has no effect; remove it",
        ),
        (("federation.privacy={clip_norm: 1.0}",), "federation.privacy.epsilon"),
    ],
)
def test_what_privacy_cannot_cover_is_refused(overrides, text):
    with pytest.raises(ConfigError, match=text):
        small_config(*overrides)


def test_a_missing_accountant_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        RunError,
        match=r"needs an accountant that isn't installed; run `pip install 'tardis_fl\[privacy\]'`",
    ):
        check_accountant()
