"""What makes KV blocks of vLLM engines interchangeable, and what may never be shared.

Everything that changes a block's bytes goes into the identity as content. Attributes are probed,
never versions compared. The worker computes it after the model was loaded, and model code changes
the config object then: so configs are read from their files, and the object serves only where
there are none. What cannot be found or compared is refused, as a hit would not be proven.
"""
from __future__ import annotations

import dataclasses
import os
import platform as machine
import re
from types import SimpleNamespace
from typing import Any

from kvtier import content
from kvtier.content import ContentUnknown

FIELD_BYTES_MAX = 1000                  # a little less than a frame's field may have
ADAPTERS_MAX = 65536
HASH_ALGORITHMS = ('sha256', 'sha256_cbor')

# Formats that read their weights from files which we can find, too.
LOCAL_FORMATS = frozenset((
    'auto', 'hf', 'safetensors', 'fastsafetensors', 'instanttensor', 'mistral', 'npcache', 'pt',
    'bitsandbytes', 'gguf', 'sharded_state', 'runai_streamer', 'runai_streamer_sharded'))

# Settings of each config that cannot change the bytes of a block, or that say where something is
# rather than what it is. All others count, also those of later versions.
_MODEL_NOT = frozenset('''
    model model_weights tokenizer tokenizer_mode tokenizer_revision seed hf_config
    hf_text_config hf_config_path hf_overrides hf_token revision config_format
    allowed_local_media_path allowed_media_domains max_model_len spec_target_max_model_len
    allow_deprecated_quantization enforce_eager return_sampling_mask
    enable_return_routed_experts max_logprobs logprobs_mode use_fp64_gumbel enable_trace_replay
    disable_cascade_attn skip_tokenizer_init enable_prompt_embeds served_model_name
    generation_config override_generation_config enable_sleep_mode
    sleep_preserve_parameter_names sleep_mode_backend sleep_mode_offload_cudagraph
    enable_nccl_comm_suspend enable_cumem_allocator logits_processors io_processor_plugin
    renderer_num_workers pooler_config multimodal_config
'''.split())
_MEDIA_NOT = frozenset('''
    limit_per_prompt enable_mm_embeds mm_processor_cache_gb mm_processor_cache_type
    mm_shm_cache_max_object_size_mb mm_encoder_only mm_encoder_tp_mode mm_encoder_fp8_scale_path
    mm_encoder_fp8_scale_save_path mm_encoder_fp8_scale_save_margin interleave_mm_strings
    skip_mm_profiling mm_tensor_ipc mm_ipc_gpu_memory_gb allow_missing_mm_embeddings
'''.split())
_ATTENTION_NOT = frozenset('''
    flash_attn_version flash_attn_max_num_splits_for_cuda_graph mla_prefill_backend
    tq_max_kv_splits_for_cuda_graph tokenspeed_mla_min_split_kv use_trtllm_attention
    minimax_m3_msa_decode_backend sparse_mla_prefill_workspace_factor flex_attn_block_m
    flex_attn_block_n flex_attn_q_block_size flex_attn_kv_block_size
'''.split())
_LORA_NOT = frozenset('''
    max_lora_rank max_loras max_cpu_loras fully_sharded_loras default_mm_loras
    specialize_active_lora max_lora_cls_labels
'''.split())
_SPECULATION_NOT = frozenset('''
    model revision enforce_eager target_model_config target_parallel_config draft_model_config
    draft_parallel_config draft_load_config max_model_len tensor_parallel_size
'''.split())
# Of the cache's settings only these: many others are found out while the engine starts.
_CACHE = ('cache_dtype', 'kv_cache_dtype_skip_layers', 'mamba_cache_dtype',
          'mamba_ssm_cache_dtype', 'mamba_cache_mode', 'kv_sharing_fast_prefill',
          'swa_bounded_replay', 'use_replayssm', 'replayssm_buffer_len')
_CONTENT_DIGEST = re.compile(r'[0-9a-f]{64}([0-9a-f]{64})?')


