"""Why: the one parent of every server that `with` starts, so that none can outlive it. Never knows what a server is: recipes (files of this folder) do.

A recipe NAME is called as `NAME install` and `NAME prepare RUN`. The second writes, for each process, a folder RUN/UNIT with
  start   an executable that becomes the server (exec)
  ready   one line: `http URL` (any answer), `http200 URL`, or `log TEXT` (in the server's own log, of this start)
and for the service as a whole
  RUN/NAME.units   its processes, one a line, in the order of their start
  RUN/NAME.env     KEY=VALUE lines for the command
  RUN/NAME.after   optional: an executable that is run once when all its processes are ready
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
READY_SECONDS_MAX = 120
STOP_SECONDS_MAX = 15
COMMAND_STOP_SECONDS_MAX = 15
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Loopback only, and test certificates: readiness is not the place to check them.
ANY_CERTIFICATE = ssl._create_unverified_context()
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ANY_CERTIFICATE))
LINUX = sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True)


class Fault(Exception):
    """Something that ends the run before or beside the command; its text is for a person."""


def say(text):
    print(f"    {text}", file=sys.stderr, flush=True)


def die_with_parent():
    """Between fork and exec: even a `with` that is killed -9 leaves no server behind."""
    if LINUX:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def without_settings(environment):
    """The server under test takes every DATASINK_* for a setting."""
    return {name: value for name, value in environment.items() if not name.startswith("DATASINK_")}


class Unit:
    """One server process after another, on the same port and data."""

    def __init__(self, run, name):
        self.run, self.name, self.folder = run, name, run / name
        self.log_path = run / f"{name}.log"
        self.process = None
        self.lock = asyncio.Lock()

    @property
    def pid(self):
        return self.process.pid if self.process and self.process.returncode is None else 0

    async def start(self):
        if self.pid:
            raise Fault(f"{self.name} runs already, as process {self.pid}")
        home = self.run / "home"
        home.mkdir(exist_ok=True)
        log_begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        # Its HOME is empty, so that no server finds a developer's own files; a group of its own, so that Ctrl-C stops the command first.
        with open(self.log_path, "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                self.folder / "start", stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env=dict(without_settings(os.environ), HOME=str(home)), start_new_session=True, preexec_fn=die_with_parent)
        (self.run / f"{self.name}.pid").write_text(f"{self.process.pid}\n")
        await self._ready(log_begin)

    async def _ready(self, log_begin):
        kind, _, what = (self.folder / "ready").read_text().strip().partition(" ")
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not await asyncio.to_thread(self._is_ready, kind, what, log_begin):
            if self.process.returncode is not None:
                raise Fault(f"{self.name} ended with {self.process.returncode} before it was ready; the end of {self.log_path}:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise Fault(f"{self.name} was not ready within {READY_SECONDS_MAX} s; the end of {self.log_path}:\n{self._log_tail()}")
            await asyncio.sleep(0.05)

    def _is_ready(self, kind, what, log_begin):
        if kind == "log":
            with open(self.log_path, "rb") as log:
                log.seek(log_begin)
                return what.encode() in log.read()
        try:
            return DIRECT.open(what, timeout=2).status == 200
        except urllib.error.HTTPError:
            return kind == "http"
        except OSError:
            return False

    def _log_tail(self, bytes_max=3000):
        return self.log_path.read_bytes()[-bytes_max:].decode(errors="replace")

    def send(self, number):
        """Returns whether there was a process to send it to."""
        if not self.pid:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    async def end(self, number, seconds_max=STOP_SECONDS_MAX):
        """Gone when it returns. A paused process takes no SIGTERM, so it is woken first."""
        if self.send(number):
            self.send(signal.SIGCONT)
            try:
                await asyncio.wait_for(self.process.wait(), seconds_max)
            except asyncio.TimeoutError:
                self.send(signal.SIGKILL)
                await self.process.wait()

    async def do(self, verb):
        async with self.lock:
            if verb in ("kill", "restart"):
                await self.end(signal.SIGKILL)
            elif verb == "stop":
                await self.end(signal.SIGTERM)
            if verb in ("start", "restart"):
                await self.start()
            elif verb in ("pause", "resume") and not self.send(signal.SIGSTOP if verb == "pause" else signal.SIGCONT):
                raise Fault(f"{self.name} does not run")
            return self.pid


class Run:
    """One `with`: its folder, its servers, its command."""

    def __init__(self, folder, services, command):
        self.folder, self.services, self.command = folder, services, command
        self.units, self.environment, self.process = {}, {}, None
        # With a terminal the command stays in our group, or it could not read from it.
        self.own_group = not sys.stdin.isatty()

    async def recipe(self, name, *words):
        process = await asyncio.create_subprocess_exec(*words, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True, preexec_fn=die_with_parent,
                                                       env=dict(os.environ, DATASINK_CACHE=os.environ["DATASINK_CACHE"], RUN=str(self.folder)))
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        if status != 0:
            raise Fault(f"{name}: `{' '.join(Path(word).name for word in map(str, words))}` ended with {status}")

    async def service(self, name):
        file = HERE / name
        await self.recipe(name, file, "install")
        await self.recipe(name, file, "prepare", self.folder)
        for unit_name in (self.folder / f"{name}.units").read_text().split():
            unit = self.units[unit_name] = Unit(self.folder, unit_name)
            async with unit.lock:
                await unit.start()
        after = self.folder / f"{name}.after"
        if after.exists():
            await self.recipe(name, after)
        for line in (self.folder / f"{name}.env").read_text().splitlines():
            key, _, value = line.partition("=")
            self.environment[key] = value

    async def start(self):
        tasks = [asyncio.create_task(self.service(name)) for name in self.services]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.environment["SERVICES_DIR"] = str(self.folder)
        # For a second terminal: `. RUN/env`
        (self.folder / "env").write_text("".join(f"export {key}='{value}'\n" for key, value in sorted(self.environment.items())))

    async def answer(self, reader, writer):
        """One request of `ctl`."""
        try:
            asked = json.loads(await reader.readline())
            unit = self.units.get(asked["name"])
            if unit is None:
                raise Fault(f"there is no {asked['name']} here; there are: {' '.join(self.units)}")
            answer = {"pid": await unit.do(asked["verb"])}
        except (Fault, ValueError, KeyError) as fault:
            answer = {"error": str(fault)}
        try:
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # whoever asked is gone
        writer.close()

    async def run_command(self):
        environment = dict(without_settings(os.environ), GCE_METADATA_HOST="127.0.0.1:9", GCE_METADATA_IP="127.0.0.1", AWS_EC2_METADATA_DISABLED="true")
        environment.update(self.environment)
        server = await asyncio.start_unix_server(self.answer, self.folder / "control.sock")
        try:
            self.process = await asyncio.create_subprocess_exec(*self.command, env=environment, start_new_session=self.own_group, preexec_fn=die_with_parent)
        except OSError as fault:
            raise Fault(f"{self.command[0]}: {fault.strerror}") from fault
        status = await self.process.wait()
        server.close()
        return status if status >= 0 else 128 - status

    def signal_command(self, number):
        if self.process and self.process.returncode is None:
            (os.killpg if self.own_group else os.kill)(self.process.pid, number)

    async def stop(self):
        """The command first, so that it does not see its servers go."""
        if self.process and self.process.returncode is None:
            self.signal_command(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), COMMAND_STOP_SECONDS_MAX)
            except asyncio.TimeoutError:
                self.signal_command(signal.SIGKILL)
                await self.process.wait()
        await asyncio.gather(*(unit.end(signal.SIGTERM) for unit in self.units.values()))


def bury_the_rest():
    """Whatever the command or a recipe left behind became our child (subreaper): it is killed."""
    if not LINUX:
        return
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if not children:
            return
        for child in map(int, children):
            os.kill(child, signal.SIGKILL)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                return
        time.sleep(0.02)


async def supervise(run):
    """The exit status: the command's own, 128 + number for a signal to us, 69 if a server could not be had."""
    task = asyncio.current_task()
    caught = []

    def on_signal(number):
        # A Ctrl-C at a terminal reaches the command by itself, and it may live on.
        if number == signal.SIGINT and run.process and not run.own_group:
            return
        if not caught:
            caught.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    began = time.monotonic()
    try:
        await run.start()
        say(f"ready after {time.monotonic() - began:.1f} s: {' '.join(run.units)} (logs in {run.folder})")
        status = await run.run_command()
    except Fault as fault:
        say(f"with: {fault}")
        status = 127 if run.environment.get("SERVICES_DIR") else 69
    except asyncio.CancelledError:
        task.uncancel() if hasattr(task, "uncancel") else None
        status = 128 + caught[0]
    finally:
        await run.stop()
    return status


