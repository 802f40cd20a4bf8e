"""vLLM's real Scheduler, our real connector and libkvtier, a scripted daemon - and no model.

Engine acts like vLLM's engine core and model runner: schedule, the worker's calls in the documented
order, update_from_output. Instead of a forward it writes, for each token, bytes that follow from
all tokens before it; where what it finds in earlier blocks is not right, it writes nonsense and
samples another token, as a model would. So a wrong block shows in the tokens, in later blocks, and
in what is stored.

KVTIER_BUILD says where libkvtier.so lies (default: build), as for the system tests. Runs with each
vLLM that docs/VLLM.md names: PYTHON -m unittest discover -s tests/vllm -p 'test_scheduler_*.py'.
"""
from __future__ import annotations

import gc
import os
import pickle
import shutil
import sys
import tempfile
import time
import unittest
from types import SimpleNamespace
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
os.environ.update(HF_HUB_OFFLINE='1', VLLM_NO_USAGE_STATS='1', VLLM_CPU_KVCACHE_SPACE='1',
                  VLLM_ENABLE_V1_MULTIPROCESSING='0')
os.environ.setdefault('VLLM_LOGGING_LEVEL', 'ERROR')
os.environ.setdefault('KVTIER_LIBRARY', os.path.join(
    os.environ.get('KVTIER_BUILD', os.path.join(TOP, 'build')), 'libkvtier.so'))
# Before 0.28 hashes are random in each process without it.
os.environ.setdefault('PYTHONHASHSEED', '0')
sys.path[:0] = [HERE, os.path.join(TOP, 'plugin')]

if not os.path.exists(os.environ['KVTIER_LIBRARY']):
    raise unittest.SkipTest(f'{os.environ["KVTIER_LIBRARY"]} is not there: run make, or set '
                            'KVTIER_BUILD')
try:
    import vllm
except ImportError as error:
    raise unittest.SkipTest(f'{error}: run this with the Python that tests/vllm/environment.py '
                            'names') from None

import numpy   # noqa: E402
from vllm.config import (CacheConfig, DeviceConfig, KVTransferConfig, ModelConfig,   # noqa: E402
                         SchedulerConfig, VllmConfig)
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory   # noqa: E402
from vllm.distributed.kv_transfer.kv_connector.v1.base import (KVConnectorBase_V1,   # noqa: E402
                                                               KVConnectorRole)
from vllm.sampling_params import SamplingParams   # noqa: E402
from vllm.utils.hashing import get_hash_fn_by_name   # noqa: E402
from vllm.v1.core import kv_cache_utils   # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler   # noqa: E402
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput   # noqa: E402
from vllm.v1.request import Request, RequestStatus   # noqa: E402
from vllm.v1.structured_output import StructuredOutputManager   # noqa: E402

import scripted   # noqa: E402
from no_model import (BLOCK, LAYER_NAMES, LENGTH_MAX, VOCABULARY, Cache, Chain,   # noqa: E402,F401
                      adapter_folder, cold_tokens, model_folder, payload_of, prompt)
from kvtier.vllm import link as link_module   # noqa: E402

BLOCKS = 64
STEP_TOKENS = 256
SECONDS_MAX = 60.0          # a run that goes on for so long has stopped getting on
HAS_TRANSFER_RESULTS = hasattr(KVConnectorBase_V1, 'get_transfer_results')
SETTINGS = {'lookup_ms': 1000, 'sync_load_ms': 10000, 'load_ms': 20000, 'store_ms': 20000,
            'load_or_recompute': 'always'}

# A connection is looked at in every step: a test does not wait for the half second.
link_module.LOOK_SECONDS = 0.0


class _Backend:
    """Stands for the attention backend, whose name is part of a layout's text."""