class Refused(Exception):
    """kvtier cannot be used for this engine or adapter; `remedy` says what would help."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f'{reason}; {remedy}')
        self.reason = reason
        self.remedy = remedy


def _refused(unknown: ContentUnknown, remedy: str = '') -> Refused:
    reason, _, own_remedy = str(unknown).partition('; ')
    return Refused(reason, ', or '.join(filter(None, (own_remedy, remedy))))


def _settings(config: Any, without: frozenset[str]) -> dict[str, Any]:
    """The settings of a config that a user can give, but for those in `without`."""
    if config is None or not dataclasses.is_dataclass(config):
        return {}
    return {field.name: getattr(config, field.name, None) for field in dataclasses.fields(config)
            if field.init and not field.name.startswith('_') and field.name not in without}


def _digest(settings: dict[str, Any]) -> str:
    try:
        return content.config_digest(settings).hex()
    except ContentUnknown as unknown:
        raise _refused(unknown) from unknown


# ---- the model ----

def _loaded_config(model_config: Any) -> Any:
    hf_config = getattr(model_config, 'hf_config', None)
    if hf_config is None or not hasattr(hf_config, 'to_dict'):
        raise Refused('the model has no config that can be compared',
                      'give a model folder with a config.json')
    return content.without_names(hf_config.to_dict())


def _overrides(model_config: Any) -> Any:
    """Given overrides as values; of a function of the user's only what it made can be compared."""
    overrides = getattr(model_config, 'hf_overrides', None)
    if not callable(overrides):
        return overrides
    if (getattr(overrides, '__module__', None) or '').startswith('vllm.'):
        return ['vllm', overrides.__module__, getattr(overrides, '__qualname__', '')]
    return _loaded_config(model_config)


def _revision(model_config: Any, name: str) -> str | None:
    """The commit, where vLLM has found it, as a branch may have moved since."""
    revision = getattr(model_config, name, None)
    return getattr(revision, 'commit_hash', None) or revision


def _find(model: str, revision: str | None, download_dir: str | None) -> str:
    if not os.path.exists(model) and _is_modelscope():
        raise ContentUnknown(f'{model} would come from ModelScope, whose cache is not searched; '
                             'give the path of a local folder')
    return content.weights_folder(model, revision, download_dir)


def _is_modelscope() -> bool:
    return os.environ.get('VLLM_USE_MODELSCOPE', '').lower() in ('1', 'true')


def _weights(model_config: Any, load_config: Any) -> tuple[str, str]:
    """(folder, digest) of the weight files; ContentUnknown when they cannot be found."""
    load_format = str(getattr(load_config, 'load_format', 'auto'))
    if load_format not in LOCAL_FORMATS:
        raise ContentUnknown(f'weights of load_format {load_format} are not in files that can be '
                             'read here; use a format that loads local files')
    stored = getattr(model_config, 'model_weights', '') or ''
    if stored and not os.path.exists(stored):
        raise ContentUnknown(f'the weights are streamed from {stored}; use a local copy')
    folder = _find(stored or model_config.model, _revision(model_config, 'revision'),
                   getattr(load_config, 'download_dir', None))
    return folder, content.files_digest(folder).hex()


def _config_folders(model_config: Any, weights_folder: str | None) -> list[str]:
    """Where config files lie: with the weights, and where vLLM looks for them."""
    folders = [weights_folder] if weights_folder else []
    given = getattr(model_config, 'hf_config_path', None) or model_config.model
    for name in ('revision', 'code_revision'):
        try:
            folders.append(_find(given, _revision(model_config, name), None))
        except ContentUnknown:
            continue                    # the weights' own folder has them, or the object serves
    return list(dict.fromkeys(folders))


def _rope_depends_on_length(model_config: Any, folders: list[str]) -> bool:
    """Whether max_model_len chooses the factors of the rotary embedding; unknown means yes."""
    configs = [content.json_file(os.path.join(folder, 'config.json')) for folder in folders]
    configs = [config for config in configs if config is not None]
    overrides = getattr(model_config, 'hf_overrides', None)
    given = overrides if isinstance(overrides, dict) else None
    return not configs or any(map(content.rope_depends_on_length, [*configs, given]))


def _model(model_config: Any, load_config: Any, weights_version: str) -> dict[str, Any]:
    """Everything about one model that its blocks depend on."""
    folder = None
    try:
        folder, weights = _weights(model_config, load_config)
    except ContentUnknown as unknown:
        if not weights_version:
            raise _refused(unknown, 'set weights_version to what names these weights') from unknown
        weights = repr([
            'named by weights_version', model_config.model,
            getattr(model_config, 'model_weights', ''), _revision(model_config, 'revision')])
    folders = [path for path in _config_folders(model_config, folder) if os.path.isdir(path)]
    with_code = bool(getattr(model_config, 'trust_remote_code', False))
    depends_on_length = _rope_depends_on_length(model_config, folders)
    return {
        'settings': _settings(model_config, _MODEL_NOT),
        'overrides': _overrides(model_config),
        'weights': weights,
        'load_format': str(getattr(load_config, 'load_format', 'auto')),
        'loader': getattr(load_config, 'model_loader_extra_config', None),
        'files': [content.texts_digest(path, with_code) for path in folders],
        'config': None if folders else _loaded_config(model_config),
        'length': model_config.max_model_len if depends_on_length else None,
        'media': _media(getattr(model_config, 'multimodal_config', None)),
    }


