"""What differs between vLLM versions, found by looking, not by number, where that is possible."""
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd
from typing import Any

import vllm.distributed.kv_transfer.kv_connector.v1.base as base
from kvtier.tables import MINOR_LEAST, MINOR_MOST
from kvtier.vllm.identity import Refused

_TransferResults: Any = getattr(base, 'KVConnectorTransferResults', None)
# Without it a failed load of a model with several KV cache groups cannot be reported.
HAS_FAILED_RECEIVES = 'failed_recving' in getattr(_TransferResults, '__dataclass_fields__', {})


def transfer_results(received: set[str], failed: set[str]) -> Any:
    """Only versions that know the class ask for it."""
    if not HAS_FAILED_RECEIVES:
        return _TransferResults(finished_recving=received)
    return _TransferResults(finished_recving=received, failed_recving=failed)


def check_version(version: str, unknown: str) -> None:
    """Refused when the plugin was not tested with this minor version, and `unknown` says refuse."""
    parts = version.split('+')[0].split('.')
    try:
        known = int(parts[0]) == 0 and MINOR_LEAST <= int(parts[1]) <= MINOR_MOST
    except (ValueError, IndexError):
        known = False
    if not known and unknown == 'refuse':
        raise Refused(
            f'vLLM {version} is not known to this plugin (0.{MINOR_LEAST} to 0.{MINOR_MOST} are)',
            'install a matching pair, or set unknown_version to "try"')


def block_sizes(vllm_config: Any, kv_cache_config: Any) -> tuple[int, int]:
    """(tokens that every hit is a multiple of, tokens of one of Request.block_hashes)."""
    from vllm.v1.core import kv_cache_utils
    resolve = getattr(kv_cache_utils, 'resolve_kv_cache_block_sizes', None)
    if resolve is None:
        return (vllm_config.cache_config.block_size,) * 2
    block_size, hash_size = resolve(kv_cache_config, vllm_config)
    sizes = [group.kv_cache_spec.block_size for group in kv_cache_config.kv_cache_groups]
    multiple = reduce(lambda a, b: a * b // gcd(a, b), sizes, block_size)
    return multiple, hash_size


def none_hash() -> bytes | None:
    """The hash before the first block, once the engine has made it."""
    from vllm.v1.core import kv_cache_utils
    return getattr(kv_cache_utils, 'NONE_HASH', None)


def hit_sources(cpu_tokens: int, nvme_tokens: int, peer_tokens: int) -> dict[Any, int] | None:
    """vLLM's own split of external hits by tier, where it has one."""
    try:
        from vllm.v1.metrics.cache_hit_source import CacheHitSource
    except ImportError:
        return None
    peer = getattr(CacheHitSource, 'P2P', CacheHitSource.HOST)
    split = {CacheHitSource.HOST: cpu_tokens, CacheHitSource.DISK: nvme_tokens}
    split[peer] = split.get(peer, 0) + peer_tokens
    return {source: tokens for source, tokens in split.items() if tokens > 0}


def was_aborted(request: Any) -> bool:
    return getattr(getattr(request, 'status', None), 'name', '') == 'FINISHED_ABORTED'


def overwritten_blocks(scheduler_output: Any) -> Sequence[int]:
    """Blocks that copies of whole blocks overwrite in this step."""
    copies = getattr(scheduler_output, 'kv_cache_block_copies', None) or ()
    return [copy.dst_block_id for copy in copies]


def contiguous_layout() -> str | None:
    """The name of the layout in which a block is one piece over all layers, and inside it as it is
    by default; None: this version names no layouts, or not this one."""
    try:
        from vllm.v1.kv_cache_layout import KVCacheLayout
    except ImportError:
        return None
    return 'BLNHC' if 'BLNHC' in KVCacheLayout.__members__ else None


def is_planned_ahead(vllm_config: Any) -> bool:
    """Whether a step is scheduled before the one before it is known: its last token may be taken
    back, and what it lost is known a step late."""
    return (vllm_config.speculative_config is not None
            or bool(getattr(vllm_config.scheduler_config, 'async_scheduling', False)))