def make_config(folder: str, settings: dict[str, Any], *, policy: str = 'recompute',
                step_tokens: int = STEP_TOKENS, engine: str = 'engine') -> VllmConfig:
    extra = dict(SETTINGS, **settings)
    config = VllmConfig(
        model_config=ModelConfig(model=folder, skip_tokenizer_init=True, dtype='float32', seed=0,
                                 max_model_len=LENGTH_MAX),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=True),
        scheduler_config=SchedulerConfig(
            max_num_seqs=8, max_num_batched_tokens=step_tokens, max_model_len=LENGTH_MAX,
            enable_chunked_prefill=True, is_encoder_decoder=False, async_scheduling=False),
        kv_transfer_config=KVTransferConfig(
            kv_connector='KvtierConnector', kv_connector_module_path='kvtier.vllm',
            kv_role='kv_both', engine_id=engine, kv_load_failure_policy=policy,
            kv_connector_extra_config=extra),
        device_config=DeviceConfig('cpu'))
    layer = SimpleNamespace(get_attn_backend=lambda: _Backend)
    for name in LAYER_NAMES:
        config.compilation_config.static_forward_context[name] = layer
    return config


def is_attached(link: Any) -> bool:
    """Now: the link itself remembers for a while what it saw last."""
    return link.is_connected() and link.client is not None and link.client.is_connected()


