"""The simulator, through the daemon's own index, against hit counts made by an independent reference.

With ../shared/traces there: every point of expected/totals.csv, and every request of the dumps that lie beside it.
Always: traces made here, against a list-based LRU written from the rules alone.
"""

import csv
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("KVTIER_BUILD", os.path.join(ROOT, "build"))
BENCH = os.path.join(BUILD, "kvtier-bench")
TRACES = os.path.normpath(os.path.join(ROOT, "..", "shared", "traces"))
EXPECTED = os.path.join(TRACES, "expected")
FILES = {
    "mooncake_conversation": "mooncake_conversation.jsonl.gz",
    "weka_cc_even": "weka_cc_even.jsonl.gz",
    "lmcache_miniswe": "lmcache_miniswe_b64.jsonl.gz",
}
RUN_SECONDS_MAX = 120


def bench(*arguments):
    return subprocess.run([BENCH, *map(str, arguments)], capture_output=True, text=True,
                          timeout=RUN_SECONDS_MAX, check=False)


def simulate(folder, trace, block_tokens, *arguments):
    """Runs one simulation; returns its JSON and its rows (request, blocks, hit_blocks)."""
    figures = os.path.join(folder, "figures.json")
    dump = os.path.join(folder, "dump.csv")
    done = bench("replay", "--simulate", "--policy", "lru", "--trace", trace, "--block-tokens", block_tokens,
                 "--json", figures, "--dump", dump, *arguments)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    with open(figures, encoding="utf-8") as file:
        result = json.load(file)
    with open(dump, encoding="utf-8", newline="") as file:
        rows = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
    return result, rows


def reference_lru(requests, capacity):
    """requests: lists of ids. The rules as they are written down: blocks are whole prefixes, deepest first."""
    recency, hits = [], []
    for ids in requests:
        blocks = [tuple(ids[:i + 1]) for i in range(len(ids))]
        resident = set(recency)
        hit = 0
        while hit < len(blocks) and blocks[hit] in resident:
            hit += 1
        hits.append(hit)
        head = blocks[:capacity]
        kept = set(head)
        recency = (head + [block for block in recency if block not in kept])[:capacity]
    return hits


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def chat_lines(requests, block_tokens, tokens=None):
    for i, ids in enumerate(requests):
        yield {"timestamp": i * 1000, "input_length": tokens[i] if tokens else len(ids) * block_tokens,
               "output_length": 3, "hash_ids": ids}


def random_requests(source, count):
    """Conversations that grow, fork and are forgotten, with equal ids under different parents."""
    conversations, requests = [], []
    for _ in range(count):
        if not conversations or source.random() < 0.3:
            conversations.append([source.randrange(4) for _ in range(source.randrange(1, 5))])
        chosen = source.choice(conversations)
        grown = chosen + [source.randrange(50) for _ in range(source.randrange(0, 5))]
        if source.random() < 0.2:
            grown = grown[:source.randrange(1, len(grown) + 1)]
        conversations.append(grown)
        requests.append(grown)
    return requests


