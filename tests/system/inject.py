"""System calls made inside another process, from outside it: what a thread that was taken over could still do.

Linux on x86-64, as root: the thread is stopped by ptrace, made to execute one `syscall` instruction with registers of our
choice, and put back where it was.
"""
import ctypes
import os
import platform
import signal

PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_SINGLESTEP = 12, 13, 9
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
REGISTERS = ('r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base '
             'ds es fs gs').split()
ARGUMENTS = ('rdi', 'rsi', 'rdx', 'r10', 'r8', 'r9')
SYSCALL = b'\x0f\x05'
NUMBERS = {'open': 2, 'socket': 41, 'execve': 59, 'ptrace': 101, 'io_uring_setup': 425, 'mount': 165, 'bpf': 321,
           'kill': 62, 'getpid': 39, 'process_vm_readv': 310, 'init_module': 175, 'unshare': 272, 'close': 3,
           'connect': 42, 'setuid': 105, 'chroot': 161, 'mknodat': 259, 'symlinkat': 266, 'mkdir': 83, 'unlink': 87}
BELOW_RED_ZONE = 4096

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]


def cannot():
    """Why this machine cannot do it, or None."""
    if platform.machine() != 'x86_64':
        return f'calls are injected on x86-64 only, this is {platform.machine()}'
    if os.geteuid() != 0:
        return 'calls are injected by root only'
    return None


def ptrace(request, pid, data=0):
    if libc.ptrace(request, pid, 0, ctypes.cast(data, ctypes.c_void_p)) < 0:
        raise OSError(ctypes.get_errno(), f'ptrace {request}')


def wait_stop(pid):
    _, status = os.waitpid(pid, 0x40000000)   # __WALL
    if not os.WIFSTOPPED(status):
        raise AssertionError(f'process {pid} ended: {status:#x}')


class Stopped:
    """A thread that stands still; its registers and stack are as before when the context ends."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        ptrace(PTRACE_SEIZE, self.pid)
        ptrace(PTRACE_INTERRUPT, self.pid)
        wait_stop(self.pid)
        self.memory = open(f'/proc/{self.pid}/mem', 'r+b', buffering=0)
        self.before = Registers()
        ptrace(PTRACE_GETREGS, self.pid, ctypes.byref(self.before))
        self.instruction = self.before.rip - len(SYSCALL)
        if self.peek(self.instruction, len(SYSCALL)) != SYSCALL:
            self.__exit__()
            raise AssertionError('the thread does not wait in a system call')
        return self

    def __exit__(self, *unused):
        ptrace(PTRACE_SETREGS, self.pid, ctypes.byref(self.before))
        self.memory.close()
        ptrace(PTRACE_DETACH, self.pid)

    def peek(self, address, size):
        self.memory.seek(address)
        return self.memory.read(size)

    def call(self, name, *arguments):
        """What the kernel answers: a number, negative as -errno. Bytes are put on the stack, as a path."""
        registers = Registers.from_buffer_copy(self.before)
        place = self.before.rsp - BELOW_RED_ZONE
        for register, argument in zip(ARGUMENTS, arguments):
            if isinstance(argument, bytes):
                place -= len(argument) + 16
                self.memory.seek(place)
                self.memory.write(argument + b'\0')
                argument = place
            setattr(registers, register, argument & (1 << 64) - 1)
        registers.rax = NUMBERS[name]
        registers.orig_rax = (1 << 64) - 1        # no restart of what was interrupted
        registers.rip = self.instruction
        ptrace(PTRACE_SETREGS, self.pid, ctypes.byref(registers))
        ptrace(PTRACE_SINGLESTEP, self.pid)
        while True:
            _, status = os.waitpid(self.pid, 0x40000000)
            if not os.WIFSTOPPED(status):
                raise AssertionError(f'process {self.pid} ended in {name}: {status:#x}')
            if os.WSTOPSIG(status) == signal.SIGTRAP:
                break
            ptrace(PTRACE_SINGLESTEP, self.pid)
        ptrace(PTRACE_GETREGS, self.pid, ctypes.byref(registers))
        return ctypes.c_longlong(registers.rax).value
