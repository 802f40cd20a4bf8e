#!/usr/bin/env python3
"""describe.py FILE: writes the plugin's tables into FILE, between <!-- table NAME --> and
<!-- end -->. With --check it only says whether they are true, by its exit status."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from kvtier import settings, tables  # noqa: E402

MAKERS = {'settings': settings.markdown, 'metrics': tables.metrics_markdown,
          'versions': tables.versions_markdown, 'controls': tables.controls_markdown}
PLACE = re.compile(r'(<!-- table (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def described(text: str) -> str:
    """The text with every table as the code has it."""
    return PLACE.sub(lambda found: found[1] + MAKERS[found[2]]() + found[3], text)


def main() -> int:
    path = sys.argv[-1]
    with open(path, encoding='utf-8') as file:
        text = file.read()
    missing = [name for name in MAKERS if f'<!-- table {name} -->' not in text]
    if missing:
        print(f'{path}: no place for the table {missing[0]}', file=sys.stderr)
        return 1
    if '--check' in sys.argv:
        if described(text) != text:
            print(f'{path}: its tables are not those of the code; run make docs', file=sys.stderr)
            return 1
        return 0
    with open(path, 'w', encoding='utf-8') as file:
        file.write(described(text))
    return 0


if __name__ == '__main__':
    sys.exit(main())
