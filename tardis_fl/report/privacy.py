"""What leaves the clients and may tell about their images, and what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tardis_fl.config.schema import Config
from tardis_fl.federation.conditions.population import Population
from tardis_fl.federation.conditions.privacy import noise_std, privacy_spent
from tardis_fl.federation.rounds import Trained
from tardis_fl.report.results import LeakResult, LocalPrivacyResult, PrivacyResult


def privacy_result(
    config: Config, trained: Trained, begun_rounds: Sequence[int] = ()
) -> PrivacyResult:
    """Names what left the clients of a run, and adds up the privacy that its weights cost.

    Args:
        config: The run's configuration.
        trained: What the run left.
        begun_rounds: Rounds that were begun and not completed: on real nodes, whose noise is new
            each time, their updates may have been sent too. A simulated client sends the same
            again, which tells nothing new.
    """
    privacy, chosen = (
        config.federation.privacy,
        Counter(client for record in trained.rounds for client in record.clients),
    )
    if privacy is None:
        return PrivacyResult(list(_leaks(config)), None)
    if config.runtime.engine == "deployment":
        population = Population(config.federation.population, config.seed)
        chosen.update(client for number in begun_rounds for client in population.choose(number))
    spent = privacy_spent(privacy, max(chosen.values(), default=0))
    local = LocalPrivacyResult(
        privacy.clip_norm,
        noise_std(privacy),
        privacy.epsilon,
        privacy.delta,
        spent.num_messages,
        spent.epsilon,
    )
    return PrivacyResult(list(_leaks(config)), local)


def _leaks(config: Config) -> Iterator[LeakResult]:
    federation = config.federation
    deepest_held = min(group.depth for group in config.groups)
    if federation.privacy is None:
        yield LeakResult(
            "weights after training on a client's images",
            "federation.privacy clips them and adds noise",
        )
    if federation.server_training == "features" and config.server_start < config.num_segments:
        noisy = (
            f" (with noise of {federation.feature_noise:g} times their own deviation)"
            if federation.feature_noise
            else ""
        )
        none = "federation.server_training: proxy or none sends none"
        fewer = (
            ""
            if federation.split
            else ", federation.feature_fraction fewer, federation.feature_noise noisy ones"
        )
        yield LeakResult(f"features of training images with their labels{noisy}", none + fewer)
    if deepest_held < config.num_segments:
        yield LeakResult(
            "features of held-out images with their labels, in evaluations, without noise",
            "a federation.client_depth of all segments sends none, federation.evaluate_every fewer",
        )
    if not config.calibrates_by_sums:
        what = "logits and labels of held-out images" + (
            ", and features for deeper exits" if deepest_held < config.num_segments else ""
        )
        yield LeakResult(
            f"{what}, for temperatures and thresholds, without noise",
            "federation.calibration: sums sends sums over them",
        )
    else:
        yield LeakResult(
            "sums over held-out images, for temperatures and thresholds: losses, and how many have which score, without noise",
            "nothing yet",
        )
    if federation.recalibrate_norm:
        yield LeakResult(
            "mean and variance of the training images at every norm layer, without noise",
            "federation.recalibrate_norm: false sends none",
        )
    if config.nodes_keep_images:
        yield LeakResult("how many images of each class each client has", "nothing yet")
    yield LeakResult("counts of samples, losses and right answers, without noise", "nothing yet")
    if config.runtime.engine == "deployment":
        yield LeakResult(
            "a checksum of the node's images, and the traceback where a client fails", "nothing yet"
        )
