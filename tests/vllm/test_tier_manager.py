#!/usr/bin/env python3
"""KvtierTier behind vLLM's real TieringOffloadingManager and a real kvtierd, without an engine.

No weights and no engine: what a worker would copy is written and compared here. Runs with vLLM
0.29 and newer, with the Python that tests/vllm/environment.py names.
"""
from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import sys
import unittest
import uuid
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TOP, 'tests/system'), os.path.join(TOP, 'plugin')]
import node   # noqa: E402

os.environ.setdefault('KVTIER_LIBRARY', os.path.join(node.BUILD, 'libkvtier.so'))
os.environ.setdefault('VLLM_LOGGING_LEVEL', 'CRITICAL')     # refusals are expected here
try:
    import numpy
    from vllm.v1.kv_offload import config as offload
    from vllm.v1.kv_offload.base import (LookupResult, ReqContext, ScheduleEndContext,
                                         make_offload_key)
    from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec
except ImportError as error:
    raise unittest.SkipTest(f'{error}: run this with the Python of vLLM 0.29 or newer, as '
                            'tests/vllm/environment.py makes it') from None

from kvtier.settings import SettingsError   # noqa: E402
from kvtier.vllm import tier_memory         # noqa: E402

BLOCK_TOKENS = 16
ROW_BYTES = 8192
SECONDS_MAX = 20.0
HIT, MISS, PENDING = LookupResult.HIT, LookupResult.MISS, LookupResult.HIT_PENDING
SAYS_PLACES = any(one.name == '_offload_key_positions' for one in dataclasses.fields(ReqContext))


def made(kind: Any, **values: Any) -> Any:
    """An object of `kind`; what this vLLM does not know is left out."""
    known = {own.name for own in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def spec_of(settings: dict[str, Any], rows: int = 16, groups: int = 1, workers: int = 1,
            row_bytes: int = ROW_BYTES, **extra: Any) -> TieringOffloadingSpec:
    own = tuple(made(offload.OffloadingGroupConfig, tokens_per_block=BLOCK_TOKENS,
                     layer_names=(f'layer.{group}',), group_id=group) for group in range(groups))
    parallel = made(offload.OffloadingParallelConfig, rank=0, world_size=workers, tp_size=workers,
                    pp_size=1, pcp_size=1, dcp_size=1, data_parallel_index=0,
                    data_parallel_size=1, data_parallel_rank_local=None,
                    is_parallelism_agnostic=False)
    tier = {'type': 'KvtierTier', 'module_path': 'kvtier.vllm.tier', 'lookup_ms': 1000.0,
            'weights_version': 'one', **settings}
    return TieringOffloadingSpec(made(
        offload.OffloadingConfig, groups=own, worker_kv_bytes_per_block=row_bytes // workers,
        enable_kv_cache_events=False, engine_id=uuid.uuid4().hex, parallel=parallel,
        extra_config={'cpu_bytes_to_use': rows * row_bytes, 'secondary_tiers': [tier], **extra},
        model=offload.OffloadingModelConfig(name='nowhere/model', dtype='float32'),
        cache=offload.OffloadingCacheConfig(tokens_per_hash=BLOCK_TOKENS, blocks_per_chunk=1)))


def keys_of(name: str, count: int, group: int = 0) -> list[bytes]:
    return [make_offload_key(hashlib.sha256(f'{name}/{place}'.encode()).digest(), group)
            for place in range(count)]


def bytes_of(key: bytes, size: int = ROW_BYTES) -> bytes:
    return hashlib.shake_128(key).digest(size)


class Engine:
    """A manager with one KvtierTier, and what an engine does with it. A context."""

    def __init__(self, socket: str, **options: Any):
        settings = {'socket': socket, **options.pop('settings', {})}
        self.spec = spec_of(settings, **options)
        self.manager = self.spec.get_manager()
        self.tier = self.manager.secondary_tiers[0]
        self.numbers = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *unused: Any) -> None:
        self.manager.shutdown()

    def request(self, *keys: bytes) -> ReqContext:
        """A new request with these chunks, one group's behind the other's."""
        self.numbers += 1
        context = ReqContext(req_id=f'request-{self.numbers}')
        self.manager.on_new_request(context)
        places: dict[int, int] = {}
        for key in keys:
            group = int.from_bytes(key[-4:], 'big')
            places[group] = places.get(group, 0) + 1
            if SAYS_PLACES:
                context.set_offload_key_position(key, places[group] * BLOCK_TOKENS)
        return context

    def step(self) -> None:
        self.manager.on_schedule_end(ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))

    def settle(self) -> None:
        """Steps until no job is left."""
        def is_idle() -> bool:
            self.step()
            return not self.manager.has_pending_work()
        node.until(is_idle, SECONDS_MAX, 'all jobs are over')

    def row(self, number: int) -> Any:
        return self.manager.primary_tier.get_kv_memoryview()[number]

    def rows_of(self, spec: Any) -> list[int]:
        rows = getattr(spec, 'chunk_ids', None)
        return list(map(int, spec.block_ids if rows is None else rows))

    def store(self, keys: list[bytes]) -> None:
        context = self.request(*keys)
        output = self.manager.prepare_store(keys, context)
        view = numpy.asarray(self.manager.primary_tier.get_kv_memoryview()).view(numpy.uint8)
        for key, row in zip(output.keys_to_store, self.rows_of(output.store_spec)):
            view[row] = numpy.frombuffer(bytes_of(key, view.shape[1]), numpy.uint8)
        del view
        self.manager.complete_store(set(keys), context)
        self.settle()
        self.manager.on_request_finished(context)

    def ask(self, keys: list[bytes], context: ReqContext | None = None) -> list[LookupResult]:
        """What the manager says in the end, after all that it has begun is over."""
        context = context or self.request(*keys)
        for _ in range(4):
            answers = [self.manager.lookup(key, context) for key in keys]
            self.settle()
            if not {PENDING, LookupResult.RETRY} & set(answers):
                return answers
        raise AssertionError(f'still {answers} after four steps: an engine would ask for ever')

    def loaded(self, keys: list[bytes]) -> list[bytes]:
        context = self.request(*keys)
        self.ask(keys, context)
        spec = self.manager.prepare_load(keys, context)
        view = numpy.asarray(self.manager.primary_tier.get_kv_memoryview())
        found = [view[row].tobytes() for row in self.rows_of(spec)]
        del view
        self.manager.complete_load(keys, context)
        return found


