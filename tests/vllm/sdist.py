"""Fetches a source distribution through pip's own finder and session, without looking into it.

    PYTHON sdist.py PROJECT VERSION FOLDER     PYTHON: one whose pip is what environment.py pins

`pip download` runs the build of what it downloads, to learn its requirements, and vLLM's needs
torch and a compiler. pip's modules are not a promised interface: hence the pinned pip.
"""
from __future__ import annotations

import os
import sys

from pip._internal.commands import create_command
from pip._internal.network.download import Downloader
from pip._vendor.packaging.specifiers import SpecifierSet


def fetch(project: str, version: str, folder: str) -> str:
    """Returns the path of the archive; its hash is what the index says, or ValueError."""
    command = create_command('download')
    options, _ = command.parse_args(['--no-binary', project, '--no-deps', project])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        best = finder.find_best_candidate(project, SpecifierSet(f'=={version}')).best_candidate
        if best is None:
            raise LookupError(f'no sdist of {project} {version} (from versions: none)')
        path, _ = Downloader(session, 'off')(best.link, folder)
        hashes = best.link.as_hashes()
        if hashes:
            hashes.check_against_path(path)
    return path


if __name__ == '__main__':
    print(os.path.abspath(fetch(sys.argv[1], sys.argv[2], sys.argv[3])))