def _media(media_config: Any) -> dict[str, Any]:
    settings = _settings(media_config, _MEDIA_NOT)
    scales = getattr(media_config, 'mm_encoder_fp8_scale_path', None)
    if scales:
        settings['scales'] = content.file_digest(scales)
    return settings


def _lora(lora_config: Any) -> dict[str, Any]:
    """Only what is not the default, so that engines share whether or not they serve adapters."""
    return {name: value for name, value in _settings(lora_config, _LORA_NOT).items()
            if value not in (None, False)}


def _model_content(vllm_config: Any, weights_version: str) -> str:
    import vllm
    lora = _lora(getattr(vllm_config, 'lora_config', None))
    if str(lora.get('lora_dtype')) in ('auto', str(vllm_config.model_config.dtype)):
        del lora['lora_dtype']
    return 'sha256:' + _digest({
        # Its model code, and what it puts into a hash: both have changed between versions.
        'engine': vllm.__version__,
        'model': _model(vllm_config.model_config, vllm_config.load_config, weights_version),
        'attention': _settings(getattr(vllm_config, 'attention_config', None), _ATTENTION_NOT),
        'mamba': _settings(getattr(vllm_config, 'mamba_config', None), frozenset()),
        'lora': lora,
        'additional': getattr(vllm_config, 'additional_config', None) or {},
    })


# ---- the other fields ----

def _platform() -> list[Any]:
    """What decides how numbers are kept in a block, beside settings: fp8 has two formats, and a
    CPU's cache is packed for its instructions."""
    from vllm.platforms import current_platform as platform
    found: list[Any] = [getattr(getattr(platform, '_enum', None), 'name', ''),
                        getattr(platform, 'device_type', '')]
    if getattr(platform, 'device_type', '') == 'cpu':
        import torch
        has_tiles = getattr(torch.cpu, '_is_amx_tile_supported', lambda: None)
        found += [machine.machine(), has_tiles()]
    elif hasattr(platform, 'fp8_dtype'):
        found.append(str(platform.fp8_dtype()))
    return found


def _quantisation(vllm_config: Any) -> str:
    cache = vllm_config.cache_config
    model = vllm_config.model_config
    form = _digest({'cache': {name: getattr(cache, name, None) for name in _CACHE},
                    'config': getattr(model, 'quantization_config', None),
                    'platform': _platform()})
    return (f'weights={getattr(model, "quantization", None) or "none"} '
            f'kv={getattr(cache, "cache_dtype", "auto")} form={form}')


def _split(parallel: Any) -> str:
    """How blocks are cut between ranks. Not ranks, not data parallelism, and not where experts
    are: these change nobody's KV."""
    def size(name: str) -> int:
        return int(getattr(parallel, name, 1) or 1)

    pipeline = size('pipeline_parallel_size')
    decode = size('decode_context_parallel_size')
    prefill = size('prefill_context_parallel_size')
    split = f'tp={size("tensor_parallel_size")},pp={pipeline},dcp={decode},pcp={prefill}'
    if decode * prefill > 1:
        interleave = size('cp_kv_cache_interleave_size')
        split += f',interleave={max(interleave, size("dcp_kv_cache_interleave_size"))}'
    if pipeline > 1:
        split += ',layers=' + os.environ.get('VLLM_PP_LAYER_PARTITION', '')
    return split


def _speculation(vllm_config: Any, weights_version: str) -> str:
    speculative = getattr(vllm_config, 'speculative_config', None)
    if speculative is None:
        return ''
    draft = getattr(speculative, 'draft_model_config', None)
    load_config = getattr(speculative, 'draft_load_config', None) or vllm_config.load_config
    settings = {'settings': _settings(speculative, _SPECULATION_NOT),
                'model': draft and _model(draft, load_config, weights_version)}
    return (f'{getattr(speculative, "method", None)} '
            f'tokens={getattr(speculative, "num_speculative_tokens", None)} '
            f'content={_digest(settings)}')


def _hash_algorithm(vllm_config: Any) -> str:
    algorithm = str(getattr(vllm_config.cache_config, 'prefix_caching_hash_algo', None))
    if algorithm not in HASH_ALGORITHMS:
        raise Refused(f'blocks are hashed by {algorithm}, which can collide or is not known',
                      'use --prefix-caching-hash-algo sha256 or sha256_cbor')
    return algorithm