def tidy_up(folder, status):
    """Logs stay after a failure, data only when asked for."""
    if os.environ.get("SERVICES_KEEP"):
        say(f"kept: {folder}")
    elif status == 0:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        for data in folder.glob("*/data*"):
            shutil.rmtree(data, ignore_errors=True)
        say(f"ended with {status}; the servers' logs are in {folder}")


def main():
    words = sys.argv[1:]
    if "--" not in words or not words[: words.index("--")] or not words[words.index("--") + 1 :]:
        sys.exit("usage: with SERVICE... -- COMMAND...\nservices: " + " ".join(known()))
    services, command = list(dict.fromkeys(words[: words.index("--")])), words[words.index("--") + 1 :]
    unknown = [name for name in services if name not in known()]
    if unknown:
        sys.exit(f"no service {' '.join(unknown)}; there are: {' '.join(known())}")
    if LINUX:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix="datasink-services-"))
    status = 70
    try:
        status = asyncio.run(supervise(Run(folder, services, command)))
    finally:
        bury_the_rest()
        tidy_up(folder, status)
    sys.exit(status)


def known():
    """The recipes of this folder, by the second line of the file."""
    return sorted(file.name for file in HERE.iterdir() if file.is_file() and b"\n# A recipe: " in file.read_bytes()[:200])


if __name__ == "__main__":
    main()
