"""The service manager that a daemon tells how it is (sd_notify): a socket, and what the environment says of it."""
import os
import select
import socket

WAIT_SECONDS = 10


class Manager:
    """The service manager's end of sd_notify."""

    def __init__(self, folder, watchdog_us=None):
        self.path = os.path.join(folder, 'notify')
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(WAIT_SECONDS)
        os.environ['NOTIFY_SOCKET'] = self.path
        if watchdog_us:
            os.environ['WATCHDOG_USEC'] = str(watchdog_us)

    def close(self):
        os.environ.pop('NOTIFY_SOCKET', None)
        os.environ.pop('WATCHDOG_USEC', None)
        self.socket.close()

    def next(self):
        return self.socket.recv(4096).decode()

    def wait(self, words):
        """The next message that begins with `words`."""
        while True:
            message = self.next()
            if message.startswith(words):
                return message

    def is_silent(self, seconds):
        """Whether nothing comes for so long."""
        return not select.select([self.socket], [], [], seconds)[0]
