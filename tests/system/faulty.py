"""What a kernel offers to make things fail: loop disks, cgroups, limits, strace, a shifted clock, refused system calls.

Each thing is a context that takes back what it did, also when the test fails; where the kernel or the machine refuses
it, the test is skipped with the reason.
"""
import contextlib
import fcntl
import os
import shutil
import stat
import struct
import subprocess
import sys
import unittest

import node

COMMAND_SECONDS = 30
UNMOUNT_SECONDS = 15
# _IOR('X', 125, __u32) of linux/ext4.h, and its flag: nothing of the journal reaches the disk, as when power is cut.
EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587d, 2
CGROUPS = '/sys/fs/cgroup'
HERE = os.path.dirname(os.path.abspath(__file__))
LAUNCH = os.path.join(HERE, 'launch.py')


def need(program):
    path = shutil.which(program) or shutil.which(program, path='/usr/sbin:/sbin')
    if path is None:
        raise unittest.SkipTest(f'{program} is not installed')
    return path


def need_root():
    if os.geteuid() != 0:
        raise unittest.SkipTest('needs root')


def need_reach(*paths):
    """That somebody who owns nothing here gets to `paths`: every folder above them lets others pass."""
    need_root()
    for path in paths:
        above = os.path.dirname(os.path.abspath(path))
        while above != '/':
            if not os.stat(above).st_mode & stat.S_IXOTH:
                raise unittest.SkipTest(f'{above} lets nobody but its owner pass')
            above = os.path.dirname(above)


def command(*words):
    """Runs it; a refusal skips the test with what was said."""
    done = subprocess.run([need(words[0]), *words[1:]], capture_output=True, text=True, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise unittest.SkipTest(f'{" ".join(words)}: {done.stderr.strip() or done.returncode}')
    return done.stdout.strip()


class LoopDisk:
    """A file as a block device, with a file system on it where `kind` names one."""

    def __init__(self, folder, mib, kind='ext4', name='disk'):
        need_root()
        self.image = os.path.join(folder, f'{name}.image')
        self.mount_point = os.path.join(folder, f'{name}.mount')
        self.kind, self.mib = kind, mib
        self.device = None
        self.is_mounted = False

    def __enter__(self):
        with open(self.image, 'wb') as file:
            file.truncate(self.mib * node.MIB)
        try:
            self.device = command('losetup', '--find', '--show', self.image)
            if self.kind:
                command(f'mkfs.{self.kind}', '-q', self.device)
                os.mkdir(self.mount_point)
                self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        try:
            if self.is_mounted:
                self.unmount()
        finally:
            if self.device:
                subprocess.run(['losetup', '--detach', self.device], capture_output=True, check=False)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.image)

    def mount(self):
        command('mount', self.device, self.mount_point)
        self.is_mounted = True

    def unmount(self):
        """A killed daemon's ring and worker hold files for a moment longer."""
        def is_unmounted():
            return subprocess.run(['umount', self.mount_point], capture_output=True, check=False).returncode == 0
        try:
            node.until(is_unmounted, UNMOUNT_SECONDS, f'{self.mount_point} is unmounted')
        except AssertionError:
            subprocess.run(['umount', '--lazy', self.mount_point], capture_output=True, check=False)
            raise
        finally:
            self.is_mounted = False

    def remount(self, how):
        command('mount', '-o', f'remount,{how}', self.mount_point)

    def path(self, name):
        return os.path.join(self.mount_point, name)

    def number(self):
        status = os.stat(self.device)
        return f'{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}'

    def power_cut(self):
        """Nothing more reaches the disk, not even what the file system's journal still holds; all I/O is EIO."""
        folder = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack('I', NOLOGFLUSH))
        except OSError as error:
            raise unittest.SkipTest(f'EXT4_IOC_SHUTDOWN: {error.strerror}') from error
        finally:
            os.close(folder)

    def turn_read_only(self):
        """As a kernel does when it finds the file system damaged; writers get EROFS."""
        command('mount', '-o', 'remount,errors=remount-ro', self.mount_point)
        trigger = f'/sys/fs/ext4/{os.path.basename(self.device)}/trigger_fs_error'
        try:
            with open(trigger, 'w', encoding='ascii') as file:
                file.write('test')
        except OSError as error:
            raise unittest.SkipTest(f'{trigger}: {error.strerror}') from error

    def power_back(self):
        """After a cut: mounted anew, from what is on the disk."""
        self.unmount()
        self.mount()

    def cut_short(self, mib):
        """The device's end is gone: reads there are EIO."""
        os.truncate(self.image, mib * node.MIB)

    def cut_away(self):
        """All of it is gone, until give_back(): the bytes are kept."""
        shutil.copyfile(self.image, self.image + '.kept')
        os.truncate(self.image, 0)

    def give_back(self):
        if os.path.exists(self.image + '.kept'):
            with open(self.image + '.kept', 'rb') as kept, open(self.image, 'r+b') as file:
                shutil.copyfileobj(kept, file)
            os.unlink(self.image + '.kept')
        os.truncate(self.image, self.mib * node.MIB)

    def fill(self, leave_kib=0):
        """Takes all room, but for what is said."""
        path = self.path('ballast')
        with open(path, 'ab', buffering=0) as file:
            free = os.statvfs(self.mount_point).f_bavail * os.statvfs(self.mount_point).f_frsize
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.tell(), max(free - (leave_kib << 10), 1))
            with contextlib.suppress(OSError):
                while leave_kib == 0:
                    file.write(bytes(4096))

    def empty(self):
        os.unlink(self.path('ballast'))


