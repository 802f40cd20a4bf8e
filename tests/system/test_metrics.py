"""What a scraper reads from a real daemon: Prometheus' text format, held against promtool, and OpenMetrics."""
import os
import re
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node     # noqa: E402

TOOLS = os.path.join(node.TOP, 'build/tools')   # of .ci/deps
OPEN = 'application/openmetrics-text'
# What Prometheus 2 asks for, and what it asks for with the other format first.
SCRAPER = f'{OPEN};version=1.0.0,{OPEN};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1'
OLD_FIRST = f'text/plain;version=0.0.4,{OPEN};q=0.5'
SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$')
SUFFIXES = {'counter': ['_total'], 'gauge': [''], 'info': ['_info'], 'histogram': ['_bucket', '_sum', '_count']}


def check_openmetrics(case, text):
    """The grammar that we use: families in one piece, names by their kind, units last, no sample twice."""
    case.assertTrue(text.endswith('\n# EOF\n'))
    family, kind, unit, seen, families = None, None, None, set(), set()
    for line in text.splitlines()[:-1]:
        if line.startswith('# '):
            word, name, rest = line[2:].split(' ', 2)
            if word == 'HELP':
                case.assertNotIn(name, families)
                families.add(name)
                family, kind, unit = name, None, None
            elif word == 'TYPE':
                kind = rest
            else:
                case.assertEqual(word, 'UNIT')
                unit = rest
                case.assertTrue(family.endswith('_' + unit), line)
            case.assertEqual(name, family)
            continue
        match = SAMPLE.match(line)
        case.assertIsNotNone(match, line)
        name, labels, value = match.groups()
        float(value)
        case.assertIn(name.removeprefix(family), SUFFIXES[kind], line)
        case.assertNotIn((name, labels), seen, line)
        seen.add((name, labels))
        if name.endswith('_bucket'):
            bound = re.search(r'le="([^"]+)"', labels).group(1)
            case.assertTrue(bound == '+Inf' or '.' in bound or 'e' in bound, line)
    case.assertGreater(len(families), 30)


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = node.Node(tenants=('a', 'b'))
        cls.daemon.start()
        with cls.daemon.engine(tenant='a') as engine:
            names = [node.hash_of('metrics', i) for i in range(8)]
            engine.store(names, [node.payload_of(name, 4096) for name in names])
            engine.load(names)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__()

    def test_promtool_has_nothing_to_say_about_names_and_units(self):
        promtool = shutil.which('promtool', path=f'{os.environ["PATH"]}:{TOOLS}')
        if promtool is None:
            self.skipTest('no promtool here: .ci/deps test')
        text = self.daemon.http('/metrics')[1]
        done = subprocess.run([promtool, 'check', 'metrics'], input=text, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ''))

    def test_a_scraper_that_would_rather_have_openmetrics_gets_it(self):
        text = self.daemon.http('/metrics', accept=SCRAPER)[1]
        check_openmetrics(self, text)
        self.assertRegex(text, r'\nkvtier_build_info\{version="[^"]+"')

    def test_who_asks_for_nothing_or_for_the_text_format_gets_that(self):
        for accept in (None, '*/*', OLD_FIRST):
            self.assertNotIn('# EOF', self.daemon.http('/metrics', accept=accept)[1])


if __name__ == '__main__':
    unittest.main()
