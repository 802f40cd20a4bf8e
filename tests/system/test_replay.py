"""The replay against the real daemon: hits as simulated, every byte checked, a daemon that is killed, several ranks."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty   # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("KVTIER_BUILD", os.path.join(ROOT, "build"))
BENCH = os.path.join(BUILD, "kvtier-bench")
DAEMON = os.path.join(BUILD, "kvtierd")
READY_SECONDS_MAX = 60
RUN_SECONDS_MAX = 120
BLOCK_BYTES = 4096            # so that a slot, with its header, has 8 KiB
CONFIG = """
run_directory: {folder}/run
state_directory: {folder}/state
http_listen: ""
extent_bytes: 1MiB
block_bytes_min: 4KiB
tenants:
  - name: default
    cpu_bytes: 8MiB
nvme:
  - path: {folder}/nvme
    bytes: 48MiB
"""


class Replay(unittest.TestCase):
    def setUp(self):
        for program in (BENCH, DAEMON):
            if not os.access(program, os.X_OK):
                self.fail(f"{program} is not there: build it, or name its folder in KVTIER_BUILD")
        folder = tempfile.TemporaryDirectory(prefix="kvtier-replay-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        os.mkdir(self.path("run"))
        os.mkdir(self.path("state"))
        with open(self.path("kvtierd.yaml"), "w", encoding="utf-8") as file:
            file.write(CONFIG.format(folder=self.folder))
        self.daemon = None
        self.addCleanup(self.stop_daemon)
        self.start_daemon()

    def path(self, name):
        return os.path.join(self.folder, name)

    def start_daemon(self):
        """Waits until it says on stderr that it is ready."""
        with open(self.path("log"), "wb") as log:
            self.daemon = subprocess.Popen([DAEMON, "--config", self.path("kvtierd.yaml")], stderr=log)
        until = time.monotonic() + READY_SECONDS_MAX
        while True:
            with open(self.path("log"), encoding="utf-8") as log:
                text = log.read()
            if "event=ready" in text:
                return
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise AssertionError("the daemon did not become ready:\n" + text)
            self.ended(self.daemon, 0.01)

    @staticmethod
    def ended(process, seconds):
        """Waits for the end of a process, no longer than until it is time to look again."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    def stop_daemon(self, number=signal.SIGTERM):
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(number)
        if self.daemon is not None:
            self.daemon.wait(timeout=READY_SECONDS_MAX)
        self.daemon = None

    def metrics(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path("run/http.sock"))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            pieces = []
            while piece := client.recv(65536):
                pieces.append(piece)
        return b"".join(pieces).decode()

    def slots(self, tier):
        return sum(int(float(count)) for count in
                   re.findall(rf'^kvtier_slots{{[^}}]*tier="{tier}"[^}}]*}} (\S+)', self.metrics(), re.M))

    def generate(self, requests, *arguments):
        done = subprocess.run([BENCH, "generate", "--requests", str(requests), "--seed", "3", "--output",
                               self.path("trace.jsonl"), *arguments], capture_output=True, text=True,
                              timeout=RUN_SECONDS_MAX, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def command(self, *arguments):
        return [BENCH, "replay", "--trace", self.path("trace.jsonl"), "--block-tokens", "512", *map(str, arguments)]

    def with_daemon(self, *arguments):
        return self.command("--socket", self.path("run/t/default/kv.sock"), "--block-bytes", BLOCK_BYTES,
                            "--json", self.path("figures.json"), *arguments)

    def figures(self):
        with open(self.path("figures.json"), encoding="utf-8") as file:
            return json.load(file)

    def run_good(self, command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_in_lockstep_each_request_hits_what_the_simulation_says(self):
        self.generate(600, "--mix", "chat,agentic", "--users", "2")
        self.run_good(self.with_daemon("--lockstep", "--dump", self.path("dump.csv")))
        figures = self.figures()
        self.run_good(self.command("--simulate", "--cpu-blocks", self.slots("cpu"), "--nvme-blocks",
                                   self.slots("nvme"), "--expect", self.path("dump.csv"), "--json",
                                   self.path("simulated.json")))
        with open(self.path("simulated.json"), encoding="utf-8") as file:
            simulated = json.load(file)
        for key in ("requests", "input_tokens", "hit_tokens"):
            self.assertEqual(figures[key], simulated[key], key)
        self.assertEqual(figures["wrong_blocks"], 0)
        self.assertEqual(figures["late_calls"], 0)
        self.assertGreater(figures["hit_tokens_nvme"], 0)
        self.assertGreater(figures["hit_tokens_cpu"], 0)

    def test_a_daemon_killed_in_the_middle_costs_hits_but_no_wrong_block(self):
        self.generate(400, "--mix", "agentic", "--users", "3")
        command = self.with_daemon("--processes", 2, "--mark-at", 200, "--mark", self.path("half"), "--away-ms", 200,
                                   "--deadline-ms", 2000)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as replay:
            until = time.monotonic() + RUN_SECONDS_MAX
            while not os.path.exists(self.path("half")) and replay.poll() is None and time.monotonic() < until:
                self.ended(replay, 0.001)
            self.stop_daemon(signal.SIGKILL)
            self.start_daemon()
            _, errors = replay.communicate(timeout=RUN_SECONDS_MAX)
        self.assertEqual(replay.returncode, 0, errors)
        figures = self.figures()
        self.assertEqual(figures["requests"], 400)
        self.assertEqual(figures["wrong_blocks"], 0)
        self.assertEqual(figures["late_calls"], 0)
        self.assertGreater(figures["away_requests"], 0)
        self.assertGreater(figures["hit_tokens_after_return"], 0)

    def test_ranks_and_engines_share_what_they_stored(self):
        self.generate(200, "--mix", "agentic", "--users", "2")
        self.run_good(self.with_daemon("--shards", 2, "--lockstep", "--limit", 20))
        first = self.figures()
        self.run_good(self.with_daemon("--shards", 2, "--lockstep", "--limit", 20))
        again = self.figures()
        self.assertGreater(again["hit_tokens"], first["hit_tokens"])
        # Two engines at a time want more leases than so small a cache grants: fewer hits, but never a wrong block.
        self.run_good(self.with_daemon("--shards", 2, "--processes", 2, "--limit", 60))
        both = self.figures()
        self.assertEqual(both["requests"], 60)
        self.assertGreater(both["hit_tokens"], 0)
        self.assertEqual(first["wrong_blocks"] + again["wrong_blocks"] + both["wrong_blocks"], 0)

    def test_an_engine_attaches_without_waiting_for_every_processor(self):
        """MADV_COLLAPSE took 13 s where all processors were busy: longer than an engine waits for its daemon."""
        self.generate(5)
        self.run_good([*faulty.without("collapse"), *self.with_daemon()])
        self.assertEqual(self.figures()["away_requests"], 0)

    def test_without_a_daemon_it_says_where_it_looked(self):
        self.generate(5)
        self.stop_daemon()
        done = subprocess.run(self.with_daemon("--connect-ms", 200), capture_output=True, text=True,
                              timeout=RUN_SECONDS_MAX, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no daemon at", done.stderr)


if __name__ == "__main__":
    unittest.main()
