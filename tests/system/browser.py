"""A headless Chromium for tests of the page, spoken to over its debugging pipe: no port, no driver, no extra package."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import node

NAMES = ('chromium', 'chromium-headless-shell', 'chromium-browser', 'google-chrome')
WAIT_SECONDS = 30


def find():
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='browser')
        in_read, self.to = os.pipe()
        self.back, out_write = os.pipe()
        # It reads descriptor 3 and writes 4. Started as root, it works without its sandbox only.
        command = (f'exec {find()} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run '
                   f'--disable-extensions --disable-background-networking --hide-scrollbars --user-data-dir={self.folder} '
                   f'--remote-debugging-pipe 3<&{in_read} 4>&{out_write}')
        self.process = subprocess.Popen(['sh', '-c', command], pass_fds=(in_read, out_write), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        node.running.add(self.process)
        os.close(in_read)
        os.close(out_write)
        self.number, self.session, self.kept, self.events = 0, None, b'', []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def close(self):
        os.close(self.to)   # it ends when nobody speaks to it any more
        try:
            self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        node.running.discard(self.process)
        os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)

    def receive(self):
        while b'\0' not in self.kept:
            if not select.select([self.back], [], [], WAIT_SECONDS)[0]:
                raise AssertionError('the browser says nothing')
            part = os.read(self.back, 1 << 20)
            if not part:
                raise AssertionError('the browser has ended')
            self.kept += part
        message, self.kept = self.kept.split(b'\0', 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': parameters}
        if self.session:
            message['sessionId'] = self.session
        text = json.dumps(message).encode() + b'\0'
        while text:
            text = text[os.write(self.to, text):]
        while True:
            answer = self.receive()
            if answer.get('id') == self.number:
                assert 'error' not in answer, answer
                return answer['result']
            self.events.append(answer)

    def show(self, width, height, scheme):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])

    def go(self, url):
        for place in ('about:blank', url):   # what the page before still says is not this one's
            self.call('Page.navigate', url=place)
            self.until(f'location.href === {json.dumps(place)} && document.readyState === "complete"')
            if place != url:
                self.events.clear()

    def value(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def until(self, expression, seconds=WAIT_SECONDS):
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f'not within {seconds} s: {expression}'
            select.select([], [], [], 0.05)

    def complaints(self):
        """What stood in the console since go(), but for requests that found no daemon."""
        words = []
        for event in self.events:
            said = event.get('params', {})
            if event.get('method') == 'Runtime.exceptionThrown':
                words.append(said['exceptionDetails'].get('text', '') + str(said['exceptionDetails'].get('exception')))
            elif event.get('method') == 'Runtime.consoleAPICalled' and said['type'] in ('error', 'warning', 'assert'):
                words.append(str(said['args']))
            elif event.get('method') == 'Log.entryAdded' and said['entry']['level'] in ('error', 'warning'):
                words.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        return words

    def picture(self, path):
        height = self.value('document.documentElement.scrollHeight')
        width = self.value('innerWidth')
        data = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=True,
                         clip={'x': 0, 'y': 0, 'width': width, 'height': height, 'scale': 1})['data']
        with open(path, 'wb') as file:
            file.write(base64.b64decode(data))
