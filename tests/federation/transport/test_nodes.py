"""Real nodes that are late, gone, strange or hang: whom the server asks, and what it waits for."""

from __future__ import annotations

import threading

import pytest
from flwr.app import Error, Message, RecordDict

from tardis_fl.data.sources import load_dataset
from tardis_fl.errors import RunError
from tardis_fl.federation.client import app as client_app
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.server.app import meet_nodes
from tardis_fl.federation.transport import exchange as exchange
from tardis_fl.federation.transport import handshake as handshakes
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.exchange import MessageExchange
from tests.conftest import small_config

REAL = ("runtime.engine=deployment", "runtime.reply_timeout_s=0.5", "runtime.nodes_timeout_s=0.2")


class Connected(InlineGrid):
    """Nodes 1 to N of which some are connected, some never answer, and some can't be reached."""

    def __init__(self, num_nodes, *, ids=None):
        super().__init__(client_app.app, num_nodes)
        self.ids, self.silent, self.unreachable, self.requests = (
            set(ids or range(1, num_nodes + 1)),
            set(),
            set(),
            {},
        )

    def get_node_ids(self):
        return sorted(self.ids)

    def push_messages(self, messages):
        sent = list(messages)
        ids = super().push_messages(sent)
        self.requests |= dict(zip(ids, sent, strict=True))
        return ids

    def pull_messages(self, message_ids):
        nodes = {
            message_id: self.requests[message_id].metadata.dst_node_id for message_id in message_ids
        }
        for message_id, node in nodes.items():
            if node in self.unreachable:
                return [Message(Error(5, "Node unavailable"), reply_to=self.requests[message_id])]
        return super().pull_messages(
            [message_id for message_id, node in nodes.items() if node not in self.silent]
        )


@pytest.fixture(autouse=True)
def ask_again_at_once(monkeypatch):
    monkeypatch.setattr(handshakes, "SECONDS_BETWEEN_ATTEMPTS", 0.0)


def meet(grid, *overrides):
    """Lets a server meet a grid's nodes; returns its fleet and what it noticed."""
    config, notes = small_config(*REAL, *overrides), []
    return meet_nodes(grid, config, load_dataset(config), notes.append), notes


def who_answers(fleet, number=1):
    """Returns the clients that a fleet reaches: those of whom it knows a node, whatever the answer."""
    replies = list(fleet.ask(messages.STATISTICS, [0, 1, 2], round_number=number))
    return [reply.client for reply in replies if reply.kind != "dropout"]


@pytest.mark.parametrize("trouble", ["silent", "unreachable"])
def test_a_dead_node_at_the_start_does_not_end_a_run_that_can_begin_without_it(trouble):
    grid = Connected(3)
    getattr(grid, trouble).add(3)
    fleet, notes = meet(grid, "runtime.min_nodes=2")
    assert notes == ["beginning without the clients 2, whose nodes aren't connected"]
    assert who_answers(fleet) == [0, 1]


def test_a_silent_node_of_a_run_that_needs_it_is_named():
    grid = Connected(3)
    grid.silent.add(2)
    with pytest.raises(
        RunError,
        match=r"1 of 3 connected nodes didn't tell which client they are within 0.5 s \(runtime.reply_timeout_s\); 2 can take part, wanted 3",
    ):
        meet(grid)


def test_too_few_nodes_are_counted():
    with pytest.raises(
        RunError,
        match=r"^2 nodes are connected after 0.2 s \(runtime.nodes_timeout_s\); wanted 3 \(one for each of federation.num_clients\)$",
    ):
        meet(Connected(3, ids=[1, 2]))


def test_a_newcomer_that_is_slow_to_introduce_itself_holds_nobody_up_and_joins_when_it_has():
    grid = Connected(3, ids=[1, 2])
    fleet, notes = meet(grid, "runtime.min_nodes=2", "runtime.reply_timeout_s=600")
    grid.ids.add(3)
    grid.silent.add(3)
    assert who_answers(fleet, 1) == [0, 1]
    grid.silent.clear()
    assert who_answers(fleet, 2) == [0, 1, 2]
    assert notes[-1] == "node 3 joined as client 2"


def test_a_newcomer_that_could_not_be_reached_is_asked_again():
    grid = Connected(3, ids=[1, 2])
    fleet, _ = meet(grid, "runtime.min_nodes=2")
    grid.ids.add(3)
    grid.unreachable.add(3)
    assert who_answers(fleet, 1) == [0, 1]
    grid.unreachable.clear()
    assert who_answers(fleet, 2) == [0, 1, 2]


