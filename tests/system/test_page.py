"""The page that people look at, in a real browser before a real daemon: at phone width and at a desk, light and dark.

Pictures of what was checked are in build/tests/page/. At each size: nothing in the console, nothing wider than the
window, no box over another, and every text can be told from its ground.
"""
import http.client
import os
import re
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import browser     # noqa: E402
import node        # noqa: E402
import test_gpus   # noqa: E402

PAGE_BYTES_MAX = 50000
WIDTHS = {'phone': 360, 'desk': 1280}
SCHEMES = ('light', 'dark')
PICTURES = os.path.join(node.FIGURES, 'page')
with open(os.path.join(node.TOP, 'tests/system/page_checks.js'), encoding='utf-8') as checks:
    CHECKS = checks.read()
LAYOUT, CONTRAST = (f'(() => {{ {CHECKS} return {check}(); }})()' for check in ('layout', 'contrast'))


def policy_of(daemon):
    link = http.client.HTTPConnection('127.0.0.1', daemon.port, timeout=10)
    link.request('GET', '/')
    answer = link.getresponse()
    body = answer.read()
    link.close()
    return answer.getheader('Content-Security-Policy'), body


class Load(threading.Thread):
    """An engine that looks up, stores and loads, some of it in vain, until stop()."""

    def __init__(self, daemon, tenant):
        super().__init__(daemon=True)
        self.daemon_node, self.tenant, self.ends = daemon, tenant, threading.Event()

    def run(self):
        with self.daemon_node.engine(tenant=self.tenant) as engine:
            turn = 0
            while not self.ends.wait(0.05):
                names = [node.hash_of(self.tenant, turn // 3, i) for i in range(16)]
                engine.lookup(names)
                engine.store(names, [node.payload_of(name, 4096) for name in names])
                engine.load(names)
                turn += 1

    def stop(self):
        self.ends.set()
        self.join()


def start(failpoint=None, prepare=None, **options):
    daemon = node.Node(http_listen='127.0.0.1:0', **options)
    if prepare:
        prepare(daemon)
    daemon.start(failpoint)
    daemon.port = int(re.search(r'event=http_listen .*port=(\d+)', daemon.log()).group(1))
    daemon.url = f'http://127.0.0.1:{daemon.port}/'
    return daemon


class PageText(unittest.TestCase):
    def test_the_page_is_small_and_may_load_nothing_but_the_status(self):
        with start() as daemon:
            policy, body = policy_of(daemon)
        self.assertLess(len(body), PAGE_BYTES_MAX)
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn('unsafe', policy)
        text = body.decode()
        self.assertEqual(re.findall(r'(?:src|href)="(?!data:)[^"]*"|url\(|@import|innerHTML|style="', text), [])


@unittest.skipIf(browser.find() is None, 'no Chromium here: .ci/deps browser')
class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        os.makedirs(PICTURES, exist_ok=True)
        cls.browser = browser.Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()

    def look(self, daemon, name, ready, widths=WIDTHS, schemes=SCHEMES):
        """At each size and scheme: goes there, waits for `ready`, checks, takes a picture."""
        for width_name, width in widths.items():
            for scheme in schemes:
                self.browser.show(width, 900, scheme)
                self.browser.go(daemon.url)
                self.browser.until(ready)
                where = f'{name}-{width_name}-{scheme}'
                self.browser.picture(os.path.join(PICTURES, f'{where}.png'))
                self.assertEqual(self.browser.value(LAYOUT), [], where)
                self.assertEqual(self.browser.value(CONTRAST), [], where)
                self.assertEqual(self.browser.complaints(), [], where)

    def text(self, selector):
        return self.browser.value(f'document.querySelector("{selector}").innerText')

    def test_a_node_at_work_is_drawn(self):
        with start(cpu_mib=16, nvme_mib=64, tenants=('chat', 'search')) as daemon:
            loads = [Load(daemon, tenant) for tenant in ('chat', 'search')]
            for load in loads:
                load.start()
            self.look(daemon, 'work', 'document.querySelectorAll("#share path, #moved path").length === 3 && '
                                      'samples.length >= 5')
            self.assertIn('Everything works.', self.text('#health'))
            self.assertRegex(self.text('#tiers'), r'of 32.0 MiB')
            self.assertNotIn('NaN', self.text('body'))
            self.assertNotIn('undefined', self.text('body'))
            for load in loads:
                load.stop()

    def test_a_node_that_nobody_uses_says_so(self):
        with start(nvme_mib=0) as daemon:
            self.look(daemon, 'empty', 'samples.length >= 1', schemes=('light',))
            self.assertIn('No engine is connected.', self.text('#health'))
            self.assertIn('no disks', self.text('#disks'))
            self.assertNotIn('NaN', self.text('body'))

    def test_gpus_are_drawn_where_there_are_any_and_what_they_lack_is_said(self):
        test_gpus.skip_unless_there()
        with start(nvme_mib=0) as daemon:
            self.look(daemon, 'no_gpus', 'samples.length >= 1', schemes=('light',))
            self.assertFalse(self.browser.value('document.getElementById("gpus-part").checkVisibility()'))
        with start(prepare=test_gpus.machine_make, nvme_mib=0, gpus=f'"{test_gpus.GPU}, cuda:0000:99:00.0"',
                   gpu_library=test_gpus.LIBRARY) as daemon:
            self.look(daemon, 'gpus', 'document.querySelectorAll("#gpus tbody tr").length === 2 && '
                                      '/ready[^]*100/.test(document.getElementById("gpus").innerText)')
            self.assertIn('GPU cuda:0000:99:00.0 is not open: ', self.text('#health'))
            self.assertIn('Fake GPU 0', self.text('#gpus'))
            self.assertNotIn('NaN', self.text('body'))
            self.assertNotIn('undefined', self.text('body'))

    def test_sixteen_tenants_and_256_spaces_fit(self):
        tenants = [f'tenant-with-a-name-{i:02}' for i in range(16)]
        with start(cpu_mib=2, nvme_mib=64, tenants=tenants, spaces_max=512) as daemon:
            for tenant in tenants:
                for i in range(16):
                    with daemon.engine(f'{tenant}/engine-{i}', tenant, model=f'model-{i}', attach=False) as engine:
                        engine.lookup([node.hash_of(i)])
            self.look(daemon, 'many', 'document.querySelectorAll("#spaces tr").length > 250', schemes=('dark',))
            self.assertEqual(self.browser.value('document.querySelectorAll("#tenants tbody tr").length'), 16)

    def test_what_is_wrong_stands_first_in_words(self):
        with start('mill_took=hang', stall_max='1s') as daemon:
            self.look(daemon, 'wrong', 'document.querySelector("#health li.bad") !== null')
            self.assertRegex(self.text('#health li.bad'), r'not ready: mill \d does not answer')

    def test_a_daemon_that_goes_away_and_comes_back_is_said(self):
        with start() as daemon:
            self.browser.show(360, 900, 'dark')
            self.browser.go(daemon.url)
            self.browser.until('samples.length >= 1')
            daemon.settings['http_listen'] = f'127.0.0.1:{daemon.port}'
            daemon.configure()
            daemon.kill()
            self.browser.until('document.body.classList.contains("stale")')
            self.assertIn('has not answered since', self.text('#health'))
            self.browser.picture(os.path.join(PICTURES, 'away-phone-dark.png'))
            self.assertEqual(self.browser.value(LAYOUT), [])
            daemon.start()
            self.browser.until('!document.body.classList.contains("stale")')
            self.assertIn('Everything works.', self.text('#health'))

    def test_a_word_is_explained_when_it_is_touched(self):
        with start() as daemon:
            self.browser.show(360, 900, 'light')
            self.browser.go(daemon.url)
            self.browser.until('samples.length >= 1')
            self.browser.value('document.querySelector("#tiers button.term").click()')
            self.assertIn('A kind of memory', self.text('#hint'))
            self.assertEqual(self.browser.value(LAYOUT), [])
            missing = self.browser.value('[...document.querySelectorAll("button.term")].filter(one => !one.title).length')
            self.assertEqual(missing, 0)


if __name__ == '__main__':
    unittest.main()
