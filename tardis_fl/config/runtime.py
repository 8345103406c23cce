"""Keys of `runtime` and `callbacks`: how this machine is used, and who is called."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import Options, PositiveFloat, PositiveInt, Section


class RuntimeConfig(Section):
    """How to use this machine."""

    engine: Literal["inline", "ray", "deployment"] = "inline"
    """inline: ServerApp and ClientApps in this process and its workers; ray: on Flower's simulation
    engine (extra `ray`); deployment: as processes on this or other machines (command `federate`, or
    `flwr run`)."""
    reply_timeout_s: PositiveFloat = 600.0
    """Seconds after which a node that hasn't answered a request is left out of it (engine
    deployment)."""
    nodes_timeout_s: PositiveFloat = 120.0
    """Seconds to wait for all nodes before the first round (engine deployment)."""
    min_nodes: PositiveInt | None = None
    """Nodes to begin with after nodes_timeout_s; others may join later, and count as dropouts until
    they do; null: as many as there are clients."""
    workers: PositiveInt | None = None
    """Clients that train at a time, each in a process of one thread; 1 on the engine inline: in
    this process, with `threads`; null: as cores, batch size and memory suggest. Weights don't
    depend on how many there are above 1."""
    ray_address: str | None = None
    """Address of a Ray cluster that is already there, such as ray://head:10001 or auto (engine
    ray); null: Ray is started on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training and evaluation compute; auto: on a GPU where there is one, with the images
    resident on it."""
    threads: PositiveInt | None = None
    """Threads this process computes with; null: as many as there are cores to use. Worker processes
    have one each."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training; auto: bfloat16 where the processor has instructions for it.
    Evaluation is always float32."""
    cache_dir: str | None = None
    """Folder for decoded images; null: the user's cache folder (TARDIS_FL_CACHE wins)."""


class CallbackConfig(Section):
    """Something that is called as the run goes on."""

    use: Annotated[str, PluginName(tuple, form="MODULE:CLASS")]
    """Name of a callback, or MODULE:CLASS, your own."""
    options: Options = Field(default={})
    """The callback's options: the parameters of the class."""
