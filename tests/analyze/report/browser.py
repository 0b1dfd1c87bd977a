"""A headless Chromium, spoken to through a pipe: what a page logs, asks for, and looks like."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 60.0


def installed():
    """The program, or a skipped test."""
    found = [there for name in _NAMES if (there := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found[0]


class Browser:
    """One page of one browser. ``log`` holds console messages and errors, ``asked`` every address that was requested."""

    def __init__(self, program):
        self.folder = tempfile.mkdtemp()
        self.log, self.asked, self.answers, self.count, self.rest = [], [], {}, 0, b""
        read_there, self.write = os.pipe()
        self.read, write_there = os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={self.folder}"]
        words += ["--no-first-run", "--hide-scrollbars", "--disable-dev-shm-usage", "about:blank"]

        def places():
            # The browser reads commands from 3 and writes answers to 4.
            a, b = os.dup(read_there), os.dup(write_there)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, *words], preexec_fn=places, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_there)
        os.close(write_there)
        target = self.call("Target.createTarget", {"url": "about:blank"}, plain=True)["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True}, plain=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, given=None, plain=False):
        """The answer to a command of the DevTools protocol."""
        self.count += 1
        number = self.count
        message = {"id": number, "method": method, "params": given or {}}
        if not plain:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while number not in self.answers:
            self.listen()
        answer = self.answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def listen(self):
        """Takes in what has come."""
        while b"\0" not in self.rest:
            got = os.read(self.read, 1 << 20)
            assert got, "the browser is gone"
            self.rest += got
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        if "id" in message:
            self.answers[message["id"]] = message
            return
        given = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.log.append(" ".join(str(a.get("value", a.get("description"))) for a in given["args"]))
            case "Runtime.exceptionThrown":
                self.log.append(json.dumps(given["exceptionDetails"]))
            case "Log.entryAdded":
                self.log.append(given["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(given["request"]["url"])
            case "Page.javascriptDialogOpening":
                self.log.append(f"dialog: {given['message']}")

    def evaluate(self, expression):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def size(self, width, height=900, phone=False):
        """Sets the size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone})

    def open(self, file, ready="true"):
        """Opens a file and waits until an expression is true."""
        self.log.clear()
        self.asked.clear()
        self.call("Page.navigate", {"url": Path(file).as_uri()})
        self.until(f"location.protocol === 'file:' && document.readyState === 'complete' && {ready}")

    def until(self, ready):
        """Waits until an expression is true."""
        end = time.monotonic() + _PATIENCE
        while not self.evaluate(f"Boolean({ready})"):
            assert time.monotonic() < end, f"{ready} did not come true; {self.log}"
            time.sleep(0.05)

    def picture(self, file, whole=False):
        """A screenshot of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        Path(file).write_bytes(base64.b64decode(found["data"]))

    def close(self):
        """Ends the browser."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.write)
        os.close(self.read)
        shutil.rmtree(self.folder, ignore_errors=True)