class Tier(unittest.TestCase):
    def setUp(self) -> None:
        self.node = node.Node(cpu_mib=8, nvme_mib=0)
        self.node.start()
        self.addCleanup(self.node.__exit__, None, None, None)

    def engine(self, **options: Any) -> Engine:
        engine = Engine(self.node.socket(), **options)
        self.addCleanup(engine.__exit__)
        return engine

    def test_what_one_engine_stored_another_one_promotes_byte_for_byte(self) -> None:
        keys = keys_of('a', 10)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        self.assertEqual(self.engine().loaded(keys), [bytes_of(key) for key in keys])

    def test_groups_are_kept_apart_even_where_their_hashes_are_equal(self) -> None:
        keys = keys_of('a', 4, 0) + keys_of('a', 4, 1)
        with Engine(self.node.socket(), groups=2) as first:
            first.store(keys)
        self.assertEqual(self.engine(groups=2).loaded(keys), [bytes_of(key) for key in keys])

    def test_a_chunk_that_was_never_stored_is_a_miss(self) -> None:
        engine = self.engine()
        self.assertEqual(engine.ask(keys_of('b', 3)), [MISS] * 3)

    def test_one_lookup_answers_for_all_chunks_of_a_request(self) -> None:
        keys = keys_of('a', 10)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        engine = self.engine()
        before = self.node.counters()['lookups']
        engine.ask(keys)
        self.assertEqual(self.node.counters()['lookups'] - before, 1)

    def test_no_lease_is_left_when_requests_are_over(self) -> None:
        keys = keys_of('a', 10)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        engine = self.engine()
        promoted, looked_at = engine.request(*keys), engine.request(*keys)
        engine.ask(keys, promoted)
        engine.tier.lookup(keys[0], looked_at)
        engine.step()
        for context in (promoted, looked_at):
            engine.manager.on_request_finished(context)
        node.until(lambda: all(one['leases'] == 0 for one in self.node.stats()['tenants']),
                   SECONDS_MAX, 'no lease is held')

    def test_a_hole_does_not_hide_what_is_behind_it(self) -> None:
        keys = keys_of('a', 6)
        with Engine(self.node.socket()) as first:
            first.store(keys[:2])
            first.store(keys[4:])
        self.assertEqual(self.engine().ask(keys), [HIT, HIT, MISS, MISS, HIT, HIT])

    def test_chunks_that_fail_to_load_are_misses_until_they_are_stored_again(self) -> None:
        keys = keys_of('a', 4)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        engine = self.engine()
        context = engine.request(*keys)
        for key in keys:
            engine.manager.lookup(key, context)
        if not SAYS_PLACES:
            engine.step()
            for key in keys:
                engine.manager.lookup(key, context)
        self.node.kill()        # promised, and gone before the step's end
        self.assertEqual(engine.ask(keys, context), [MISS] * 4)
        self.node.start()
        with Engine(self.node.socket()) as first:
            first.store(keys)
        node.until(engine.tier._link.client.is_connected, SECONDS_MAX, 'attached again')
        self.assertEqual(engine.ask(keys), [MISS] * 4, 'failed once, and not stored by us')
        engine.store(keys)
        self.assertFalse(any(engine.tier._failures.has(key) for key in keys))

    def test_a_failure_is_forgotten_after_a_while(self) -> None:
        failures = tier_memory.Failures()
        failures.add([b'key'])
        self.assertTrue(failures.has(b'key'))
        failures._until[b'key'] = 0.0
        self.assertFalse(failures.has(b'key'))

    def test_without_a_daemon_all_is_a_miss_and_it_is_attached_when_it_comes(self) -> None:
        self.node.kill()
        keys = keys_of('a', 4)
        engine = self.engine()
        engine.store(keys)
        self.assertEqual(engine.ask(keys_of('b', 4)), [MISS] * 4)
        self.node.start()
        node.until(engine.tier._link.client.is_connected, SECONDS_MAX, 'attached')
        node.until(engine.tier._link.is_connected, SECONDS_MAX, 'seen to be attached')
        engine.store(keys_of('c', 4))
        self.assertEqual(self.engine().ask(keys_of('c', 4)), [HIT] * 4)

    def test_a_daemon_that_hangs_costs_its_bounds_and_then_all_is_a_miss(self) -> None:
        keys = keys_of('a', 4)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        engine = self.engine(settings={'load_ms': 50.0, 'store_ms': 50.0, 'lookup_ms': 1000.0})
        context = engine.request(*keys)
        for _ in range(2):      # an older vLLM is answered in its next step
            answers = [engine.tier.lookup(key, context) for key in keys]
            engine.step()
        self.assertEqual(answers, [HIT] * 4)
        engine.tier._settings.lookup_ms = 20.0
        self.node.pause()
        try:
            self.assertEqual(engine.ask(keys, context), [MISS] * 4)
            engine.store(keys_of('b', 4))
            self.assertEqual(engine.ask(keys_of('c', 4)), [MISS] * 4)
        finally:
            self.node.resume()

    def test_other_rows_are_never_mixed(self) -> None:
        keys = keys_of('a', 4)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        for what in ({'settings': {'weights_version': 'two'}}, {'workers': 2},
                     {'enable_cross_layers_blocks': True}, {'row_bytes': 2 * ROW_BYTES}):
            with self.subTest(what):
                self.assertEqual(self.engine(**what).ask(keys), [MISS] * 4)

    def test_the_size_of_the_primary_tier_does_not_matter(self) -> None:
        keys = keys_of('a', 4)
        with Engine(self.node.socket()) as first:
            first.store(keys)
        self.assertEqual(self.engine(rows=8, eviction_policy='arc').ask(keys), [HIT] * 4)

    def test_a_reset_ends_all_jobs_and_begins_another_space(self) -> None:
        keys = keys_of('a', 10)
        engine = self.engine()
        context = engine.request(*keys)
        output = engine.manager.prepare_store(keys, context)
        self.assertEqual(len(output.keys_to_store), 10)
        engine.manager.complete_store(keys, context)     # the jobs are under way
        engine.manager.reset_cache()
        self.assertFalse(engine.manager.has_pending_work())
        self.assertEqual(engine.ask(keys), [MISS] * 10)
        engine.store(keys)
        self.assertEqual(engine.loaded(keys), [bytes_of(key) for key in keys])

    def test_shutdown_leaves_no_view_of_the_rows_and_no_file(self) -> None:
        engine = Engine(self.node.socket())
        engine.store(keys_of('a', 4))
        path = engine.spec._scheduler_mmap.mmap_path
        mapped = engine.spec._scheduler_mmap.mmap_obj
        engine.manager.shutdown()
        gc.collect()
        self.assertTrue(mapped.closed)
        self.assertFalse(os.path.exists(path))

    def test_load_and_store_can_be_turned_off(self) -> None:
        keys = keys_of('a', 4)
        with Engine(self.node.socket(), settings={'store': False}) as first:
            first.store(keys)
        self.assertEqual(self.engine().ask(keys), [MISS] * 4)
        with Engine(self.node.socket()) as second:
            second.store(keys)
        self.assertEqual(self.engine(settings={'load': False}).ask(keys), [MISS] * 4)

    def test_hashes_of_another_size_are_misses(self) -> None:
        engine = self.engine()
        keys = [make_offload_key(b'sixteen bytes 16', 0)]
        engine.store(keys)
        self.assertEqual(self.engine().ask(keys), [MISS])


class Refusals(unittest.TestCase):
    def test_settings_that_do_not_exist_are_refused_by_their_name(self) -> None:
        for name in ('sokcet', 'load_mode'):
            with self.subTest(name), self.assertRaisesRegex(SettingsError, name):
                Engine('/nowhere/kv.sock', settings={name: 'sync'})

    def test_an_engine_that_cannot_be_identified_is_refused_with_the_remedy(self) -> None:
        with self.assertRaisesRegex(RuntimeError, 'set weights_version in the tier\'s config'):
            Engine('/nowhere/kv.sock', settings={'weights_version': '', 'on_refusal': 'fail'})

    def test_by_default_a_refused_engine_serves_without_kvtier(self) -> None:
        with Engine('/nowhere/kv.sock', settings={'weights_version': ''}) as engine:
            keys = keys_of('a', 4)
            engine.store(keys)
            self.assertEqual(engine.ask(keys_of('b', 4)), [MISS] * 4)

    def test_a_daemon_that_is_away_is_refused_where_that_is_wanted(self) -> None:
        with self.assertRaisesRegex(RuntimeError, 'on_refusal'):
            Engine('/nowhere/kv.sock', settings={'on_refusal': 'fail'})


if __name__ == '__main__':
    unittest.main()
