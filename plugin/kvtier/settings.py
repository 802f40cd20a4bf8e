"""What kv_connector_extra_config may say: one table for the parser, the docs and the tests."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REFUSALS = ('disable', 'fail')
DECISIONS = ('auto', 'always')
LOADS = ('auto', 'sync', 'async')
TRANSFERS = ('auto', 'pull', 'staging', 'direct')


@dataclass(frozen=True)
class Setting:
    """kind: a type, or a tuple of the words that are right; least and most bound numbers."""
    name: str
    kind: Any
    default: Any
    about: str
    least: float = 0
    most: float = float('inf')


TABLE = (
    Setting('socket', str, '', 'The tenant\'s socket of kvtierd; empty: `$KVTIER_SOCKET`, else '
            '`/run/kvtier/t/default/kv.sock`.'),
    Setting('on_refusal', REFUSALS, 'disable', 'What to do when something cannot be trusted or '
            'found: serve without kvtier and say why (`disable`), or do not start (`fail`).'),
    Setting('load', bool, True, 'Load blocks from kvtier.'),
    Setting('store', bool, True, 'Store finished blocks in kvtier.'),
    Setting('store_generated', bool, True, 'Also store blocks with generated tokens (the next turn '
            'of a conversation begins with them).'),
    Setting('load_or_recompute', DECISIONS, 'auto', '`auto`: load only as many tokens as are '
            'estimated to arrive sooner than they could be computed; `always`: all that are '
            'there.'),
    Setting('load_mode', LOADS, 'auto', '`async`: the request waits beside the others\' steps; '
            '`sync`: the step waits, at most `sync_load_ms`; `auto`: sync where the estimate is '
            'shorter than a step and than `sync_load_ms`.'),
    Setting('transfer', TRANSFERS, 'auto', 'How blocks get to kvtierd. `direct`: from the engine\'s '
            'memory, which must be host memory; `pull`: it lies on a GPU, and kvtierd copies itself; '
            '`staging`: through a staging area of pinned host memory; `auto`: direct on CPUs; on '
            'GPUs pull where it can be proven at start, else staging.'),
    Setting('staging_bytes', int, 1 << 30, 'Size of the staging area of each rank; half is for '
            'loads, half for stores. What finds no room in it waits.', least=1 << 16,
            most=1 << 40),
    Setting('contiguous_blocks', bool, False, 'Ask vLLM (0.28 and newer) for KV blocks that lie in one '
            'piece over all layers: fewer and longer copies. vLLM warns and goes on where the '
            'attention backend cannot; it does not start where it has to split blocks for its '
            'kernels. Ignored where `VLLM_KV_CACHE_LAYOUT` is set.'),
    Setting('sync_load_ms', float, 50.0, 'A step waits no longer than this for loads; the rest is '
            'recomputed.', least=1, most=10000),
    Setting('lookup_ms', float, 10.0, 'Bound of one lookup; past it the answer is a miss, and a '
            'daemon that does not answer is asked less and less often.', least=0.1, most=1000),
    Setting('load_ms', float, 5000.0, 'Bound of one asynchronous load; past it the rest is '
            'recomputed.', least=1, most=600000),
    Setting('handoff_ms', float, 30000.0, 'How long another node may take to hand over the blocks of a '
            'request, its prefill included when both run at once; past it the rest is computed here. Also '
            'how long a request\'s blocks are promised to the node that goes on with it.', least=1,
            most=600000),
    Setting('store_ms', float, 10000.0, 'Bound of one store; past it the rest is dropped.',
            least=1, most=600000),
    Setting('flush_ms', float, 20.0, 'When the engine wants blocks back whose store is not over '
            '(preemption, sliding windows), a step waits this long, then the store is cancelled.',
            most=1000),
    Setting('lease_ms', float, 10000.0, 'How long looked-up blocks are held for a request that is '
            'not scheduled yet; then it is looked up again.', least=100, most=600000),
    Setting('load_tokens_min', int, 1, 'A hit of fewer tokens is not loaded.'),
    Setting('weights_version', str, '', 'A version of the weights that only you know of; engines '
            'with different versions share nothing. Required where the weight files cannot be '
            'found (dummy, streamed or remote weights): then it must name their content.'),
    Setting('weights_version_file', str, '', 'A file whose text is read at start and at each reset '
            'of the cache and is the weights version then; without it, or when it has not changed, '
            'a reset takes a random one.'),
    Setting('media_ids_are_content', bool, False, 'Your promise that no client names media itself '
            '(`multi_modal_uuids`): such names look like digests of the content, so without it '
            'requests with media are neither loaded nor stored.'),
    Setting('unknown_version', ('refuse', 'try'), 'refuse', 'What to do with a vLLM version that '
            'this plugin was not tested with.'),
    Setting('engine', str, '', 'The engine\'s name at the daemon; empty: vLLM\'s engine id.'),
)


class SettingsError(ValueError):
    """A setting that is not right; the text says which, and what would be."""


class Settings:
    """Settings.NAME for every row of TABLE; milliseconds stay milliseconds."""

    socket: str
    on_refusal: str
    load: bool
    store: bool
    store_generated: bool
    load_or_recompute: str
    load_mode: str
    transfer: str
    staging_bytes: int
    contiguous_blocks: bool
    sync_load_ms: float
    lookup_ms: float
    load_ms: float
    handoff_ms: float
    store_ms: float
    flush_ms: float
    lease_ms: float
    load_tokens_min: int
    weights_version: str
    weights_version_file: str
    media_ids_are_content: bool
    unknown_version: str
    engine: str

    def __init__(self, given: dict[str, Any]):
        for setting in TABLE:
            value = given.get(setting.name, setting.default)
            setattr(self, setting.name, _checked(setting, value))
        unknown = sorted(set(given) - {setting.name for setting in TABLE})
        if unknown:
            raise SettingsError(f'kv_connector_extra_config: unknown setting {unknown[0]!r}; known '
                                'are ' + ', '.join(setting.name for setting in TABLE))


def _checked(setting: Setting, value: Any) -> Any:
    where = f'kv_connector_extra_config: {setting.name} is {value!r}'
    if isinstance(setting.kind, tuple):
        if value not in setting.kind:
            raise SettingsError(f'{where}; right are ' + ', '.join(setting.kind))
        return value
    if setting.kind is bool or setting.kind is str:
        if not isinstance(value, setting.kind):
            raise SettingsError(f'{where}; right is a {setting.kind.__name__}')
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(f'{where}; right is a number')
    if setting.kind is int and value != int(value):
        raise SettingsError(f'{where}; right is a whole number')
    if not setting.least <= value <= setting.most:
        raise SettingsError(f'{where}; right is {setting.least:g} to {setting.most:g}')
    return setting.kind(value)


def markdown() -> str:
    """The table for docs/VLLM.md."""
    lines = ['| setting | right are | default | what it does |', '| --- | --- | --- | --- |']
    for setting in TABLE:
        if isinstance(setting.kind, tuple):
            kind = ', '.join(f'`{word}`' for word in setting.kind)
        elif setting.kind in (int, float):
            most = '' if setting.most == float('inf') else f' to {setting.most:g}'
            kind = f'{setting.least:g}{most or " or more"}'
        else:
            kind = {'bool': 'true, false', 'str': 'text'}[setting.kind.__name__]
        default = setting.default
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, float):
            default = f'{default:g}'
        lines.append(f'| `{setting.name}` | {kind} | `{default}` | {setting.about} |'
                     if default != '' else
                     f'| `{setting.name}` | {kind} | empty | {setting.about} |')
    return '\n'.join(lines) + '\n'