class Cgroup:
    """A version 1 group of one controller; a child joins it by `wrapper`, before it is what it will be."""

    def __init__(self, controller):
        need_root()
        parent = os.path.join(CGROUPS, controller)
        if not os.path.exists(os.path.join(parent, 'cgroup.procs')) or os.path.exists(
                os.path.join(parent, 'cgroup.controllers')):
            raise unittest.SkipTest(f'no cgroup v1 controller {controller} at {parent}')
        self.path = os.path.join(parent, f'kvtier-test-{os.getpid()}')

    def __enter__(self):
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise unittest.SkipTest(f'{self.path}: {error.strerror}') from error
        return self

    def __exit__(self, *unused):
        node.until(self.is_empty, COMMAND_SECONDS, f'{self.path} is empty')
        os.rmdir(self.path)

    def is_empty(self):
        with open(os.path.join(self.path, 'cgroup.procs'), encoding='ascii') as file:
            return not file.read().strip()

    def set(self, name, value):
        try:
            with open(os.path.join(self.path, name), 'w', encoding='ascii') as file:
                file.write(str(value))
        except OSError as error:
            raise unittest.SkipTest(f'{name} = {value}: {error.strerror}') from error

    def get(self, name):
        with open(os.path.join(self.path, name), encoding='ascii') as file:
            return file.read()

    def add(self, pid):
        """A process with all threads that it has."""
        self.set('cgroup.procs', pid)

    def wrapper(self):
        return ['sh', '-c', f'echo $$ > {self.path}/cgroup.procs && exec "$@"', 'sh']


def limited(**limits):
    """A wrapper that lowers resource limits: limited(nofile=64). Bytes or counts."""
    return [need('prlimit')] + [f'--{name}={value}' for name, value in limits.items()]


class Strace:
    """Fails system calls of a running process, all its threads: Strace(pid, folder, 'fdatasync:error=EIO:when=3+')."""

    def __init__(self, pid, folder, *injections):
        self.pid = pid
        self.output = os.path.join(folder, 'strace.out')
        calls = ','.join(sorted({injection.split(':')[0] for injection in injections}))
        self.words = [need('strace'), '-f', '-qqq', '-o', self.output, '-p', str(pid), '-e', f'trace={calls}']
        for injection in injections:
            self.words += ['-e', f'inject={injection}']

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        node.running.add(self.process)
        node.until(self.is_attached, COMMAND_SECONDS, 'strace is attached')
        return self

    def is_attached(self):
        if self.process.poll() is not None:
            raise unittest.SkipTest(f'strace: {self.process.stderr.read().strip()[:200]}')
        tasks = f'/proc/{self.pid}/task'
        for task in os.listdir(tasks):
            with open(os.path.join(tasks, task, 'status'), encoding='ascii') as file:
                if f'TracerPid:\t{self.process.pid}\n' not in file.read():
                    return False
        return True

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.communicate()
        node.running.discard(self.process)

    def hits(self):
        with open(self.output, encoding='utf-8', errors='replace') as file:
            return sum('(INJECTED)' in line for line in file)


def without(*what):
    """A wrapper that takes something away from its child: see launch.py."""
    words = [sys.executable, LAUNCH, *what, '--']
    done = subprocess.run([*words, 'true'], capture_output=True, text=True, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise unittest.SkipTest(f'{" ".join(what)} cannot be taken away: {done.stderr.strip()[-200:]}')
    return words


class WallClock:
    """A wall clock that can jump while its programs run."""

    def __init__(self, folder):
        self.library = os.path.join(folder, 'clock.so')
        self.shift_path = os.path.join(folder, 'clock.shift')
        command('cc', '-D_GNU_SOURCE', '-shared', '-fPIC', '-o', self.library,
                os.path.join(HERE, 'clock_shift.c'), '-ldl')
        self.jump(0)

    def jump(self, seconds):
        descriptor = os.open(self.shift_path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(descriptor, struct.pack('=q', seconds), 0)
        os.close(descriptor)

    def wrapper(self):
        return ['env', f'LD_PRELOAD={self.library}', f'CLOCK_SHIFT={self.shift_path}']


def descriptors(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as file:
        return [int(child) for child in file.read().split()]


def assert_healthy(case, cache):
    """Nothing moves, nothing is held, and the daemon is the one that was started."""
    case.assertTrue(cache.is_alive(), cache.log())
    node.assert_settled(case, cache.wait_quiet())


def tmpfs(folder, mib):
    """A small tmpfs as a context; its path."""
    @contextlib.contextmanager
    def mounted():
        need_root()
        path = os.path.join(folder, 'tmpfs')
        os.makedirs(path, exist_ok=True)
        command('mount', '-t', 'tmpfs', '-o', f'size={mib}m', 'tmpfs', path)
        try:
            yield path
        finally:
            subprocess.run(['umount', '--lazy', path], capture_output=True, check=False)
    return mounted()

