#!/usr/bin/env python3
"""The GPU suite: kvtierd, its GPU's process and engines that are processes of their own, on a GPU of this machine.

    make gpu-suite                             builds, and runs it; results in build/gpu-suite.json
    tests/gpu/suite.py --build build/release   a build that is there already; nothing is installed or fetched
    tests/gpu/suite.py --only bytes,restart
    tests/gpu/suite.py --driver fake           the tests' own driver in place of a GPU; no figure of it means anything
    tests/gpu/suite.py --list

Each check is a process of its own with a time limit. One whose means are not on this machine (torch, nvidia-smi,
namespaces) is skipped, and says why. Exit status: 0 nothing failed; 1 something did; 77 there is no GPU.
"""
import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
SECONDS_MAX = 540
FAKE = 'tests/gpu/fake_driver.so'
NO_GPU = 77


def arguments_read():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument('--build', default=os.path.join(TOP, 'build'),
                        help='folder of kvtierd, kvtier, kvtier-bench and libkvtier.so (default: build)')
    parser.add_argument('--driver', default='', metavar='FILE',
                        help='the GPU driver\'s library (default: the vendor\'s); fake: the tests\' own')
    parser.add_argument('--only', default='', metavar='NAMES', help='checks, with commas between them')
    parser.add_argument('--json', default='', metavar='FILE', help='write the results there')
    parser.add_argument('--seconds', type=int, default=SECONDS_MAX,
                        help=f'for all checks together (default {SECONDS_MAX}); what does not fit is skipped')
    parser.add_argument('--list', action='store_true', help='the checks, and what each shows')
    parser.add_argument('--one', default='', help=argparse.SUPPRESS)        # the process of one check,
    parser.add_argument('--answer', default='', help=argparse.SUPPRESS)     # and where it writes what came of it
    return parser.parse_args()


def checks_load():
    """After KVTIER_BUILD is set, which they read."""
    import suite_checks   # pylint: disable=import-outside-toplevel
    import suite_torch    # pylint: disable=import-outside-toplevel
    checks = suite_checks.CHECKS | suite_torch.CHECKS
    long = ('bench', 'sanitizer')   # last, as they take what time is left
    return {name: checks[name] for name in [*(name for name in checks if name not in long), *long]}


def one_run(arguments, library):
    """In the check's own process: writes what came of it."""
    import suite_device   # pylint: disable=import-outside-toplevel
    import suite_scene    # pylint: disable=import-outside-toplevel
    check, _ = checks_load()[arguments.one]
    try:
        with suite_scene.Scene(library, arguments.driver == 'fake') as scene:
            answer = {'result': 'ok', 'figures': check(scene)}
    except suite_device.Missing as missing:
        answer = {'result': 'skipped', 'why': str(missing)}
    except Exception as error:   # pylint: disable=broad-exception-caught
        traceback.print_exc()
        answer = {'result': 'failed', 'why': str(error) or type(error).__name__}
    with open(arguments.answer, 'w', encoding='utf-8') as file:
        json.dump(answer, file)


def one_wait(command, seconds, answer):
    """Its process group is gone after this."""
    environment = dict(os.environ)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                                   start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        output.seek(0)
        text = output.read().decode(errors='replace')
    try:
        with open(answer, encoding='utf-8') as file:
            return json.load(file), text
    except (OSError, ValueError):
        why = f'not done after {seconds:.0f} s' if status is None else f'its process ended with {status}'
        return {'result': 'failed', 'why': why}, text


def figures_text(figures):
    return ', '.join(f'{name} {value:.3g}' if isinstance(value, float) else f'{name} {value}'
                     for name, value in figures.items() if not isinstance(value, (dict, list)))


def all_run(arguments, names, checks):
    """Name by name; the results."""
    results, end = {}, time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory(prefix='kvtier-gpu-') as folder:
        os.environ['TMPDIR'] = folder
        for name in names:
            left = end - time.monotonic()
            started = time.monotonic()
            if left < 5:
                result, text = {'result': 'skipped', 'why': f'no time is left of {arguments.seconds} s'}, ''
            else:
                answer = os.path.join(folder, f'{name}.json')
                result, text = one_wait([sys.executable, os.path.abspath(__file__), '--one', name, '--answer', answer,
                                         '--build', arguments.build, '--driver', arguments.driver],
                                        min(left, checks[name][1]), answer)
            result['seconds'] = round(time.monotonic() - started, 1)
            results[name] = result
            print(f"{name:16} {result['result']:8} {result['seconds']:6.1f} s  "
                  f"{result.get('why', '').splitlines()[0][:300] if result.get('why') else ''}"
                  f"{figures_text(result.get('figures', {}))}", flush=True)
            if result['result'] == 'failed':
                print(text[-6000:], flush=True)
    return results


def commit():
    """Of the checkout, or as a bundle was made from it; None: not known."""
    try:
        with open(os.path.join(TOP, 'commit'), encoding='ascii') as file:
            return file.read().strip()
    except FileNotFoundError:
        said = subprocess.run(['git', '-C', TOP, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
        return said.stdout.strip() or None


def facts(library):
    """Of the machine and the build, for the JSON."""
    import suite_device   # pylint: disable=import-outside-toplevel
    found = {'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
             'devices': suite_device.devices(library), 'driver': suite_device.driver_version(library),
             'kernel': os.uname().release, 'python': sys.version.split()[0]}
    for name in ('torch', 'transformers'):
        try:
            found[name] = __import__(name).__version__
        except ImportError:
            found[name] = None
    version = subprocess.run([os.path.join(os.environ['KVTIER_BUILD'], 'kvtierd'), '--version'], capture_output=True,
                             text=True, check=False)
    return found | {'commit': commit(), 'kvtierd': version.stdout.strip()}


def main():
    arguments = arguments_read()
    arguments.build = os.path.abspath(arguments.build)
    os.environ['KVTIER_BUILD'] = arguments.build
    library = os.path.join(arguments.build, FAKE) if arguments.driver == 'fake' else arguments.driver
    sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'system')]
    checks = checks_load()
    if arguments.list:
        for name, (check, seconds) in checks.items():
            print(f'{name:16} {" ".join(check.__doc__.split())} (at most {seconds} s)')
        return 0
    if arguments.one:
        one_run(arguments, library)
        return 0
    names = arguments.only.split(',') if arguments.only else list(checks)
    unknown = sorted(set(names) - set(checks))
    if unknown:
        print(f'--only: no check {", ".join(unknown)}; there are {", ".join(checks)}', file=sys.stderr)
        return 2
    if not os.access(os.path.join(arguments.build, 'kvtierd'), os.X_OK):
        print(f'--build: no kvtierd in {arguments.build}; make, or name a folder that has one', file=sys.stderr)
        return 2
    import suite_device   # pylint: disable=import-outside-toplevel
    try:
        # Asked of a process that ends, as a driver that was opened here would have a context beside those of the checks.
        if arguments.driver != 'fake':
            suite_device.devices(library)
    except suite_device.Missing as missing:
        print(f'SKIPPED  the GPU suite: {missing}')
        return NO_GPU
    results = all_run(arguments, names, checks)
    counts = {word: sum(one['result'] == word for one in results.values()) for word in ('ok', 'failed', 'skipped')}
    print(f"{counts['ok']} ok, {counts['failed']} failed, {counts['skipped']} skipped")
    if arguments.json:
        of_machine = facts(library) if arguments.driver != 'fake' else {'driver': 'fake'}
        with open(arguments.json, 'w', encoding='utf-8') as file:
            json.dump(of_machine | {'checks': results}, file, indent=1)
            file.write('\n')
    return 1 if counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
