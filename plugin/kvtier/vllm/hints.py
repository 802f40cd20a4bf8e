"""What an engine advises about blocks: sent to the daemon, and not missed when it is lost."""
from __future__ import annotations

from collections.abc import Iterator

from kvtier import library
from kvtier.vllm.requests import BlockNames, Controls, Tracked


def hints_at_end(controls: Controls) -> Iterator[tuple[int, int]]:
    """(hint, for how many microseconds) of a request that ends."""
    if controls.end_of_session:
        yield library.HINT_END, 0
    elif controls.retain_seconds:
        yield library.HINT_RETAIN, int(controls.retain_seconds * 1e6)


def send_hint(client: library.Client, names: BlockNames, tracked: Tracked, hint: int, tokens: int, *,
              space: int, retain_us: int, wait_us: int) -> None:
    """About the request's first `tokens` tokens, deepest blocks first."""
    for group, size in enumerate(names.tokens_per_block):
        end = min(tokens // size, names.known(tracked.request, group))
        while end > 0:
            first = max(0, end - library.HINT_KEYS_MAX)
            if client.hint(hint, group, names.hashes(tracked.request, group, first, end), wait_us,
                           space=space, retain_us=retain_us) < 0:
                return
            end = first
