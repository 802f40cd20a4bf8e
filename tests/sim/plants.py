#!/usr/bin/env python3
"""Shows that the simulator finds each planted bug: tests/sim/plants.py BUILD [NAME...]

A plant is one wrong line at its real place, compiled only with KVTIER_PLANT_<NAME>; `make SMALL=1 BUILD=... plants`
builds a simulator with each. The last line says how many seeds each took.
"""
import os
import re
import subprocess
import sys

SEEDS_MAX = 2000
SECONDS_MAX = 300
JOBS = min(os.cpu_count() or 1, 8)


def seeds_needed(program):
    """(how many seeds, what was seen), or (None, the output) when it was not found."""
    try:
        process = subprocess.run([program, '--count', str(SEEDS_MAX), '--jobs', str(JOBS), '--no-shrink'],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return None, f'not done after {SECONDS_MAX} s'
    output = process.stdout.decode('utf-8', 'replace')
    failed = re.search(r'^sim: seed (\d+) failed', output, re.M)
    if process.returncode == 0 or not failed:
        return None, output
    return int(failed.group(1)), output.splitlines()[0]


def main():
    build, names = sys.argv[1], sys.argv[2:]
    programs = {name.removeprefix('sim-'): os.path.join(build, 'plants', name)
                for name in sorted(os.listdir(os.path.join(build, 'plants'))) if re.fullmatch(r'sim-[a-z_]+', name)}
    needed = {}
    for name in names or programs:
        seeds, seen = seeds_needed(programs[name])
        print(f'{name}: {f"found by seed {seeds}: " if seeds else f"NOT FOUND in {SEEDS_MAX} seeds: "}{seen}')
        needed[name] = seeds
    missed = [name for name, seeds in needed.items() if not seeds]
    print('plants: ' + ', '.join(f'{name} {seeds or "not found"}' for name, seeds in needed.items()))
    return 1 if missed or not needed else 0


if __name__ == '__main__':
    sys.exit(main())