class Simulation(unittest.TestCase):
    def setUp(self):
        if not os.access(BENCH, os.X_OK):
            self.fail(f"{BENCH} is not there: build it, or name its folder in KVTIER_BUILD")
        folder = tempfile.TemporaryDirectory(prefix="kvtier-simulate-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)


class SmallTraces(Simulation):
    def test_the_worked_example_of_the_rules(self):
        requests = [[1, 2, 3], [7], [1, 2, 3], [1, 2, 6, 4, 5], [1, 2, 6, 4, 5], [1, 2, 3], [1, 2, 3]]
        write_lines(self.path("t.jsonl"), chat_lines(requests, 4, [10, 4, 10, 18, 18, 10, 10]))
        result, rows = simulate(self.folder, self.path("t.jsonl"), 4, "--capacity-blocks", 3)
        self.assertEqual([row[2] for row in rows], [0, 0, 2, 2, 3, 2, 3])
        self.assertEqual((result["hit_tokens"], result["input_tokens"]), (46, 80))

    def test_random_traces_equal_a_list_based_lru_request_by_request(self):
        for seed in range(12):
            requests = random_requests(random.Random(seed), 300)
            unique = len({tuple(ids[:i + 1]) for ids in requests for i in range(len(ids))})
            write_lines(self.path("t.jsonl"), chat_lines(requests, 16))
            for capacity in (1, 2, 7, unique // 10 + 1, unique // 3, unique):
                with self.subTest(seed=seed, capacity=capacity):
                    result, rows = simulate(self.folder, self.path("t.jsonl"), 16, "--capacity-blocks", capacity)
                    self.assertEqual([row[2] for row in rows], reference_lru(requests, capacity))
                    self.assertEqual(result["unique_blocks"], unique)

    def test_two_tiers_hit_as_much_as_the_larger_one_alone(self):
        requests = random_requests(random.Random(99), 400)
        write_lines(self.path("t.jsonl"), chat_lines(requests, 16))
        alone, rows = simulate(self.folder, self.path("t.jsonl"), 16, "--capacity-blocks", 200)
        both, rows_both = simulate(self.folder, self.path("t.jsonl"), 16, "--cpu-blocks", 50, "--nvme-blocks", 200)
        self.assertEqual(rows_both, rows)
        self.assertEqual(both["hit_tokens"], alone["hit_tokens"])
        self.assertEqual(both["hit_tokens_cpu"] + both["hit_tokens_nvme"], both["hit_tokens"])
        self.assertGreater(both["hit_tokens_nvme"], 0)
        self.assertGreater(both["hit_tokens_cpu"], 0)

    def test_reblocking_equals_blocks_made_of_several_ids(self):
        requests = random_requests(random.Random(5), 200)
        write_lines(self.path("t.jsonl"), chat_lines(requests, 16))
        grouped = [[tuple(ids[i:i + 2]) for i in range(0, len(ids) - 1, 2)] for ids in requests]
        _, rows = simulate(self.folder, self.path("t.jsonl"), 32, "--capacity-blocks", 40)
        self.assertEqual([row[2] for row in rows], reference_lru(grouped, 40))

    def test_sessions_share_tools_and_system_prompt_but_no_ids(self):
        def session(name, tools, system, runs):
            return {"id": name, "block_size": 4, "hash_id_scope": "local", "tool_tokens": tools,
                    "system_tokens": system, "requests": [
                        {"t": 0.0, "type": "n", "in": 24, "out": 1, "hash_runs": runs},
                        {"t": 5.0, "type": "subagent", "requests": [
                            {"t": 0.0, "type": "n", "in": 8, "out": 1, "hash_ids": [90, 91]}]},
                        {"t": 9.0, "type": "s", "in": 24, "out": 1, "hash_runs": runs}]}
        write_lines(self.path("t.jsonl"), [session("a", 8, 4, [[1, 6]]), session("b", 8, 4, [[1, 6]]),
                                           session("c", 8, 0, [[1, 6]])])
        with open(self.path("order.csv"), "w", encoding="utf-8") as file:
            file.write("time_s,session,request\n0,0,0\n1,1,0\n2,2,0\n3,0,1\n4,0,2\n")
        _, rows = simulate(self.folder, self.path("t.jsonl"), 4, "--order", self.path("order.csv"),
                           "--capacity-blocks", 100)
        # b: two blocks of tools and one of the system prompt; c: the tools; then the sub-agent, and a again.
        self.assertEqual(rows, [(0, 6, 0), (1, 6, 3), (2, 6, 2), (3, 2, 2), (4, 6, 6)])

    def test_credited_outputs_are_hit_by_the_next_turn(self):
        lines = [{"timestamp": 0, "input_length": 8, "output_length": 5, "hash_ids": [1, 2], "chat_id": 1},
                 {"timestamp": 1, "input_length": 16, "output_length": 1, "hash_ids": [1, 2, 3, 4], "chat_id": 1}]
        write_lines(self.path("t.jsonl"), lines)
        _, plain = simulate(self.folder, self.path("t.jsonl"), 4, "--capacity-blocks", 9)
        _, credited = simulate(self.folder, self.path("t.jsonl"), 4, "--capacity-blocks", 9, "--output-credit")
        self.assertEqual([row[2] for row in plain], [0, 2])
        self.assertEqual([row[2] for row in credited], [0, 3])

    def test_a_generated_workload_is_the_same_for_the_same_seed(self):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            done = bench("generate", "--mix", "chat,agentic", "--requests", 300, "--seed", seed, "--output",
                         self.path(name + ".jsonl"))
            self.assertEqual(done.returncode, 0, done.stderr)
        texts = []
        for name in "abc":
            with open(self.path(name + ".jsonl"), encoding="utf-8") as file:
                texts.append(file.read())
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        requests = [json.loads(line)["hash_ids"] for line in texts[0].splitlines()]
        _, rows = simulate(self.folder, self.path("a.jsonl"), 512, "--capacity-blocks", 3000)
        self.assertEqual([row[2] for row in rows], reference_lru(requests, 3000))

    def test_hits_that_differ_from_the_expected_are_told(self):
        requests = random_requests(random.Random(1), 50)
        write_lines(self.path("t.jsonl"), chat_lines(requests, 16))
        simulate(self.folder, self.path("t.jsonl"), 16, "--capacity-blocks", 10)
        os.rename(self.path("dump.csv"), self.path("expect.csv"))
        again = ("replay", "--simulate", "--trace", self.path("t.jsonl"), "--expect", self.path("expect.csv"))
        self.assertEqual(bench(*again, "--capacity-blocks", 10).returncode, 0)
        done = bench(*again, "--capacity-blocks", 400)
        self.assertEqual(done.returncode, 1)
        self.assertIn("found other hits", done.stderr)


class HostileTraces(Simulation):
    def refused(self, text, *words):
        with open(self.path("t.jsonl"), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        done = bench("replay", "--simulate", "--capacity-blocks", 5, "--trace", self.path("t.jsonl"),
                     "--block-tokens", 4)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_refusals_name_the_line_and_what_would_be_right(self):
        good = '{"timestamp": 0, "input_length": 8, "output_length": 1, "hash_ids": [1, 2]}\n'
        self.refused("", "empty")
        self.refused("[1, 2", "t.jsonl:1", "expected '{'")
        self.refused("time,tokens\n1,2\n", "t.jsonl:1", "JSON object")
        self.refused(good + '{"timestamp": 0, "input_length": 8, "hash_ids": [1, -2]}\n', "t.jsonl:2", "whole number")
        self.refused(good + '{"timestamp": 0, "input_length": 8}\n', "t.jsonl:2", "hash_ids")
        self.refused(good + '{"timestamp": 0, "hash_ids": [1', "t.jsonl:2", "end of the file")
        self.refused(good + '{"timestamp": 1e400, "input_length": 8, "hash_ids": [1]}\n', "timestamp")
        self.refused(good + '{"timestamp": 1, "input_length": 8, "hash_ids": [1,2,3,4,5,6,7]}\n', "t.jsonl:2",
                     "7 hash_ids for 8 tokens")
        self.refused("[" * 100, "expected '{'")
        self.refused('{"x": ' + "[" * 100, "nest deeper")
        self.refused('{"x": 1}', "neither")
        self.refused('{"block_size": 4, "requests": [{"t": 0, "in": 4, "hash_runs": [[1, 99999999999]]}]}', "run's length")
        self.refused('{"block_size": 4, "requests": [{"t": 0, "in": 4, "hash_runs": [[1, 9999]]}]}', "9999 ids for 4 tokens")
        self.refused('{"block_size": 3, "requests": [{"t": 0, "in": 4, "hash_runs": []}]}', "blocks of 3 tokens")
        self.refused(gzip.compress(good.encode() * 1000)[:60], "cut short or damaged")
        self.refused(b"\x1f\x8b\x08\x00" + b"\xff" * 50, "t.jsonl:1")

    def test_a_mistyped_option_is_answered_with_the_nearest(self):
        self.assertIn("did you mean --capacity-blocks?", bench("replay", "--capacity-block", 1).stderr)
        self.assertIn("did you mean replay?", bench("repaly").stderr)


class SharedTraces(Simulation):
    def setUp(self):
        super().setUp()
        if not os.path.isdir(EXPECTED):
            print(f"\nSKIPPED: no traces at {TRACES}", file=sys.stderr)
            self.skipTest(f"no traces at {TRACES}")

    def test_all_totals_and_dumps_equal_the_reference(self):
        with open(os.path.join(EXPECTED, "totals.csv"), encoding="utf-8", newline="") as file:
            points = list(csv.DictReader(file))
        self.assertEqual(len(points), 12)
        for point in points:
            name = point["trace"]
            arguments = ["--capacity-blocks", point["capacity_blocks"]]
            order = os.path.join(EXPECTED, name + "_order.csv.gz")
            if os.path.exists(order):
                arguments += ["--order", order]
            with self.subTest(trace=name, capacity=point["capacity_blocks"]):
                result, rows = simulate(self.folder, os.path.join(TRACES, FILES[name]), point["block_tokens"],
                                        *arguments)
                for key in ("unique_blocks", "requests", "input_tokens", "hit_tokens"):
                    self.assertEqual(result[key], int(point[key]), key)
                hits = os.path.join(EXPECTED, f"{name}_{point['capacity_percent']}_hits.csv.gz")
                if os.path.exists(hits):
                    with gzip.open(hits, "rt", newline="") as file:
                        expected = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
                    self.assertEqual(rows, expected)


if __name__ == "__main__":
    unittest.main()