def expected_none_hash(vllm_config: Any) -> bytes:
    """What every process that hashes as this one does has before its first block. Refused where
    each process takes a random value."""
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core import kv_cache_utils
    random = Refused('block hashes are random in each process',
                     'set PYTHONHASHSEED=0 for every engine')
    function = get_hash_fn_by_name(_hash_algorithm(vllm_config))
    resolve = getattr(kv_cache_utils, 'resolve_none_hash_seed', None)
    seed = resolve(function) if resolve is not None else os.environ.get('PYTHONHASHSEED')
    if seed is None or (resolve is not None and resolve(function) != seed):
        raise random
    return bytes(function(seed))


def _refuse_unsound(vllm_config: Any) -> None:
    """Engines whose blocks hold more than their hashes say."""
    model, cache = vllm_config.model_config, vllm_config.cache_config
    if model is None:
        raise Refused('the engine has no model', 'give one')
    if getattr(cache, 'calculate_kv_scales', False):
        raise Refused('scales of the KV cache are computed from the first requests',
                      'leave out --calculate-kv-scales, and use a checkpoint with scales')
    if getattr(vllm_config, 'diffusion_config', None) is not None:
        raise Refused('a diffusion model\'s blocks depend on later tokens',
                      'serve this model without kvtier')
    if getattr(getattr(vllm_config, 'attention_config', None), 'use_non_causal', False):
        raise Refused('with non-causal attention blocks depend on later tokens',
                      'serve this model without kvtier')
    if not (getattr(cache, 'enable_prefix_caching', False)
            or getattr(model, 'is_prefix_caching_supported', True)):
        raise Refused('vLLM does not support prefix caching for this model',
                      'serve this model without kvtier, or force --enable-prefix-caching')


def identity_of(vllm_config: Any, weights_version: str) -> dict[str, str]:
    """The typed fields that make an engine's blocks interchangeable, but for the layout. Equal for
    all ranks of an engine, and for every engine that computes the same blocks. Raises Refused."""
    _refuse_unsound(vllm_config)
    if getattr(vllm_config, 'weight_transfer_config', None) is not None and not weights_version:
        raise Refused('weights are replaced while the engine runs', 'set weights_version, and '
                      'reset the prefix cache after each replacement')
    try:
        fields = {
            'model_content': _model_content(vllm_config, weights_version),
            'dtype': str(vllm_config.model_config.dtype).removeprefix('torch.'),
            'quantisation': _quantisation(vllm_config),
            'split': _split(vllm_config.parallel_config),
            'speculation': _speculation(vllm_config, weights_version),
            'hash_algorithm': _hash_algorithm(vllm_config),
            'hash_seed': expected_none_hash(vllm_config).hex(),
            'weights_version': weights_version,
        }
    except ContentUnknown as unknown:
        raise _refused(unknown) from unknown
    for name, text in fields.items():
        if len(text.encode()) > FIELD_BYTES_MAX:
            raise Refused(f'{name} has more than {FIELD_BYTES_MAX} bytes', 'make it shorter')
    return fields


# ---- requests ----

def _media_refusal(request: Any, media_ids_are_content: bool) -> str | None:
    """An id that a user gave to an image may name another image elsewhere, and can look just like
    a digest: vLLM hashes it when the processor has arguments. So ids prove nothing by themselves.
    """
    features = getattr(request, 'mm_features', None) or ()
    if not features:
        return None
    if not media_ids_are_content:
        return 'ids of images, audio and video may be made up by users'
    lora = getattr(request, 'lora_request', None)
    for feature in features:
        identifier = str(getattr(feature, 'identifier', None))
        if lora is not None:
            identifier = identifier.removeprefix(f'{lora.lora_name}:')
        if not _CONTENT_DIGEST.fullmatch(identifier):
            return 'an id of an image, audio or video is not a digest of its content'
    return None


def request_refusal(request: Any, media_ids_are_content: bool = False) -> str | None:
    """Why the blocks of a v1 Request may neither be stored nor loaded, or None.

    media_ids_are_content: the operator promises that no client names media itself; then ids that
    look like digests are believed.
    """
    refusal = _media_refusal(request, media_ids_are_content)
    if refusal is not None:
        return refusal
    if getattr(request, 'resumable', False):
        return 'its prompt grows while it runs'
    if getattr(request, 'prompt_is_token_ids', None) is not None:
        return 'the hash does not say which of its positions are embeddings'
    if getattr(request, 'prompt_embeds', None) is not None and not _hashes_embeddings():
        return 'this vLLM version does not hash prompt embeddings'
    pooling = getattr(request, 'pooling_params', None)
    if pooling is not None and getattr(pooling, 'extra_kwargs', None):
        return 'arguments of the pooling model are not hashed'
    return None


