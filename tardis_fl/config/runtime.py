"""Keys of `runtime` and `callbacks`: how this machine is used, and who is called."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import Options, PositiveFloat, PositiveInt, Section
from tardis_fl.federation.callbacks.registry import CALLBACKS


class RuntimeConfig(Section):
    """How this machine is used."""

    engine: Literal["inline", "ray", "deployment"] = "inline"
    """inline: the ServerApp and the ClientApps run in this process and its workers; ray: on
    Flower's simulation engine (extra `ray`); deployment: as processes on this or other machines
    (command `federate`, or `flwr run`)."""
    reply_timeout_s: PositiveFloat = 600.0
    """Seconds after which a node that hasn't replied to a request counts as a dropout (engine
    deployment)."""
    nodes_timeout_s: PositiveFloat = 120.0
    """Seconds to wait for all nodes before the first round (engine deployment)."""
    min_nodes: PositiveInt | None = None
    """Nodes to begin with after nodes_timeout_s; other nodes may join later, and count as dropouts
    until they do (engine deployment); null: as many as there are clients."""
    workers: PositiveInt | None = None
    """Clients that train at a time, each in a process of one thread; with the engine inline, 1
    means in this process, with `threads`; null: as cores, batch size and memory suggest. The
    weights are the same for every number above 1."""
    ray_address: str | None = None
    """Address of a running Ray cluster, such as ray://head:10001 or auto (engine ray); null: Ray is
    started on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training and evaluation compute: cpu, cuda, or auto, which takes a GPU where there is
    one. On a GPU the images are resident."""
    threads: PositiveInt | None = None
    """Threads of this process; null: one for each core that it may use. Worker processes have one
    each."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training: float32, bfloat16, or auto, which takes bfloat16 where the processor
    has instructions for it. Evaluation is always float32."""
    cache_dir: str | None = None
    """Folder for decoded images; null: the user's cache folder. The environment variable
    TARDIS_FL_CACHE takes precedence."""


class CallbackConfig(Section):
    """Something that is called as the run goes on."""

    use: Annotated[str, PluginName(CALLBACKS.names, form=CALLBACKS.form)]
    """early_stop: ends the rounds where an exit no longer gains; json_lines: writes what happens as
    lines of JSON; or MODULE:CLASS, a callback of your own."""
    options: Options = Field(default={})
    """Options of the callback, by the names of its parameters."""
