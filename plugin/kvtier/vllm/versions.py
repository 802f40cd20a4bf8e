"""The weights version of an engine: part of what makes blocks interchangeable."""
from __future__ import annotations

import uuid

from vllm.logger import init_logger

from kvtier.settings import Settings

logger = init_logger('vllm.kvtier')


class WeightsVersion:
    """`text` is registered; `generation` counts how often the weights were changed in place."""

    def __init__(self, settings: Settings):
        self._path = settings.weights_version_file
        self._file_text = self._read()
        self.text = self._file_text or settings.weights_version
        self.generation = 0

    def _read(self) -> str:
        if not self._path:
            return ''
        try:
            with open(self._path, encoding='utf-8') as file:
                return file.read(512).strip()
        except OSError as error:
            logger.warning('kvtier: weights_version_file cannot be read: %s; a random version is '
                           'taken at each reset', error)
            return ''

    def renew(self) -> None:
        """After a change in place: the user's next version, else one that nobody else has."""
        text = self._read()
        self.text = text if text and text != self._file_text else uuid.uuid4().hex
        self._file_text = text
        self.generation += 1