def _hashes_embeddings() -> bool:
    from vllm.v1.core import kv_cache_utils
    return hasattr(kv_cache_utils, '_gen_prompt_embeds_extra_hash_keys')


# ---- adapters ----

def _hashes_adapter_paths() -> bool:
    """Whether vLLM's own hashes tell adapters of one name but different paths apart."""
    from vllm.v1.core import kv_cache_utils
    keys_of = getattr(kv_cache_utils, '_gen_lora_extra_hash_keys', None)
    if keys_of is None:
        return False
    probe = SimpleNamespace(lora_request=SimpleNamespace(lora_name='name', lora_path='path'))
    try:
        return 'path' in [part for key in keys_of(probe) if isinstance(key, tuple) for part in key]
    except (AttributeError, TypeError):
        return False


@dataclasses.dataclass
class _Adapter:
    """What an adapter id was when its first request came; a refusal stays."""
    path: str
    signature: tuple[Any, ...]
    digest: bytes = b''
    refusal: Refused | None = None


def _adapter_place(path: str) -> str:
    """The local folder that vLLM reads; ContentUnknown when there is none."""
    return _find(os.path.expanduser(path), None, None)


class AdapterDigests:
    """Digests of the adapters that requests use, by id. An adapter is read once, at its first
    request; each further one costs a stat a file. Files that changed under a loaded adapter say
    nothing about what is loaded, so the id is refused from then on. With load_inplace the
    engine loads again; but its own prefix cache tells adapters apart by name (newer versions:
    and path) only, and would mix their blocks: so content that changed under a known name and
    path stays refused, whatever its id."""

    def __init__(self) -> None:
        self._adapters: dict[int, _Adapter] = {}
        self._known: dict[tuple[str, ...], bytes] = {}   # as the engine's own hashes name them

    def digest(self, lora_request: Any) -> bytes:
        """32 bytes of what the adapter is; raises Refused."""
        known = self._adapters.get(lora_request.lora_int_id)
        try:
            path = _adapter_place(lora_request.lora_path)
            signature = content.folder_signature(path)
        except ContentUnknown as unknown:
            return self._refuse(lora_request, _refused(unknown))
        if known is not None:
            if known.path == path and known.signature == signature:
                return self._answer(known)
            if not getattr(lora_request, 'load_inplace', False):
                if known.refusal is not None:
                    raise known.refusal
                return self._refuse(lora_request, Refused(
                    f'files of adapter {lora_request.lora_name} changed while it was loaded',
                    'load changed adapters under a new name'))
        return self._read(lora_request, path, signature)

    def _read(self, lora_request: Any, path: str, signature: tuple[Any, ...]) -> bytes:
        try:
            if getattr(lora_request, 'tensorizer_config_dict', None):
                raise ContentUnknown('the adapter is loaded by tensorizer; use a local folder')
            files = content.adapter_digest(path)
            if content.folder_signature(path) != signature:
                raise ContentUnknown(f'{path} changed while it was read; load it again under a '
                                     'new name when it is complete')
        except ContentUnknown as unknown:
            return self._refuse(lora_request, _refused(unknown), path, signature)
        digest = content.config_digest({
            'files': files, 'is_3d': bool(getattr(lora_request, 'is_3d_lora_weight', False))})
        name: tuple[Any, ...] = (lora_request.lora_name,)
        if _hashes_adapter_paths():
            name += (lora_request.lora_path,)
        if self._known.setdefault(name, digest) != digest:
            return self._refuse(lora_request, Refused(
                f'adapter {lora_request.lora_name} has other content than before, which the '
                'engine\'s own prefix cache does not notice',
                'load changed adapters under a new name'), path, signature)
        self._remember(lora_request, _Adapter(path, signature, digest))
        return digest

    def _answer(self, adapter: _Adapter) -> bytes:
        if adapter.refusal is not None:
            raise adapter.refusal
        return adapter.digest

    def _refuse(self, lora_request: Any, refusal: Refused, path: str = '',
                signature: tuple[Any, ...] = ()) -> bytes:
        """Raises, now and for the rest of the id's life."""
        self._remember(lora_request, _Adapter(path, signature, refusal=refusal))
        raise refusal

    def _remember(self, lora_request: Any, adapter: _Adapter) -> None:
        number = lora_request.lora_int_id
        if number not in self._adapters and len(self._adapters) >= ADAPTERS_MAX:
            raise Refused(f'more than {ADAPTERS_MAX} adapters were used', 'restart the engine')
        self._adapters[number] = adapter
