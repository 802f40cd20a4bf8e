"""worker.py PEER FOLDER BUILD: one peer in its own process; calls and answers are JSON lines."""
import importlib
import json
import os
import sys
import traceback

import peer

MODULES = {'kvtier': ('peer_kvtier', 'Kvtier'), 'nixl': ('peer_nixl', 'Nixl'),
           'kvtier_far': ('peer_far', 'KvtierFar'), 'kvtier_far_ucx': ('peer_far', 'KvtierFarUcx'),
           'nixl_far': ('peer_far', 'NixlFar'), 'plain_far': ('peer_far', 'Plain'),
           'mooncake': ('peer_mooncake', 'Mooncake'),
           'mooncake_own': ('peer_mooncake', 'MooncakeOwn'),
           'mooncake_tcp': ('peer_mooncake', 'MooncakeTcp'),
           'mooncake_part': ('peer_mooncake', 'MooncakePart'),
           'mooncake_own_checked': ('peer_mooncake', 'MooncakeOwnChecked'),
           'mooncake_checked': ('peer_mooncake', 'MooncakeChecked')}


def serve(subject, calls, answers):
    for line in calls:
        call = json.loads(line)
        try:
            answer = {'answer': getattr(subject, call['call'])(*call['arguments'])}
        except Exception as failure:   # whatever a peer's library raises is this peer's result
            traceback.print_exc()
            answer = {'failure': f'{type(failure).__name__}: {failure}'[:300]}
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


def main(name, folder, build):
    peer.die_with_parent()
    # Libraries write to the standard output as they like; the answers have a file of their own.
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    log = os.open(os.path.join(folder, 'worker.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    module, kind = MODULES[name]
    subject = getattr(importlib.import_module(module), kind)(folder, build)
    serve(subject, sys.stdin, answers)
    sys.stdout.flush()
    os._exit(0)   # libraries' destructors may wait for servers that are gone


if __name__ == '__main__':
    main(*sys.argv[1:4])
