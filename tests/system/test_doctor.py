"""kvtier doctor of a running daemon: what is wrong with its sandbox, its keys and its parts, and what to do."""
import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node     # noqa: E402
import test_gpus   # noqa: E402


class Doctor(unittest.TestCase):
    def daemon(self, **settings):
        cache = node.Node(cpu_mib=4, nvme_mib=16, **settings)
        self.addCleanup(cache.__exit__)
        return cache

    def findings(self, cache, check):
        """(level, found) of each; what is not ok says what to do."""
        done = subprocess.run([node.program('kvtier'), 'doctor', '-o', 'json'], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **cache.environment, 'KVTIER_SOCKET': cache.socket()}, check=False)
        rows = [row for row in json.loads(done.stdout) if row['check'] == check]
        self.assertEqual([row for row in rows if row['level'] != 'ok' and not row['advice']], [])
        return [(row['level'], row['found']) for row in rows]

    def test_a_sandbox_that_is_off_is_a_warning(self):
        cache = self.daemon(sandbox='off')
        cache.start()
        (level, found), = self.findings(cache, 'sandbox')
        self.assertEqual(level, 'warn')
        self.assertIn('turned off', found)

    def test_a_key_file_that_the_next_start_would_refuse_is_a_failure(self):
        cache = self.daemon(encryption='key_file')
        path = cache.key_files['default'] = os.path.join(cache.folder, 'keys')
        with open(path, 'w', encoding='ascii', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write('one:' + '5a' * 32 + '\n')
        os.utime(path, (0, 0))
        cache.configure()
        cache.start()
        self.assertEqual(self.findings(cache, 'encryption'), [('ok', "by the tenants' key files")])
        os.utime(path, (4000000000, 4000000000))   # after any start
        self.assertIn('was changed since', self.findings(cache, 'encryption')[1][1])
        os.chmod(path, 0o640)   # its group may, as that of a Secret with fsGroup does
        self.assertEqual(self.findings(cache, 'encryption')[1][0], 'warn')
        os.chmod(path, 0o644)
        self.assertEqual(self.findings(cache, 'encryption')[1], ('fail', f'others may read the key file {path}'))
        os.unlink(path)
        self.assertEqual(self.findings(cache, 'encryption')[1],
                         ('fail', f'the key file {path}: No such file or directory'))

    def test_parts_that_have_answered_are_counted(self):
        cache = self.daemon()
        cache.start()
        node.until(lambda: 'have answered' in self.findings(cache, 'part')[0][1], 20, 'a canary has come back, unasked')
        self.assertEqual(cache.http('/readyz')[0], 200)
        self.assertEqual(self.findings(cache, 'ready'), [])

    def test_gpus_and_their_driver_are_looked_at(self):
        if not os.path.exists(test_gpus.LIBRARY):
            self.skipTest(f'{test_gpus.LIBRARY} is not built')
        cache = self.daemon(gpus=test_gpus.GPU, gpu_library=test_gpus.LIBRARY)
        test_gpus.machine_make(cache)
        cache.start()
        node.until(lambda: cache.stats()['gpus'][0]['state'] == 'ready', 20, 'the GPU is ready')
        self.assertEqual(self.findings(cache, 'gpu'), [('ok', f'{test_gpus.GPU} (Fake GPU 0) is open, 6.0 MiB pinned')])
        self.assertEqual(self.findings(cache, 'gpu-driver'), [('ok', 'the CUDA driver opens, and shows 2 GPUs')])
        cache.stop()

    def test_a_gpu_driver_that_is_none_is_a_warning(self):
        cache = self.daemon(gpus=test_gpus.GPU)
        none = cache.settings['gpu_library'] = os.path.join(cache.folder, 'none.so')
        with open(none, 'w', encoding='ascii') as file:
            file.write('no driver')
        cache.configure()
        cache.start()
        node.until(lambda: cache.stats()['gpus'][0]['reason'], 20, 'it could not be opened')
        for check in ('gpu', 'gpu-driver'):
            (level, found), = self.findings(cache, check)
            self.assertEqual(level, 'warn')
            self.assertIn(none, found)


if __name__ == '__main__':
    unittest.main()
