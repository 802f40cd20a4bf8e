"""How blocks get from the engine's memory to kvtierd and back; chosen once, when the engine starts."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.logger import init_logger

from kvtier import library
from kvtier.device import DeviceError
from kvtier.settings import Settings
from kvtier.vllm import lent, staged
from kvtier.vllm.identity import Refused
from kvtier.vllm.layout import Layout, canary
from kvtier.vllm.staging import Area, module_of

logger = init_logger('vllm.kvtier')

NOWHERE = '/dev/null/kv.sock'


@dataclass
class Transfer:
    """What opens clients that move blocks in the way that was chosen."""
    open: Callable[[library.Options], Any]
    staging_bytes: int = 0
    is_pull: bool = False


def transfer_of(layout: Layout, kv_caches: dict[str, Any], kv_cache_config: Any,
                options: library.Options, settings: Settings) -> Transfer:
    """Chosen and proven. Refused where the setting asks for what this memory does not allow, or
    where the library and the engine do not mean the same bytes."""
    chosen = settings.transfer
    is_host = torch.device(layout.device).type == 'cpu'
    why = f'transfer is "{chosen}"' if chosen != 'auto' else f'the KV cache lies on {layout.device}'
    if (chosen == 'direct' and not is_host) or (chosen == 'pull' and is_host):
        raise Refused(f'{why}, and the KV cache lies on {layout.device}',
                      'set transfer to "auto" or "staging"')
    if chosen == 'pull' or (chosen == 'auto' and not is_host):
        pull, reason = _pull(layout, kv_caches, options)
        if pull is not None:
            logger.info('kvtier: kvtierd copies blocks from and to %s itself (%s)',
                        layout.device, why)
            return pull
        if chosen == 'pull':
            raise Refused(f'kvtierd cannot copy from and to the GPU itself: {reason}',
                          'set transfer to "auto" or "staging", or see the setting gpus of kvtierd')
        why = f'kvtierd cannot copy from and to {layout.device} itself: {reason}'
    if chosen == 'direct' or (chosen == 'auto' and is_host):
        transfer = Transfer(library.Client)
        logger.info('kvtier: blocks go directly between the KV cache and kvtierd (%s)', why)
    else:
        area = Area(layout, settings.staging_bytes, module_of(layout.device))
        transfer = Transfer(lambda own: staged.Client(own, area), settings.staging_bytes)
        logger.info('kvtier: blocks go through a staging area of %d MiB of host memory (%s)',
                    settings.staging_bytes >> 20, why)
    _prove(layout, kv_caches, kv_cache_config, options, transfer)
    return transfer


def _pull(layout: Layout, kv_caches: dict[str, Any],
          options: library.Options) -> tuple[Transfer | None, str]:
    """(None, why not) where memory cannot be lent, or kvtierd does not prove that it moves it."""
    try:
        lending = lent.lending_of(layout)
        client = lent.Client(options, lending)
        try:
            lent.prove(client, layout, kv_caches)
        finally:
            client.close()
    except (DeviceError, library.LibraryError) as error:
        return None, error.strerror or str(error)
    return Transfer(lambda own: lent.Client(own, lending), is_pull=True), ''


def _prove(layout: Layout, kv_caches: dict[str, Any], kv_cache_config: Any,
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