def test_a_node_that_comes_back_as_another_client_is_that_client():
    """A node with a key keeps its id, whatever partition-id it is started with again."""
    fleet, notes = meet(grid := Connected(3), "runtime.min_nodes=1")
    grid.ids.discard(3)
    assert who_answers(fleet, 1) == [0, 1]
    original, grid.pull_messages = (
        grid.pull_messages,
        lambda ids: [as_client(reply, 1) for reply in original(ids)],
    )
    grid.ids.add(3)
    who_answers(fleet, 2)
    assert (
        notes[-1]
        == "node 3 joined as client 1, in place of 2; that one is connected too, so two nodes may have one partition-id"
    )
    assert [fleet.node_label(client) for client in range(3)] == [1, 3, None]


def as_client(reply, client):
    if not reply.has_error() and messages.IDENTITY in reply.content.config_records:
        reply.content.config_records[messages.IDENTITY]["client"] = client
    return reply


def test_a_node_beyond_the_clients_is_left_out_and_named():
    fleet, notes = meet(Connected(4))
    assert notes == [
        "node 4 isn't asked, since it can't tell which client it is: "
        "RuntimeError: this node's partition-id is 3; wanted 0 to 2 (federation.num_clients), in --node-config"
    ]
    assert who_answers(fleet) == [0, 1, 2]


def test_where_all_that_are_there_are_needed_one_that_cannot_tell_ends_the_run_at_once():
    class Shifted(Connected):
        def pull_messages(self, message_ids):
            return [
                as_client(reply, reply.content.config_records[messages.IDENTITY]["client"] + 1)
                for reply in super().pull_messages(message_ids)
            ]

    with pytest.raises(
        RunError,
        match=r"node 3 can't take part, and 3 nodes are wanted \(one .*\): it says that it is client 3; wanted 0 to 2",
    ):
        meet(Shifted(3), "runtime.nodes_timeout_s=600")


def test_two_nodes_of_one_client_end_the_run_at_the_start():
    class Twins(Connected):
        def pull_messages(self, message_ids):
            return [as_client(reply, 1) for reply in super().pull_messages(message_ids)]

    with pytest.raises(
        RunError, match="two nodes are client 1: give each node a partition-id of its own"
    ):
        meet(Twins(3))


@pytest.mark.parametrize("back_as", [2, 4])
def test_a_node_that_is_lost_and_comes_back_before_the_start_is_one_client(back_as):
    """With its key it has the id that it had, else a new one."""

    class Flickering(Connected):
        seen = iter([{1, 2}, {1, 2}, {1}, {1}, {1, back_as}])

        def get_node_ids(self):
            return sorted(next(self.seen, {1, back_as, 3}))

        def pull_messages(self, message_ids):
            return [
                as_client(reply, 1)
                if self.requests[reply.metadata.reply_to_message_id].metadata.dst_node_id == 4
                else reply
                for reply in super().pull_messages(message_ids)
            ]

    config = small_config(
        *REAL, "federation.num_clients=4", "runtime.min_nodes=3", "runtime.nodes_timeout_s=2"
    )
    fleet = meet_nodes(Flickering(4), config, load_dataset(config), print)
    assert [fleet.node_label(client) for client in range(3)] == [1, back_as, 3]


def test_an_answer_that_cannot_be_read_shuts_out_its_node_alone():
    class Odd(Connected):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            for reply in replies:
                if self.requests[reply.metadata.reply_to_message_id].metadata.dst_node_id == 3:
                    reply.content.config_records[messages.IDENTITY]["what"] = 1
            return replies

    fleet, notes = meet(Odd(3), "runtime.min_nodes=2")
    assert (
        "node 3 isn't asked, since it can't tell which client it is: its answer can't be read (TypeError"
        in notes[0]
    )
    assert who_answers(fleet) == [0, 1]


class Hanging:
    """A grid of three requests, of which the reply to one never comes whole."""

    def __init__(self):
        self.over = threading.Event()

    def push_messages(self, messages):
        return ["a", "b", "c"]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        if message_id == "a":
            self.over.wait(60)
        return [] if message_id == "c" else [f"reply to {message_id}"]


def test_a_reply_that_never_comes_whole_holds_up_no_other(monkeypatch):
    monkeypatch.setattr(exchange, "PATIENCE_SECONDS", 0.1)
    post = MessageExchange(grid := Hanging(), real=True)
    assert list(post.arrived(["a", "b", "c"])) == ["reply to b"]
    assert list(post.arrived(["a", "c"])) == []
    grid.over.set()
    monkeypatch.setattr(exchange, "PATIENCE_SECONDS", 60)
    while not (came := list(post.arrived(["a", "c"]))):
        pass
    assert came == ["reply to a"]


