#!/usr/bin/env python3
"""launch.py WHAT... -- PROGRAM...: runs the program without something that a kernel offers.

io_uring_setup, io_uring_enter, io_uring_register   system calls that are refused (EPERM), as container runtimes do
landlock_create_ruleset                             the same
huge_pages                                          no transparent huge pages
"""
import ctypes
import os
import struct
import sys

# The same numbers on every architecture.
NUMBERS = {'io_uring_setup': 425, 'io_uring_enter': 426, 'io_uring_register': 427,
           'landlock_create_ruleset': 444}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_THP_DISABLE = 38, 22, 2, 41
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE_EPERM = 0x7fff0000, 0x00050001


class Program(ctypes.Structure):
    _fields_ = [('count', ctypes.c_ushort), ('instructions', ctypes.c_char_p)]


def instruction(code, value, when_true=0, when_false=0):
    return struct.pack('=HBBI', code, when_true, when_false, value)


def refuse(libc, calls):
    code = [instruction(LOAD, 0)]
    for at, call in enumerate(calls):
        code.append(instruction(EQUAL, NUMBERS[call], when_true=len(calls) - at))
    code += [instruction(RETURN, ALLOW), instruction(RETURN, REFUSE_EPERM)]
    text = b''.join(code)
    program = Program(len(code), text)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
                                                                ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), 'seccomp')


def main():
    split = sys.argv.index('--')
    what, program = sys.argv[1:split], sys.argv[split + 1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if 'huge_pages' in what and libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'PR_SET_THP_DISABLE')
    refuse(libc, [word for word in what if word in NUMBERS])
    os.execvp(program[0], program)


main()
