"""Reference rows: what they hold, that they are comparable, and that only missing ones are trained."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, replace
from statistics import mean, stdev

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from tardis_fl.cli import app
from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.early_exit.network import segments_loss
from tardis_fl.errors import DataError, RunError
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.report.results import Report
from tardis_fl.report.terminal import Screen
from tardis_fl.workflows.experiment import simulate
from tardis_fl.workflows.reference_trainings import command, trainings
from tests.conftest import SMALL, small_config

NAMES = ["centralised", "client_alone", "fedavg", "device_only_training"]


def baselines(folder, *arguments):
    return CliRunner().invoke(
        app, ["baselines", str(folder / "small.yaml"), "--output", str(folder / "run"), *arguments]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with its reference rows, and what the screen showed."""
    folder = tmp_path_factory.mktemp("baselines")
    (folder / "small.yaml").write_text(SMALL)
    done = baselines(folder)
    assert done.exit_code == 0, done.output
    return folder, done.output


@pytest.fixture
def copied(finished, tmp_path):
    """A folder with a copy of the finished run's configuration and report."""
    (tmp_path / "run").mkdir()
    for name in ("small.yaml", "run/config.yaml", "run/report.json"):
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """Replaces the trainings by ones that are done at once, and notes their names; the main job must not run."""
    noted = []

    def instead(name):
        def row(config, num_clients):
            noted.append(name)
            return replace(
                ROW,
                name=name,
                num_runs=min(num_clients, config.federation.num_clients)
                if name == "client_alone"
                else 1,
            )

        return row

    monkeypatch.setattr(command, "ROWS", {name: instead(name) for name in NAMES})
    monkeypatch.setattr(command, "simulate", lambda *_, **__: pytest.fail("the run is there"))
    return noted


ROW = trainings._row("x", [[0.25, 0.5, 0.75]], 0.0, passes=1)


def report_of(folder):
    return Report.read(folder / "run" / "report.json")


def without_rows(folder, *names):
    report = report_of(folder)
    kept = replace(
        report, reference_rows=[row for row in report.reference_rows if row.name not in names]
    )
    (folder / "run" / "report.json").write_text(json.dumps(kept.to_json()))


def test_the_rows_stand_in_the_report_with_their_budget(finished):
    report = report_of(finished[0])
    assert [row.name for row in report.reference_rows] == NAMES
    centralised, alone, fedavg, device = report.reference_rows
    assert [row.passes for row in report.reference_rows] == [
        3,
        3,
        2,
        2,
    ]  # 2 rounds, and a final epoch of the server
    assert [row.num_runs for row in report.reference_rows] == [1, 3, 1, 1]
    assert [row.raw_images_bytes_up for row in report.reference_rows] == [
        report.dataset.num_train * 3072,
        0,
        0,
        0,
    ]
    assert set(centralised.bytes_up.values()) == set(alone.bytes_down.values()) == {0}
    assert (
        fedavg.bytes_up["weights"]
        > device.bytes_up["weights"]
        == report.federation.bytes_up["weights"]
    )
    assert device.bytes_up["features"] == 0
    assert len(alone.accuracy_std) == 3
    assert centralised.accuracy_std is fedavg.accuracy_std is None


def test_device_only_training_trains_the_same_device_segment_as_the_run(finished):
    report = report_of(finished[0])
    assert report.reference_rows[3].accuracy == [report.exits[0].accuracy, None, None]


def test_fedavg_is_the_run_in_which_clients_hold_all_segments(finished, tmp_path):
    other = simulate(
        small_config("federation.client_depth=3", "federation.final_server_epochs=0"),
        tmp_path / "run",
        Screen(Console(file=io.StringIO())),
    )
    row = report_of(finished[0]).reference_rows[2]
    assert row.accuracy == [exit.accuracy for exit in other.exits]
    assert row.bytes_up["weights"] == other.federation.bytes_up["weights"]


def test_a_single_client_alone_is_centralised_training():
    config = small_config(
        "federation.num_clients=1", "federation.rounds=1", "data.synthetic.num_train=80"
    )
    alone, together = trainings.client_alone(config, 10), trainings.centralised(config, 10)
    assert alone.accuracy == together.accuracy
    assert (alone.num_runs, alone.accuracy_std) == (1, None)


