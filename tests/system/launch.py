#!/usr/bin/env python3
"""launch.py WHAT... -- PROGRAM...: runs the program without something that a kernel offers.

io_uring_setup, io_uring_enter, io_uring_register   system calls that are refused (EPERM), as container runtimes do
landlock_create_ruleset                             the same
linux-5.0                                           whatever came later: calls (ENOSYS), flags (EINVAL)
enosys:CALL                                         one system call that this kernel does not know
huge_pages                                          no transparent huge pages
collapse                                            asking for MADV_COLLAPSE, which waits for all processors, ends it
"""
import ctypes
import os
import platform
import struct
import sys

# The same numbers on every architecture.
NUMBERS = {'io_uring_setup': 425, 'io_uring_enter': 426, 'io_uring_register': 427,
           'landlock_create_ruleset': 444, 'pidfd_open': 434, 'close_range': 436, 'openat2': 437, 'clone3': 435,
           'faccessat2': 439}
# (x86-64, arm64), where they differ; in that order.
OLDER = {'memfd_create': (319, 279), 'statx': (332, 291), 'renameat2': (316, 276), 'getrandom': (318, 278),
         'fallocate': (285, 47), 'madvise': (28, 233), 'fcntl': (72, 25), 'mlock2': (325, 284),
         'mbind': (237, 235), 'move_pages': (279, 239)}
NUMBERS_5_0 = 424   # where those of later kernels begin
MADV_POPULATE_WRITE, MADV_COLLAPSE, F_ADD_SEALS, F_SEAL_FUTURE_WRITE = 23, 25, 1033, 0x10
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_THP_DISABLE = 38, 22, 2, 41
LOAD, EQUAL, AT_LEAST, HAS_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE_EPERM, REFUSE_EINVAL, REFUSE_ENOSYS = 0x7fff0000, 0x00050001, 0x00050016, 0x00050026
KILL_PROCESS = 0x80000000
ARGUMENT_1, ARGUMENT_2 = 24, 32   # their lower halves


class Program(ctypes.Structure):
    _fields_ = [('count', ctypes.c_ushort), ('instructions', ctypes.c_char_p)]


def instruction(code, value, when_true=0, when_false=0):
    return struct.pack('=HBBI', code, when_true, when_false, value)


def number_of(call):
    return NUMBERS[call] if call in NUMBERS else OLDER[call][platform.machine() == 'aarch64']


def filter_set(libc, code):
    text = b''.join(code)
    program = Program(len(code), text)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
                                                                ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), 'seccomp')


def refuse(libc, calls, answer):
    code = [instruction(LOAD, 0)]
    for at, call in enumerate(calls):
        code.append(instruction(EQUAL, number_of(call), when_true=len(calls) - at))
    filter_set(libc, code + [instruction(RETURN, ALLOW), instruction(RETURN, answer)])


def refuse_arguments(libc, call, *tests, answer=REFUSE_EINVAL):
    """One call with these arguments: each test is (where an argument lies, how, value), and all must hold."""
    code = [instruction(LOAD, 0), instruction(EQUAL, number_of(call), when_false=2 * len(tests) + 1)]
    for at, (where, how, value) in enumerate(tests):
        code += [instruction(LOAD, where), instruction(how, value, when_false=2 * (len(tests) - at) - 1)]
    filter_set(libc, code + [instruction(RETURN, answer), instruction(RETURN, ALLOW)])


def be_linux_5_0(libc):
    """Calls and flags of later kernels are unknown. Filters add up: the strictest answer holds."""
    filter_set(libc, [instruction(LOAD, 0), instruction(AT_LEAST, NUMBERS_5_0, when_false=1),
                      instruction(RETURN, REFUSE_ENOSYS), instruction(RETURN, ALLOW)])
    refuse_arguments(libc, 'madvise', (ARGUMENT_2, EQUAL, MADV_POPULATE_WRITE))
    refuse_arguments(libc, 'madvise', (ARGUMENT_2, EQUAL, MADV_COLLAPSE))
    refuse_arguments(libc, 'fcntl', (ARGUMENT_1, EQUAL, F_ADD_SEALS), (ARGUMENT_2, HAS_BITS, F_SEAL_FUTURE_WRITE))


def main():
    split = sys.argv.index('--')
    what, program = sys.argv[1:split], sys.argv[split + 1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if 'huge_pages' in what and libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'PR_SET_THP_DISABLE')
    refuse(libc, [word for word in what if word in NUMBERS], REFUSE_EPERM)
    refuse(libc, [word.partition(':')[2] for word in what if word.startswith('enosys:')], REFUSE_ENOSYS)
    if 'collapse' in what:
        refuse_arguments(libc, 'madvise', (ARGUMENT_2, EQUAL, MADV_COLLAPSE), answer=KILL_PROCESS)
    if 'linux-5.0' in what:
        be_linux_5_0(libc)
    os.execvp(program[0], program)


main()
