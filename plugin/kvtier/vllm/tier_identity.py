"""What rows of vLLM's primary tier are: the identity and the settings of KvtierTier."""
from __future__ import annotations

import os
from typing import Any

from kvtier import content, settings
from kvtier.vllm.identity import Refused, identity_of

SETTINGS = ('socket', 'on_refusal', 'load', 'store', 'lookup_ms', 'load_ms', 'store_ms',
            'lease_ms', 'weights_version', 'weights_version_file', 'unknown_version', 'engine')
# Settings of vLLM's offloading that say where chunks are kept, never what is in them; and those
# whose outcome stands in its OffloadingConfig.
_NOT_IN_ROWS = frozenset((
    'secondary_tiers', 'spec_name', 'spec_module_path', 'cpu_bytes_to_use', 'eviction_policy',
    'cache_policy_module_path', 'backpressure', 'store_threshold', 'max_tracker_size',
    'offload_prompt_only', 'self_describing_kv_events', 'tier_poll_interval_s', 'block_size',
    'blocks_per_chunk', 'canonical_layout'))
_NOT_IN_LAYOUT = frozenset(('extra_config', 'engine_id', 'enable_kv_cache_events', 'model',
                            'parallel'))
_PARALLEL = ('world_size', 'tp_size', 'pp_size', 'pcp_size', 'dcp_size', 'is_parallelism_agnostic')


def settings_of(given: dict[str, Any]) -> settings.Settings:
    """Settings of the tier's entry in secondary_tiers; SettingsError for what is not right."""
    unknown = sorted(set(given) - set(SETTINGS))
    if unknown:
        raise settings.SettingsError(f'secondary_tiers: KvtierTier has no setting {unknown[0]!r}; '
                                     'known are ' + ', '.join(SETTINGS))
    return settings.Settings(given)


def _vllm_config_of(spec: Any) -> Any:
    """The engine's own config, or None where this vLLM does not show it to a tier."""
    import vllm.config
    current = getattr(vllm.config, 'get_current_vllm_config_or_none', lambda: None)()
    transfer = getattr(current, 'kv_transfer_config', None)
    if transfer is None or transfer.engine_id != spec.config.engine_id:
        return None
    return current


def _refuse_unseen(vllm_config: Any) -> None:
    """A tier sees hashes, never requests: refused is what can be in a request and is not covered
    by its hash."""
    model = vllm_config.model_config
    remedy = 'use the connector KvtierConnector, which looks at each request'
    if getattr(vllm_config, 'lora_config', None) is not None:
        raise Refused('hashes name adapters by their name, not by their content', remedy)
    if getattr(model, 'is_multimodal_model', False):
        raise Refused('ids of images, audio and video may be made up by users', remedy)
    if getattr(model, 'enable_prompt_embeds', False):
        raise Refused('the hash does not say which of its positions are embeddings', remedy)
    if getattr(model, 'runner_type', 'generate') == 'pooling':
        raise Refused('arguments of the pooling model are not hashed', remedy)


def _identity_named(spec: Any, weights_version: str) -> dict[str, str]:
    """Of an engine whose config cannot be seen: its operator's weights_version says what it is."""
    import vllm
    if not weights_version:
        raise Refused(
            'vLLM does not show its config to a tier, so what it serves cannot be identified',
            'set kv_connector to KvtierOffloadingConnector and kv_connector_module_path to '
            'kvtier.vllm.tier, or set weights_version in the tier\'s config to what names the '
            'weights and everything else that changes their KV')
    name = spec.config.model.name
    weights = [name, content.files_digest(name), content.texts_digest(name, True)] \
        if os.path.isdir(name) else [name]
    digest = content.config_digest({'engine': vllm.__version__, 'weights': weights,
                                    'weights_version': weights_version})
    return {'model_content': 'named:' + digest.hex(), 'dtype': str(spec.config.model.dtype),
            'hash_algorithm': 'named', 'weights_version': weights_version}


def layout_of(spec: Any, row_bytes: int) -> str:
    """What the bytes of a row are: rows of engines that differ in any of this are never mixed."""
    config = spec.config
    parts = {name: value for name, value in vars(config).items() if name not in _NOT_IN_LAYOUT}
    parts.update({'extra.' + name: value for name, value in config.extra_config.items()
                  if name not in _NOT_IN_ROWS})
    parts.update({'parallel.' + name: getattr(config.parallel, name, None) for name in _PARALLEL})
    parts.update(spec=f'{type(spec).__module__}.{type(spec).__qualname__}',
                 dtype=str(config.model.dtype), row_bytes=row_bytes,
                 page_bytes=getattr(spec, 'cpu_page_size_per_worker', None),
                 backend=os.environ.get('VLLM_ATTENTION_BACKEND', ''))
    digest = content.config_digest(parts).hex()
    return (f'vllm-rows workers={config.parallel.world_size} row={row_bytes} '
            f'canonical={int(bool(getattr(config, "canonical_layout", False)))} rows={digest}')


def identity_for(spec: Any, row_bytes: int, weights_version: str) -> dict[str, str]:
    """All fields of the identity of the rows that this spec's workers fill. Raises Refused."""
    vllm_config = _vllm_config_of(spec)
    try:
        if vllm_config is None:
            identity = _identity_named(spec, weights_version)
        else:
            _refuse_unseen(vllm_config)
            identity = identity_of(vllm_config, weights_version)
        identity['layout'] = layout_of(spec, row_bytes)
    except content.ContentUnknown as unknown:
        reason, _, remedy = str(unknown).partition('; ')
        raise Refused(reason, remedy) from unknown
    return identity
