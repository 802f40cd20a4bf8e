"""What the checks of tests/tidy share: the project's files, and how a complaint is printed."""
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def files(*endings):
    """Tracked files, and new ones that git does not ignore."""
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=TOP, check=True,
                            stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return sorted(path for path in set(listed) if path.endswith(endings) and os.path.isfile(os.path.join(TOP, path)))


def read(path):
    with open(os.path.join(TOP, path), encoding='utf-8') as file:
        return file.read()


def finish(complaints):
    for complaint in complaints:
        print(complaint)
    sys.exit(1 if complaints else 0)