def test_what_goes_wrong_in_fetching_is_raised_where_it_is_waited_for():
    class Broken(Hanging):
        def pull_messages(self, message_ids):
            raise RunError("the run was stopped")

    with pytest.raises(RunError, match="the run was stopped"):
        list(MessageExchange(Broken(), real=True).arrived(["a"]))


class DyingWhileItSends:
    """Passes on to an inline grid; the reply of node 2 to anything but who it is never comes whole."""

    def __init__(self, num_nodes):
        self.inner, self.over, self.stuck, self.lock, self.refuses = (
            Connected(num_nodes),
            threading.Event(),
            set(),
            threading.Lock(),
            False,
        )

    def get_node_ids(self):
        return self.inner.get_node_ids()

    def push_messages(self, messages):
        sent = list(messages)
        ids = self.inner.push_messages(sent)
        self.stuck |= {
            i
            for i, m in zip(ids, sent, strict=True)
            if m.metadata.dst_node_id == 2 and m.metadata.message_type != "query.identify"
        }
        self.ttls = [message.metadata.ttl for message in sent]
        return [None if self.refuses and i in self.stuck else i for i in ids]

    def pull_messages(self, message_ids):
        if set(message_ids) & self.stuck:
            self.over.wait(60)
            return []
        with self.lock:
            return self.inner.pull_messages(message_ids)


def test_a_node_that_dies_while_it_sends_drops_out_alone(monkeypatch):
    monkeypatch.setattr(exchange, "PATIENCE_SECONDS", 0.2)
    fleet, _ = meet(grid := DyingWhileItSends(3))
    replies = list(fleet.ask(messages.STATISTICS, [0, 1, 2], round_number=1))
    assert [reply.kind for reply in replies] == ["error", "dropout", "error"]
    assert replies[1].error == "no answer within 0.5 s (runtime.reply_timeout_s)"
    assert not grid.over.is_set()
    assert not fleet._exchange._slow  # the reply isn't kept when it comes after all
    assert (
        grid.ttls == [pytest.approx(60.5)] * 3
    )  # a node that comes back later isn't to work for a round that is over
    grid.over.set()


def test_a_request_that_flower_does_not_take_is_a_dropout():
    fleet, _ = meet(grid := DyingWhileItSends(3))
    grid.refuses = True
    replies = list(fleet.ask(messages.STATISTICS, [0, 1, 2], round_number=1))
    assert [(reply.kind, reply.error) for reply in replies][1] == (
        "dropout",
        "Flower's SuperLink didn't take the request",
    )
    assert [reply.kind for reply in replies][::2] == ["error", "error"]


def lacking(monkeypatch, module):
    """Lets a server have a plug-in that its nodes lack."""
    monkeypatch.setattr("tardis_fl.config.checks.plugins.plugin_problems", lambda modules: [])
    return f"plugins=[{module}]"


def test_a_node_without_a_plug_in_says_which_before_training(monkeypatch):
    with pytest.raises(RunError) as caught:
        meet(Connected(3), lacking(monkeypatch, "my_package.my_plugins"))
    assert str(caught.value) == (
        "node 1 can't take part, and 3 nodes are wanted (one for each of federation.num_clients): "
        "it (client 0) lacks the plug-in my_package.my_plugins: No module named 'my_package'; install it there"
    )


def test_a_plug_in_that_fails_on_the_node_is_named_with_its_place(monkeypatch, tmp_path):
    (tmp_path / "fails_on_a_node.py").write_text("\nraise OSError('no disk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        RunError,
        match=r"it \(client 0\) can't import the plug-in fails_on_a_node: OSError: no disk \(.*fails_on_a_node.py:2\)$",
    ):
        meet(Connected(3), lacking(monkeypatch, "fails_on_a_node"))


class OneLacks(Connected):
    """Of its nodes the third lacks a plug-in that the others have."""

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        for number, reply in enumerate(replies):
            request = self.requests[reply.metadata.reply_to_message_id]
            if request.metadata.dst_node_id == 3:
                unable = handshakes.Unable(
                    2, ("lacks the plug-in p: No module named 'p'; install it there",)
                )
                content = RecordDict({messages.IDENTITY: unable.to_record()})
                replies[number] = Message(content, reply_to=request)
        return replies


def test_one_node_without_it_is_left_out_where_the_others_are_enough():
    fleet, notes = meet(OneLacks(3), "runtime.min_nodes=2")
    assert notes == [
        "node 3 isn't asked, since it (client 2) lacks the plug-in p: No module named 'p'; install it there",
        "beginning without the clients 2, whose nodes aren't connected",
    ]
    assert who_answers(fleet) == [0, 1]