class Engine:
    """An engine core with one worker. outputs: generated tokens; ended: why each request did."""

    def __init__(self, folder: str, settings: dict[str, Any], blocks: int = BLOCKS,
                 **options: Any):
        self.vllm_config = make_config(folder, settings, **options)
        self.cache = Cache(blocks)
        self.weights = ''
        self.hash_function = get_hash_fn_by_name(
            self.vllm_config.cache_config.prefix_caching_hash_algo)
        kv_cache_utils.init_none_hash(self.hash_function)
        self.worker = KVConnectorFactory.create_connector(
            self.vllm_config, KVConnectorRole.WORKER, self.cache.config)
        self.worker.register_kv_caches(self.cache.tensors)
        self.vllm_config.cache_config.num_gpu_blocks = blocks
        self.scheduler = Scheduler(
            vllm_config=self.vllm_config, kv_cache_config=self.cache.config,
            structured_output_manager=StructuredOutputManager(self.vllm_config),
            block_size=BLOCK, hash_block_size=BLOCK, log_stats=True)
        self._hand_shake()
        self.outputs: dict[str, list[int]] = {}
        self.ended: dict[str, Any] = {}
        self.stats: dict[str, float] = {}
        self.steps = self.idle_steps = 0
        self.loads_sent: list[Any] = []             # each Load of a step's metadata
        self.stores_sent: list[Any] = []
        self.flushes_sent: list[int] = []
        self.computed_tokens = 0
        self._requests: dict[str, Request] = {}
        self._chains: dict[str, Chain] = {}
        self._tables: dict[str, list[int]] = {}
        # For each weights in turn: a block's hash -> its right payload.
        self._rights: list[dict[bytes, bytes]] = [{}]

    @property
    def connector(self) -> Any:
        return self.scheduler.connector

    def _hand_shake(self) -> None:
        own = self.worker.get_handshake_metadata()
        if own is None:
            return
        own = pickle.loads(pickle.dumps(own))
        if hasattr(self.connector, 'set_xfer_handshake_metadata_pp_aware'):
            self.connector.set_xfer_handshake_metadata_pp_aware({(0, 0): own})
        else:
            self.connector.set_xfer_handshake_metadata({0: own})

    # ---- requests ----

    def add(self, name: str, tokens: list[int], count: int = 1, *, kvtier: Any = None,
            salt: str | None = None, lora: Any = None, priority: int = 0,
            trace_headers: dict[str, str] | None = None) -> Request:
        """A request for `count` generated tokens; kvtier: its kv_transfer_params["kvtier"]."""
        extra = None if kvtier is None else {'kv_transfer_params': {'kvtier': kvtier}}
        parameters = SamplingParams(max_tokens=count, ignore_eos=True, temperature=0.0,
                                    extra_args=extra)
        parameters.update_from_generation_config({}, VOCABULARY - 1)
        request = Request(
            request_id=name, prompt_token_ids=tokens, sampling_params=parameters,
            pooling_params=None, cache_salt=salt, lora_request=lora, priority=priority,
            trace_headers=trace_headers,
            block_hasher=kv_cache_utils.get_request_block_hasher(BLOCK, self.hash_function))
        self._chains[name] = Chain(self.seed_of(salt, lora))
        self._requests[name] = request
        self.outputs[name] = []
        self.scheduler.add_request(request)
        return request

    def seed_of(self, salt: str | None = None, lora: Any = None) -> str:
        """What the model's answers depend on beside tokens. (A salt just keeps caches apart.)"""
        return f'{self.weights} {lora.lora_name if lora is not None else ""}'.strip()

    def hashes_of(self, name: str) -> list[bytes]:
        """Of the full blocks of a request, also of one that has ended."""
        return [bytes(own) for own in self._requests[name].block_hashes]

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def run(self, name: str, tokens: list[int], count: int = 1, **options: Any) -> list[int]:
        """One request from its arrival to its end; what it generated."""
        self.add(name, tokens, count, **options)
        self.finish()
        return self.outputs[name]

    def finish(self) -> None:
        """Steps until no request is left."""
        self.step_until(lambda: not self.scheduler.has_requests(), 'all requests end')

    def step_until(self, is_so: Any, what: str) -> None:
        end = time.monotonic() + SECONDS_MAX
        while not is_so():
            if time.monotonic() > end:
                raise AssertionError(f'after {self.steps} steps with and {self.idle_steps} '
                                     f'without work it is not so: {what}')
            self.step()

    # ---- a step, as the engine core and the model runner do it ----

    def step(self) -> Any:
        """One step; the SchedulerOutput of it."""
        output = self.scheduler.schedule()
        metadata = pickle.loads(pickle.dumps(output.kv_connector_metadata))
        self.loads_sent += getattr(metadata, 'loads', [])
        self.stores_sent += getattr(metadata, 'stores', [])
        self.flushes_sent += getattr(metadata, 'flush', [])
        if output.total_num_scheduled_tokens > 0:
            self.steps += 1
        else:
            self.idle_steps += 1
        runner_output = self._execute(output, metadata)
        self._take(self.scheduler.update_from_output(output, runner_output))
        return output

    def _execute(self, output: Any, metadata: Any) -> ModelRunnerOutput:
        worker = self.worker
        worker.handle_preemptions(metadata)
        worker.bind_connector_metadata(metadata)
        is_load_first = getattr(output, 'has_sync_kv_loads', True)
        if is_load_first:
            worker.start_load_kv(None)
        wrong = self._follow_and_compute(output)
        if not is_load_first:
            worker.start_load_kv(None)
        worker.wait_for_save()
        result = KVConnectorOutput()
        if HAS_TRANSFER_RESULTS:
            transfers = worker.get_transfer_results(output.finished_req_ids)
            result.finished_sending = transfers.finished_sending
            result.finished_recving = transfers.finished_recving
            result.failed_recving = transfers.failed_recving
        else:
            result.finished_sending, result.finished_recving = worker.get_finished(
                output.finished_req_ids)
        result.invalid_block_ids = worker.get_block_ids_with_load_errors()
        result.kv_connector_stats = worker.get_kv_connector_stats()
        result.kv_connector_worker_meta = pickle.loads(pickle.dumps(
            worker.build_connector_worker_meta()))
        worker.clear_connector_metadata()
        for name, block in wrong:
            assert block in result.invalid_block_ids, \
                f'{name} was computed on wrong bytes in block {block}, which nobody has reported'
        names = list(output.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=names, req_id_to_index={name: i for i, name in enumerate(names)},
            sampled_token_ids=[self._sampled(name, output, wrong) for name in names],
            logprobs=None, prompt_logprobs_dict={}, pooler_output=[],
            kv_connector_output=result)

    def _follow_and_compute(self, output: Any) -> list[tuple[str, int]]:
        """The forward. (request, block) for the first wrong block of each request that had one."""
        for new in output.scheduled_new_reqs:
            self._tables[new.req_id] = list(new.block_ids[0])
        cached = output.scheduled_cached_reqs
        for i, name in enumerate(cached.req_ids):
            fresh = cached.new_block_ids[i]
            if name in cached.resumed_req_ids:
                self._tables[name] = list(fresh[0])
            elif fresh is not None:
                self._tables[name] += fresh[0]
        self._computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        self._computed.update(zip(cached.req_ids, cached.num_computed_tokens))
        wrong = []
        for name, count in output.num_scheduled_tokens.items():
            self.computed_tokens += count
            block = self._compute(name, self._computed[name], count)
            if block is not None:
                wrong.append((name, block))
        return wrong

    def _compute(self, name: str, computed: int, count: int) -> int | None:
        """Writes KV of `count` tokens behind `computed`; the first wrong block before, if any."""
        request, chain, table = self.scheduler.requests[name], self._chains[name], \
            self._tables[name]
        chain.extend(list(request.all_token_ids))
        self._note_right(request, chain)
        wrong = self.first_wrong(chain, table, computed)
        rows = chain.rows(computed, computed + count)
        if wrong is not None:
            rows = ~rows
        for position in range(computed, computed + count):
            self.cache.write(table[position // BLOCK], position % BLOCK,
                             rows[position - computed:position - computed + 1])
        return None if wrong is None else table[wrong]

    def first_wrong(self, chain: Chain, table: list[int], tokens: int) -> int | None:
        """Index of the first block whose first `tokens` tokens' KV is not what it must be."""
        for index in range(-(-tokens // BLOCK)):
            end = min(tokens, (index + 1) * BLOCK)
            rows = chain.rows(index * BLOCK, end)
            if not numpy.array_equal(self.cache.read(table[index])[:len(rows)], rows):
                return index
        return None

    def _note_right(self, request: Request, chain: Chain) -> None:
        for index, name in enumerate(request.block_hashes):
            if bytes(name) not in self._rights[-1]:
                self._rights[-1][bytes(name)] = payload_of(
                    chain.rows(index * BLOCK, (index + 1) * BLOCK))

    def _sampled(self, name: str, output: Any, wrong: list[tuple[str, int]]) -> list[int]:
        end = self._computed[name] + output.num_scheduled_tokens[name]
        if end < self.scheduler.requests[name].num_tokens:
            return []
        token = self._chains[name].next_token(end - 1)
        return [(token + 1) % VOCABULARY if name in dict(wrong) else token]

    def _take(self, outputs: dict[int, Any]) -> None:
        for one in outputs.values():
            for own in one.outputs:
                self.outputs[own.request_id] += own.new_token_ids
                if own.finish_reason is not None:
                    self.ended[own.request_id] = str(own.finish_reason)
            given = getattr(one.scheduler_stats, 'kv_connector_stats', None) or {}
            for key, value in given.items():
                self.stats[key] = value if key == 'enabled' else self.stats.get(key, 0) + value

    def count(self, name: str) -> float:
        """One of the connector's counts. (Before 0.29 vLLM asks the scheduler's side for its counts
        only in steps in which the worker told some.)"""
        untold = self.connector._scheduler.stats.data.get(name, 0)
        return self.stats.get(name, 0) + untold

    # ---- what must be so in the end ----

    def change_weights(self, weights: str) -> bool:
        """As reset_prefix_cache after an update in place: the model computes other bytes now."""
        self.weights = weights
        self._rights.append({})
        return self.scheduler.reset_prefix_cache(reset_connector=True)

    def in_flight(self) -> dict[str, int]:
        """What the connector has not finished, by name."""
        ours, side = self.worker._worker, self.connector._scheduler
        return {'jobs': len(ours._jobs), 'loads of the worker': len(ours._loads),
                'waiting': len(ours._waiting), 'loads': len(side._loads),
                'stores': len(side._offers._stores), 'requests': len(side._requests)}

    def settle_stores(self) -> None:
        """Steps until every store is over, while requests go on."""
        self.step_until(lambda: self.in_flight()['stores'] == 0, 'every store is over')

    def settle(self) -> None:
        """The steps of later requests, which take in what has ended meanwhile."""
        self.step_until(lambda: not any(self.in_flight().values()),
                        'nothing is in flight any more')

    def check(self, daemon: scripted.ScriptedDaemon | None = None) -> None:
        """No request, no lease, no job is left; every block is free; all bytes are right."""
        assert not self.scheduler.has_requests()
        self.settle()
        pool = self.scheduler.kv_cache_manager.block_pool
        free, blocks = pool.get_num_free_blocks(), self.cache.config.num_blocks
        assert free == blocks - 1, f'{blocks - 1 - free} blocks are not free'
        self.check_named()
        if daemon is not None:
            self.check_daemon(daemon)

    def check_named(self) -> None:
        """Whatever the engine would find by its hash has the right bytes."""
        for block in self.scheduler.kv_cache_manager.block_pool.blocks:
            if block.block_hash is not None:
                name = bytes(kv_cache_utils.get_block_hash(block.block_hash))
                assert payload_of(self.cache.read(block.block_id)) == self._rights[-1][name], \
                    f'block {block.block_id}, which counts as computed, has wrong bytes'

    def check_daemon(self, daemon: scripted.ScriptedDaemon) -> None:
        daemon.wait_until(lambda: not daemon.leases, 'every lease given back')
        newest = max(daemon.spaces.values(), default=0)
        for space, _, name in list(daemon.blocks):
            # A space that came with new weights has nothing of the old ones.
            is_new = len(self._rights) > 1 and space == newest
            rights = [one[name] for one in self._rights[-1 if is_new else 0:] if name in one]
            assert not rights or daemon.payload(name, space) in rights, \
                f'wrong bytes were stored under the hash {name.hex()}'
        most = max(daemon.leases_most.values(), default=0)
        assert most <= 1, f'a request had {most} leases at once'

    def close(self) -> None:
        self.worker.shutdown()
        self.scheduler.shutdown()


class Case(unittest.TestCase):
    """A test with a daemon and engines of its own; every one of them is checked at its end."""

    maxDiff = None
    mode = 'async'

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(prefix='kvtier-')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.model = model_folder(self.folder)
        self.daemon = scripted.ScriptedDaemon(self.folder)
        self.addCleanup(self.daemon.close)
        self.engines: list[Engine] = []
        self.is_checked = True

    def engine(self, blocks: int = BLOCKS, *, policy: str = 'recompute',
               step_tokens: int = STEP_TOKENS, name: str = 'engine',
               **settings: Any) -> Engine:
        """An engine attached to this test's daemon; settings: of kv_connector_extra_config."""
        settings = {'socket': self.daemon.path, 'load_mode': self.mode, **settings}
        engine = Engine(self.model, settings, blocks, policy=policy, step_tokens=step_tokens,
                        engine=f'{name}-{len(self.engines)}')
        self.engines.append(engine)
        self.addCleanup(engine.close)
        return engine

    def warm(self, tokens: list[int], **options: Any) -> Engine:
        """The daemon holds the full blocks of `tokens`; the engine that stored them."""
        engine = self.engine(name='warm')
        engine.run('warm', tokens, **options)
        engine.settle()
        return engine

    def assert_same_as_cold(self, engine: Engine, name: str, tokens: list[int], count: int = 1,
                            ) -> None:
        self.assertEqual(engine.outputs[name],
                         cold_tokens(tokens, count, engine.seed_of()))

    def run(self, result: Any = None) -> Any:
        outcome = super().run(result)
        gc.collect()
        return outcome

    def tearDown(self) -> None:
        if not self.is_checked:
            return
        self.daemon.silence()
        self.daemon.let_go()
        for engine in self.engines:
            engine.check(self.daemon)
