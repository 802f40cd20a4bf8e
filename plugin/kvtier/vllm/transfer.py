"""How blocks get from the engine's memory to kvtierd and back; chosen once, when the engine starts."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.logger import init_logger

from kvtier import library
from kvtier.settings import Settings
from kvtier.vllm import staged
from kvtier.vllm.identity import Refused
from kvtier.vllm.layout import Layout, canary
from kvtier.vllm.staging import Area, module_of

logger = init_logger('vllm.kvtier')

NOWHERE = '/dev/null/kv.sock'


@dataclass
class Transfer:
    """What opens clients that move blocks in the way that was chosen."""
    open: Callable[[library.Options], Any]
    staging_bytes: int


def transfer_of(layout: Layout, settings: Settings) -> Transfer:
    """Refused where the setting asks for what this memory does not allow."""
    chosen = settings.transfer
    is_host = torch.device(layout.device).type == 'cpu'
    if chosen == 'direct' and not is_host:
        raise Refused(f'transfer is "direct", and the KV cache lies on {layout.device}',
                      'set transfer to "auto" or "staging"')
    why = 'as transfer says' if chosen != 'auto' else f'the KV cache lies on {layout.device}'
    if chosen == 'direct' or (chosen == 'auto' and is_host):
        logger.info('kvtier: blocks go directly between the KV cache and kvtierd (%s)', why)
        return Transfer(library.Client, 0)
    area = Area(layout, settings.staging_bytes, module_of(layout.device))
    logger.info('kvtier: blocks go through a staging area of %d MiB of host memory (%s)',
                settings.staging_bytes >> 20, why)
    return Transfer(lambda options: staged.Client(options, area), settings.staging_bytes)


def prove(layout: Layout, kv_caches: dict[str, Any], kv_cache_config: Any,
          options: library.Options, transfer: Transfer) -> None:
    """A canary through a client that has no daemon: the library and the engine see one block alike.

    Once, before anything runs: every block is free then.
    """
    client = transfer.open(replace(options, socket=NOWHERE, connect_us_max=1))
    try:
        canary(layout, kv_caches, kv_cache_config,
               lambda group, block: client.block_read(group, block,
                                                      options.groups[group].payload_bytes),
               client.block_write)
    finally:
        client.close()