def test_client_alone_is_the_mean_over_the_clients_it_drew():
    config = small_config("federation.rounds=1")
    work = open_resources(config.model_dump_json())
    clients = trainings.drawn_clients(config, 2)
    assert len(set(clients)) == 2 and clients == sorted(clients) == trainings.drawn_clients(
        config, 2
    )
    assert trainings.drawn_clients(config, 10) == [0, 1, 2]
    each = [
        trainings.exit_accuracies(
            trainings.train_alone(config, work, work.partition.shard(client).train, stream=client),
            work.dataset,
            config,
        )
        for client in clients
    ]
    row = trainings.client_alone(config, 2)
    assert row.num_runs == 2
    assert row.accuracy == pytest.approx([mean(values) for values in zip(*each, strict=True)])
    assert row.accuracy_std == pytest.approx([stdev(values) for values in zip(*each, strict=True)])


def test_training_alone_is_plain_sgd_with_a_cosine_and_momentum_from_zero_each_epoch():
    config = small_config(
        "federation.num_clients=1",
        "data.synthetic.num_train=80",
        "data.augment=false",
        "model.exit_weights=[1, 0.5, 2]",
    )
    work = open_resources(config.model_dump_json())
    indices, settings = work.partition.shard(0).train, config.federation.client
    ours = trainings.train_alone(config, work, indices, stream=0)

    device = work.data.device
    network, generator = (
        new_network(config, work.dataset.num_classes).to(device),
        torch_generator(config.seed, Purpose.REFERENCE, 0),
    )
    for epoch in range(3):  # 2 rounds and a final epoch
        optimizer = torch.optim.SGD(
            network.parameters(),
            settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / 3)),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
        )
        network.train()
        for positions in torch.randperm(len(indices), generator=generator).split(16):
            chosen = torch.from_numpy(indices)[positions].numpy()
            images, labels = (
                torch.from_numpy(work.dataset.train.images[chosen]),
                torch.from_numpy(work.dataset.train.labels[chosen]),
            )
            loss = segments_loss(
                list(network),
                work.dataset.normalisation(images.to(device)),
                labels.to(device),
                [1, 0.5, 2],
            )[0]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), network.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        (
            [
                "federation.rounds=10",
                "federation.num_clients=4",
                "federation.client_fraction=0.5",
                "federation.local_epochs=2",
            ],
            11,
        ),
        (["federation.rounds=10", "federation.client_depth=3"], 10),
        (
            [
                "federation.rounds=1",
                "federation.num_clients=10",
                "federation.client_fraction=0.1",
                "federation.final_server_epochs=0",
            ],
            1,
        ),
    ],
)
def test_passes_are_those_of_the_whole_run(overrides, passes):
    assert trainings.num_passes(small_config(*overrides)) == passes


def test_the_federated_rows_leave_out_what_the_method_adds():
    config = small_config(
        "federation.proximal_mu=0.1",
        "federation.aggregation.rule=median",
        "federation.local_epochs=2",
        "federation.client_fraction=0.5",
    )
    changed = trainings.plain(config, depth=3).federation
    assert (
        changed.proximal_mu,
        changed.aggregation.rule,
        changed.client_depth,
        changed.final_server_epochs,
    ) == (0, "mean", 3, 0)
    assert (changed.local_epochs, changed.client_fraction, changed.client) == (
        2,
        0.5,
        config.federation.client,
    )


def test_both_texts_and_the_screen_show_the_rows_beside_the_run(finished):
    folder, screen = finished
    report = report_of(folder)
    markdown, html = ((folder / "run" / name).read_text() for name in ("report.md", "report.html"))
    own = " | ".join(f"{100 * exit.accuracy:.1f} %" for exit in report.exits)
    assert f"| **this run** | {own} |" in markdown
    device = f"{100 * report.exits[0].accuracy:.1f} %"
    assert f"| device only training | {device} | - | - | 2.0 |" in markdown
    assert "| client alone, mean of 3 clients |" in markdown
    assert "one dash" not in markdown
    for text in (markdown, html):
        assert "Reference rows: the same data and budget, trained otherwise" in text
    assert html.count("<svg") == 6
    assert f"<td>device only training</td><td>{device}</td><td>-</td><td>-</td><td>2.0</td>" in html
    assert "round 2/2" in screen
    for name in ("centralised", "client alone", "fedavg", "device only training"):
        assert f"\n{name}  " in screen


def test_a_report_without_rows_shows_no_table(tmp_path, finished):
    from tardis_fl.report.render import render_html, render_markdown

    report = replace(report_of(finished[0]), reference_rows=[])
    assert "Reference rows" not in render_markdown(report) + render_html(report)


def test_rows_that_are_there_are_not_trained_again(copied, trained):
    before = (copied / "run" / "report.json").read_bytes()
    assert baselines(copied).exit_code == 0
    assert trained == []
    assert (copied / "run" / "report.json").read_bytes() == before


def test_an_interrupted_command_trains_what_is_missing(copied, trained, monkeypatch):
    without_rows(copied, "client_alone", "fedavg")

    def stopped(config, num_clients):
        raise KeyboardInterrupt

    whole = dict(command.ROWS)
    monkeypatch.setattr(command, "ROWS", {**whole, "fedavg": stopped})
    done = baselines(copied)
    assert done.exit_code == 130
    assert f"stopped; {copied}/run keeps what was complete" in done.stderr
    assert [row.name for row in report_of(copied).reference_rows] == [
        "centralised",
        "client_alone",
        "device_only_training",
    ]
    monkeypatch.setattr(command, "ROWS", whole)
    assert baselines(copied).exit_code == 0
    assert trained == ["client_alone", "fedavg"]
    assert [row.name for row in report_of(copied).reference_rows] == NAMES
    assert "25.0 % | 50.0 % | 75.0 %" in (copied / "run" / "report.md").read_text()


def test_another_number_of_clients_alone_is_trained_anew(copied, trained):
    assert baselines(copied, "--clients", "2").exit_code == 0
    assert trained == ["client_alone"]
    assert report_of(copied).reference_rows[1].num_runs == 2


def test_a_row_that_fails_is_named_and_the_others_are_kept(copied, trained, monkeypatch):
    without_rows(copied, *NAMES)

    def fails(config, num_clients):
        raise RunError("training diverged")

    monkeypatch.setattr(command, "ROWS", {**command.ROWS, "centralised": fails})
    done = baselines(copied)
    assert done.exit_code == 4
    assert "centralised failed: training diverged" in done.output
    assert (
        "error: 1 of 4 reference rows failed (centralised); the other rows are in the report\n"
        in done.stderr
    )
    assert [row.name for row in report_of(copied).reference_rows] == NAMES[1:]


def test_training_that_diverges_is_an_error():
    config = small_config(
        "federation.num_clients=1",
        "federation.client.learning_rate=1e30",
        "data.synthetic.num_train=80",
    )
    with pytest.raises(
        RunError,
        match=r"training diverged \(weights are not finite\); lower federation.client.learning_rate",
    ):
        trainings.centralised(config, 1)


def test_a_run_of_another_configuration_is_refused(copied, trained):
    done = baselines(copied, "--set", "federation.rounds=3", "--set", "model.width=8")
    assert done.exit_code == 2
    assert (
        "holds a run of another configuration (model.width: 4 there, 8 here; federation.rounds: 2 there, 3 here). Choose another folder"
        in done.stderr
    )
    assert baselines(copied, "--set", "name=other").exit_code == 0
    assert trained == []


def test_a_configuration_of_another_version_is_refused(copied, trained):
    (copied / "run" / "config.yaml").write_text("name: x\nfuture: 1\n")
    done = baselines(copied)
    assert done.exit_code == 2
    assert (
        "holds a run whose config.yaml can't be read by this version. Choose another folder"
        in done.stderr
    )
    assert "future: got an unknown key" in done.stderr


def test_a_report_is_read_back_exactly(finished):
    text = (finished[0] / "run" / "report.json").read_text()
    report = Report.from_json(text)
    assert report.reference_rows
    assert json.dumps(report.to_json(), indent=2) + "\n" == text
    assert asdict(Report.from_json(json.dumps(report.to_json()))) == asdict(report)


def test_a_damaged_report_says_what_is_wrong(copied):
    path = copied / "run" / "report.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    with pytest.raises(
        DataError,
        match=r"report.json: is no whole report of this version of tardis_fl \(Invalid JSON: EOF",
    ):
        Report.read(path)
    assert baselines(copied).exit_code == 3
    content = json.loads(whole)
    for change, message in [
        (
            lambda report: report.pop("exits"),
            r"is no whole report of this version of tardis_fl \(exits: Field required\)",
        ),
        (
            lambda report: report["exits"][0].update(macs="many"),
            r"\(exits.0.macs: Input should be a valid integer\)",
        ),
        (
            lambda report: report["exits"][1].update(colour=1),
            r"of another version of tardis_fl \(it has the key exits.1.colour, which this one doesn't know\)",
        ),
    ]:
        changed = json.loads(json.dumps(content))
        change(changed)
        with pytest.raises(DataError, match=message):
            Report.from_json(json.dumps(changed))
